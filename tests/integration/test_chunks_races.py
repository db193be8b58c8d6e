"""Chunks that race each other, break off, or come while the session ends; each kind of store; flat memory."""

from __future__ import annotations

import itertools
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.client import Connection, Target
from benchmarks.measure import MIB, peak, reset_peak
from ingest_api.uploads import stream
from ingest_api.uploads.landing import PIECE
from pipeline.errors import LedgerUnavailable, StoreUnavailable
from pipeline.ledger.queries import Transaction
from pipeline.storage.local_writer import LocalWriter
from tests.integration.api_server import POLICY, Api, serving
from tests.integration.chunks import PATH, Chunks, cut
from tests.integration.test_api_uploads import problem
from tests.integration.test_tus_interrupted import deployed
from tests.integration.test_tus_stores import urls
from tests.integration.tus import assert_arrived, content_of
from tests.system import System, until

__all__ = ["deployed"]

BOUNDARY = b"----made-by-a-browser"


def head_of(api: Api, length: int) -> bytes:
    return (
        f"POST {PATH}/upload/chunk/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def form_of(session: str, index: int, content: bytes) -> bytes:
    fields = b"".join(
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (BOUNDARY, name, value)
        for name, value in ((b"sessionId", session.encode()), (b"chunkIndex", b"%d" % index))
    )
    file = b'--%b\r\nContent-Disposition: form-data; name="chunk"; filename="blob"\r\n\r\n' % BOUNDARY
    return fields + file + content + b"\r\n--%b--\r\n" % BOUNDARY


def test_many_at_once_in_any_order_each_twice(chunks: Chunks) -> None:
    content = content_of(2_000_003)
    pieces = list(enumerate(cut(content, 50_000)))
    session = chunks.begin(len(pieces), size=len(content))
    order = pieces * 2
    random.Random(3).shuffle(order)

    def send(one: tuple[int, bytes]) -> int:
        with chunks.api.make_client() as client:
            fields = {"sessionId": session, "chunkIndex": str(one[0])}
            return client.post(f"{PATH}/upload/chunk/", data=fields, files={"chunk": ("b", one[1])}).status_code

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(send, order)) == {200}
    assert len(chunks.pieces(session)) == len(pieces)
    assert chunks.row(session)[0].offset == len(content)
    assert chunks.complete(session).status_code == 200
    assert_arrived(session, content, chunks.api.services)
    assert chunks.swept() == []


def test_two_that_race_for_one_number_corrupt_nothing(chunks: Chunks) -> None:
    """Whichever is noted last counts, whole; the other leaves nothing."""
    bodies = [bytes([65 + n]) * (PIECE + n) for n in range(6)]
    session = chunks.begin(1)
    start = threading.Barrier(len(bodies))

    def send(body: bytes) -> int:
        start.wait()
        return chunks.send(session, 0, body).status_code

    with ThreadPoolExecutor(len(bodies)) as pool:
        assert set(pool.map(send, bodies)) == {200}
    [part] = chunks.row(session)[1]
    assert chunks.row(session)[0].offset == part.size
    assert len(chunks.pieces(session)) == 1
    assert chunks.complete(session).status_code == 200
    assert_arrived(session, bodies[part.size - PIECE], chunks.api.services)


def test_a_first_try_that_ends_after_its_retry_changes_nothing(chunks: Chunks) -> None:
    content = content_of(2 * PIECE + 5)
    session = chunks.begin(1)
    form = form_of(session, 0, content)
    with chunks.api.connect() as slow:
        slow.sendall(head_of(chunks.api, len(form)) + form[: PIECE + 100])
        chunks.sent(session, 0, content)
        before = chunks.pieces(session)
        slow.sendall(form[PIECE + 100 :])
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert chunks.pieces(session) == before
    assert chunks.complete(session).status_code == 200
    assert_arrived(session, content, chunks.api.services)


@pytest.mark.parametrize("how", ["before the end", "in the middle", "between the fields"])
def test_a_chunk_that_breaks_off_does_not_count(chunks: Chunks, how: str) -> None:
    content = content_of(3 * PIECE)
    session = chunks.begin(2)
    form = form_of(session, 0, content)
    at = {"before the end": len(form) - 3, "in the middle": 2 * PIECE, "between the fields": 150}[how]
    with chunks.api.connect() as sock:
        sock.sendall(head_of(chunks.api, len(form)) + form[:at])
        if how == "in the middle":
            until(lambda: len(chunks.api.leftovers()) > 0, "it is on its way into the store", 20)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1 << 16)
    until(lambda: chunks.api.leftovers() == [], "nothing is left of it", 20)
    assert chunks.pieces(session) == []
    assert chunks.row(session)[1] == []
    for index, piece in enumerate([content, b"end"]):
        chunks.sent(session, index, piece)
    assert chunks.complete(session).status_code == 200
    assert_arrived(session, content + b"end", chunks.api.services)


def test_a_silent_client_is_let_go(chunks: Chunks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.2)
    session = chunks.begin(1)
    form = form_of(session, 0, b"x" * 1000)
    with chunks.api.connect() as sock:
        sock.sendall(head_of(chunks.api, len(form)) + form[:700])
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
    assert chunks.row(session)[1] == []


@pytest.mark.parametrize("same", [False, True])
def test_a_session_that_ends_while_a_chunk_is_on_its_way(chunks: Chunks, same: bool) -> None:
    content = content_of(2 * PIECE)
    first = content if same else b"other"
    session = chunks.begin(1)
    chunks.sent(session, 0, first)
    form = form_of(session, 0, content)
    with chunks.api.connect() as slow:
        slow.sendall(head_of(chunks.api, len(form)) + form[: PIECE + 1000])
        until(lambda: chunks.api.leftovers() != [], "it is on its way into the store", 20)
        assert chunks.complete(session).status_code == 200
        slow.sendall(form[PIECE + 1000 :])
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 409 ")
    assert len(chunks.pieces(session)) == 1
    assert_arrived(session, first, chunks.api.services)
    assert chunks.swept() == []


@pytest.mark.parametrize("size", [None, 8 * PIECE - 10])
def test_two_that_fit_alone_and_not_together(chunks: Chunks, size: int | None) -> None:
    """Neither could know of the other when it began."""
    session = chunks.begin(2, size=size)
    forms = [form_of(session, index, content_of(5 * PIECE + index)) for index in range(2)]
    with chunks.api.connect() as one, chunks.api.connect() as two:
        for sock, form in ((one, forms[0]), (two, forms[1])):
            sock.sendall(head_of(chunks.api, len(form)) + form[: 2 * PIECE])
        until(lambda: len(chunks.api.leftovers()) == 2, "both are on their way into the store", 20)
        answers = []
        for sock, form in ((one, forms[0]), (two, forms[1])):
            sock.sendall(form[2 * PIECE :])
            answers.append(sock.recv(1 << 16).split(b" ")[1])
    assert answers == [b"200", b"413"]
    assert chunks.row(session)[0].offset == 5 * PIECE
    assert len(chunks.pieces(session)) == 1


def test_complete_and_a_last_chunk_at_once(chunks: Chunks) -> None:
    """What is joined is what was noted when the session was completed, whoever was faster."""
    for round_ in range(8):
        session = chunks.begin(2)
        for index in range(2):
            chunks.sent(session, index, b"first")
        start = threading.Barrier(2)

        def again(session: str = session, start: threading.Barrier = start) -> int:
            start.wait()
            return chunks.send(session, 1, b"second").status_code

        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(again)
            start.wait()
            assert chunks.complete(session).status_code == 200
            taken = late.result()
        assert taken in (200, 409)
        assert_arrived(session, b"firstsecond" if taken == 200 else b"firstfirst", chunks.api.services)
        assert chunks.swept() == [], round_


def test_completes_at_once_make_one_document(chunks: Chunks) -> None:
    session = chunks.begin(1)
    chunks.sent(session, 0, b"once")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: chunks.complete(session), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(chunks.api.bell.rung) == 1
    with chunks.api.services.ledger.reading() as tx:
        assert len(tx.history(chunks.row(session)[0].id)) == 1


def test_a_store_or_a_ledger_that_fails(chunks: Chunks, monkeypatch: pytest.MonkeyPatch) -> None:
    session = chunks.begin(1)

    def away(*_: object, **__: object) -> Any:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(LocalWriter, "commit", away)
        problem(chunks.send(session, 0, b"x"), 503, "store-unavailable")
    assert chunks.pieces(session) == chunks.api.leftovers() == []

    put = Transaction.put_upload_part

    def lost(self: Transaction, *given: Any, **more: Any) -> Any:
        put(self, *given, **more)
        raise LedgerUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "put_upload_part", lost)
        body = chunks.send(session, 0, b"x").json()
        assert (body["status"], body["success"]) == (503, False)
        assert body["message"] == body["detail"]
    # Nobody knew whether it counts: its bytes stay until the upload is over.
    assert len(chunks.pieces(session)) == 1
    chunks.sent(session, 0, b"y")
    assert chunks.complete(session).status_code == 200
    assert_arrived(session, b"y", chunks.api.services)
    assert chunks.swept() == []


def test_what_cannot_be_removed_now_goes_with_the_upload(chunks: Chunks, monkeypatch: pytest.MonkeyPatch) -> None:
    session = chunks.begin(1)
    chunks.sent(session, 0, b"first")

    def away(*_: object) -> Any:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(type(chunks.api.services.quarantine), "delete", away)
        chunks.sent(session, 0, b"second")
    assert len(chunks.pieces(session)) == 2
    assert chunks.complete(session).status_code == 200
    assert_arrived(session, b"second", chunks.api.services)
    assert chunks.swept() == []


@pytest.fixture
def over(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chunks]:
    """An API over each kind of store, with room for several parts of S3."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.read_text().replace('bytes = "256 MiB"', 'bytes = "64 MiB"', 1))
    with serving(tmp_path, **urls(request.param, request)) as api:
        yield Chunks(api)


@pytest.mark.parametrize("over", ["local", "s3", "gcs"], indirect=True)
def test_every_store_joins_chunks_of_any_size(over: Chunks) -> None:
    pieces = [content_of(size) for size in (6_000_000, 5 << 20, 1, 70_000, 5_300_000, 3)]
    session = over.begin(len(pieces), size=sum(map(len, pieces)))
    for index in (5, 0, 3, 4, 1):
        over.sent(session, index, pieces[index])
    form = [("file", ("blob", pieces[2])), ("upload_id", (None, session)), ("chunk_index", (None, "2"))]
    assert over.api.client.post(f"{PATH}/upload/chunk/", files=form).status_code == 200
    over.sent(session, 0, pieces[0])  # again
    assert over.complete(session).status_code == 200
    assert_arrived(session, b"".join(pieces), over.api.services)
    assert over.swept() == []
    assert [key for key in over.api.objects() if "/piece-" in key] == []


def test_any_replica_takes_any_request(tmp_path: Path) -> None:
    content = content_of(30_000)
    with serving(tmp_path) as one, serving(tmp_path) as two:
        first = Chunks(one)
        second = Chunks(two.as_tenant(one.tenant))
        session = first.begin(3)
        for index, piece in enumerate(cut(content, 10_000)):
            (second if index % 2 else first).sent(session, index, piece)
        assert second.status(session)["received_chunks"] == 3
        assert second.complete(session).status_code == first.complete(session).status_code == 200
        assert_arrived(session, content, one.services)
        second.api.client.close()


def test_memory_is_flat_however_large_the_chunk(deployed: System) -> None:
    pid = deployed.processes["serve"].pid
    piece = content_of(MIB)
    with deployed.client() as client:

        def most(count: int) -> float:
            session = client.post(f"{PATH}/upload/init/", json={"fileName": "a.bin"}).json()["sessionId"]
            form = form_of(session, 0, b"")
            ahead, behind = form[: form.index(b"\r\n--" + BOUNDARY + b"--")], b"\r\n--" + BOUNDARY + b"--\r\n"
            headers = {
                "Authorization": f"Bearer {deployed.key}",
                "Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}",
            }
            reset_peak(pid)
            connection = Connection(Target(deployed.port, f"{PATH}/upload/chunk/", headers, "POST"))
            body = itertools.chain([ahead], itertools.repeat(piece, count), [behind])
            connection.send_pieces(body, len(ahead) + count * MIB + len(behind))
            connection.close()
            assert client.get(f"{PATH}/status/{session}").json()["receivedChunks"] == 1
            return peak(pid)

        most(8)  # what is loaded with the first is not growth
        small, large = most(8), most(96)
    assert large - small < 16
