"""Connections that break, clients that fall silent or race, replicas, an API that is told to stop or killed: what was
acknowledged stays, and the whole that comes of it is the sender's."""

from __future__ import annotations

import random
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_api.uploads import tus_append
from ingest_api.uploads.landing import PIECE
from pipeline import appending
from pipeline.documents import UploadState
from pipeline.storage.local_resumable import LocalResumableWriter
from tests.integration.api_server import Api, serving
from tests.integration.test_api_uploads import problem
from tests.integration.tus import Tus, assert_arrived, content_of, id_of, row_of
from tests.system import System, until


def finish(tus: Tus, url: str, content: bytes) -> None:
    """Go on from where it stands, to the end; the document is the content."""
    tus.wait_until_free(url)
    offset = tus.offset(url)
    if offset < len(content):
        assert tus.patch(url, offset, content[offset:]).status_code == 204
    assert_arrived(url, content, tus.api.services)


def status_of(sock: socket.socket) -> int:
    """What the server answers although the body has not ended."""
    return int(sock.recv(1 << 16).split(b" ", 2)[1])


@pytest.mark.parametrize("length", ["announced", "chunked"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_wherever_the_connection_breaks_every_byte_that_arrived_is_acknowledged(
    tus: Tus, length: str, data: st.DataObject
) -> None:
    content = content_of(3 * PIECE + 12_345)
    url, at = tus.begin(len(content)), 0
    for _ in range(2):
        cut = data.draw(st.integers(at, len(content) - 1))
        sock = tus.connect(url, at, len(content) - at if length == "announced" else None)
        with sock:
            part = content[at:cut]
            sock.sendall(part if length == "announced" else b"%x\r\n%b\r\n" % (len(part), part) if part else b"")
        tus.wait_until_free(url)
        until(lambda cut=cut: tus.offset(url) == cut, "all of it is acknowledged", 20)  # type: ignore[misc]
        at = cut
    finish(tus, url, content)


def test_a_chunk_with_a_checksum_that_breaks_off_is_discarded(tus: Tus) -> None:
    content = content_of(3 * PIECE)
    url = tus.begin(len(content))
    assert tus.patch(url, 0, content[:10]).status_code == 204
    with tus.connect(url, 10, len(content) - 10, Upload_Checksum="sha1 " + "A" * 27 + "=") as sock:
        sock.sendall(content[10 : 2 * PIECE])
        until(lambda: not tus.is_free(url), "it is held", 20)
    tus.wait_until_free(url)
    assert tus.offset(url) == 10
    finish(tus, url, content)


def test_a_client_that_says_nothing_more_is_let_go_and_told_where_it_stands(
    tus: Tus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tus_append, "PATIENCE", 0.2)
    content = content_of(2 * PIECE)
    url = tus.begin(len(content))
    with tus.connect(url, 0, len(content)) as sock:
        sock.sendall(content[: PIECE + 1])
        assert status_of(sock) == 408
    assert tus.offset(url) == PIECE + 1
    finish(tus, url, content)


def test_a_slow_client_keeps_its_lock_and_is_acknowledged_on_the_way(tus: Tus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tus_append, "NOTE_SECONDS", -1.0)  # as if that much time lay between any two bytes
    monkeypatch.setattr(appending, "NOTE_SECONDS", -1.0)
    url = tus.begin(100)
    with tus.connect(url, 0, 100) as sock:
        for byte in range(20):
            sock.sendall(b"%c" % byte)
            until(lambda byte=byte: tus.offset(url) == byte + 1, "it is acknowledged", 20)  # type: ignore[misc]
            assert not tus.is_free(url)
        problem(tus.patch(url, 0, b""), 423, "upload-locked")
    tus.wait_until_free(url)
    assert tus.offset(url) == 20


def test_the_last_byte_counts_only_if_nothing_follows_it(tus: Tus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tus_append, "NOTE_SECONDS", -1.0)
    monkeypatch.setattr(appending, "NOTE_SECONDS", -1.0)
    url = tus.begin(5)
    with tus.connect(url, 0, None) as sock:
        sock.sendall(b"4\r\nhell\r\n")
        until(lambda: tus.offset(url) == 4, "what came is acknowledged at once", 20)
        sock.sendall(b"1\r\no\r\n")
        assert {tus.offset(url) for _ in range(20)} == {4}  # but not the last byte
        sock.sendall(b"1\r\n!\r\n")
        assert status_of(sock) == 413
    assert tus.offset(url) == 4
    assert tus.api.documents() == []
    finish(tus, url, b"hello")


def test_who_comes_back_over_a_new_connection_need_not_wait_for_the_old_one(
    tus: Tus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tus_append, "QUIET", 0.0)
    content = content_of(2 * PIECE)
    url = tus.begin(len(content))
    with tus.connect(url, 0, len(content)) as old:
        old.sendall(content[:PIECE])
        until(lambda: not tus.is_free(url), "the old one holds it", 20)
        # The old connection is open, and nobody will ever say that it is not.
        until(lambda: tus.offset(url) == PIECE, "HEAD tells of every byte", 20)
        assert tus.patch(url, PIECE, content[PIECE:]).status_code == 204
        assert status_of(old) == 423
    assert_arrived(url, content, tus.api.services)


def test_another_tenant_cannot_make_a_request_let_go(tus: Tus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tus_append, "QUIET", 0.0)
    url = tus.begin(10)
    theirs = tus.api.as_tenant(f"not-{tus.api.tenant}")
    with theirs.client, tus.connect(url, 0, 10) as sock:
        sock.sendall(b"hello")
        until(lambda: not tus.is_free(url), "it is held", 20)
        assert Tus(theirs).head(url).status_code == 404
        assert Tus(theirs).patch(url, 0, b"x").status_code == 404
        sock.sendall(b"world")
        assert sock.recv(65536).startswith(b"HTTP/1.1 204")
    assert_arrived(url, b"helloworld", tus.api.services)


def test_of_many_at_once_one_sends_and_the_others_are_told_to_wait(tus: Tus) -> None:
    content = content_of(2 * PIECE)
    url = tus.begin(len(content))
    start, answers = threading.Barrier(6), []

    def send() -> None:
        with tus.api.make_client() as client:
            mine = Tus(tus.api)
            mine.api = Api(tus.api.url, tus.api.services, tus.api.bell, tus.api.key, client, tus.api.tenant)
            start.wait()
            answers.append(mine.patch(url, 0, content).status_code)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(204) == 1
    assert set(answers) <= {204, 409, 423}
    assert tus.api.bell.rung == [id_of(url)]
    assert_arrived(url, content, tus.api.services)


def test_a_store_that_fails_half_way_costs_only_what_was_not_acknowledged(
    tus: Tus, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = content_of(3 * PIECE)
    url = tus.begin(len(content))
    assert tus.patch(url, 0, content[:1000]).status_code == 204
    write = LocalResumableWriter.write

    def full(writer: LocalResumableWriter, chunk: bytes) -> None:
        write(writer, chunk)
        if writer._offset > 2 * PIECE:
            raise appending.Misconfigured("The disk is full.")

    monkeypatch.setattr(LocalResumableWriter, "write", full)
    problem(tus.patch(url, 1000, content[1000:]), 500, "misconfigured")
    monkeypatch.undo()
    assert tus.is_free(url)
    assert tus.offset(url) == 1000
    finish(tus, url, content)


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[Tus, Tus]]:
    """Two API processes (here: two servers that share nothing but disk and database)."""
    with serving(tmp_path) as one, serving(tmp_path) as other:
        yield Tus(one), Tus(Api(other.url, other.services, other.bell, one.key, other.make_client(one.key)))


def test_any_replica_takes_any_request(replicas: tuple[Tus, Tus]) -> None:
    content = content_of(5_000_000)
    url, at = replicas[0].begin(len(content)), 0
    for turn, end in enumerate([*sorted(random.Random(7).sample(range(1, len(content)), 5)), len(content)]):
        mine = replicas[turn % 2]
        assert mine.offset(url) == at
        assert mine.patch(url, at, content[at:end]).status_code == 204
        at = end
    assert_arrived(url, content, replicas[1].api.services)
    replicas[1].api.client.close()


def test_a_holder_whose_lease_ran_out_writes_nothing_that_counts(
    replicas: tuple[Tus, Tus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "LEASE", timedelta(seconds=1))
    monkeypatch.setattr(appending, "SPARE", 0.5)
    old, new = replicas
    content = content_of(4 * PIECE)
    url = old.begin(len(content))
    with old.connect(url, 0, len(content)) as sock:
        sock.sendall(content[: 2 * PIECE])
        until(lambda: not old.is_free(url), "the old one holds it", 20)
        problem(new.patch(url, 0, b"x"), 423, "upload-locked")
        # The old one falls silent, its lease runs out, the new one goes on where the ledger says.
        until(lambda: new.patch(url, new.offset(url), content[new.offset(url) : PIECE]).status_code == 204, "new", 20)
        assert new.offset(url) == PIECE
        sock.sendall(b"?" * (2 * PIECE))  # it wakes up: other bytes, where it stood
        assert status_of(sock) == 423
    assert new.offset(url) == PIECE
    finish(new, url, content)
    new.api.client.close()


def test_an_upload_that_was_given_up_meanwhile_ends_its_request(replicas: tuple[Tus, Tus]) -> None:
    mine, elsewhere = replicas
    url = mine.begin(2 * PIECE)
    with mine.connect(url, 0, 2 * PIECE) as sock:
        sock.sendall(bytes(PIECE))
        until(lambda: not mine.is_free(url), "it is held", 20)
        assert elsewhere.delete(url).status_code == 204
        sock.sendall(bytes(PIECE))
        assert status_of(sock) == 410
    assert row_of(url, mine.api.services).state is UploadState.ABORTED
    assert mine.left() == []
    assert mine.api.documents() == []
    elsewhere.api.client.close()


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[System]:
    """`airlock serve`, as a process of its own."""
    made = System(tmp_path, {"AIRLOCK_BROKER_URL": "redis://127.0.0.1:1"})
    made.start("serve")
    try:
        yield made
    finally:
        made.stop()


def client_of(system: System) -> Tus:
    client = system.client()
    api = Api(str(client.base_url), system.services, None, system.key, client)  # type: ignore[arg-type]
    return Tus(api)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_api_that_ends_in_the_middle_loses_nothing_it_acknowledged(deployed: System, how: signal.Signals) -> None:
    tus = client_of(deployed)
    content = content_of(12 << 20)
    url = tus.begin(len(content))
    assert tus.patch(url, 0, content[:1000]).status_code == 204
    half = len(content) // 2
    with tus.connect(url, 1000, len(content) - 1000) as sock:
        sock.sendall(content[1000:half])
        until(lambda: not tus.is_free(url), "it is held", 20)
        if how is signal.SIGKILL:
            deployed.kill("serve")
        else:
            deployed.processes["serve"].terminate()
            assert status_of(sock) == 503
    if how is signal.SIGTERM:
        deployed.end("serve")
    deployed.start("serve")
    stands = tus.offset(url)
    assert stands == half if how is signal.SIGTERM else 1000 <= stands <= half
    until(lambda: tus.patch(url, stands, content[stands:]).status_code == 204, "the lease of the dead runs out", 30)
    tus.api.client.close()
    assert_arrived(url, content, deployed.services)
