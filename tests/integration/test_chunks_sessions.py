"""Chunk sessions over a real socket: as their users send them, in both dialects, and what they are told."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import update

from pipeline import sweeper
from pipeline.api_keys import make_key
from pipeline.documents import UploadState
from pipeline.ledger.models import uploads
from tests.integration.api_server import serving
from tests.integration.chunks import PATH, Chunks, cut
from tests.integration.test_api_uploads import LIMIT, digest, problem
from tests.integration.test_quota import policy_in
from tests.integration.tus import arrived, assert_arrived, content_of
from tests.world import EICAR


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """A problem document, with what these clients look at."""
    body = problem(answer, status, code)
    assert body["success"] is False
    assert body["message"] == body["detail"]
    assert isinstance(body["errors"], list)
    return body


@pytest.mark.parametrize(("size", "chunk"), [(1, 1), (10, 3), (3 << 20, 1 << 20), ((3 << 20) + 1, 700_001)])
def test_chunks_in_any_order_become_the_document(chunks: Chunks, size: int, chunk: int) -> None:
    content = content_of(size)
    pieces = cut(content, chunk)
    session = chunks.begin(len(pieces), size=size, sha256=hashlib.sha256(content).hexdigest(), type="text/plain")
    order = list(enumerate(pieces))
    random.Random(size).shuffle(order)
    for index, piece in order:
        chunks.sent(session, index, piece)
    answer = chunks.complete(session)
    assert answer.status_code == 200
    told = answer.json()
    assert (told["sessionId"], told["documentId"]) == (session, session)
    assert (told["status"], told["state"], told["success"]) == ("STARTED", "received", True)
    document = chunks.api.client.get(told["links"]["self"]).json()
    assert (document["name"], document["declared_type"], document["via"]) == ("a.txt", "text/plain", "chunks")
    assert (document["state"], document["size"]) == ("received", size)
    assert [str(one) for one in chunks.api.bell.rung] == [session]
    assert chunks.status(session) == {"status": "STARTED", "state": "received"}
    assert_arrived(session, content, chunks.api.services)
    assert chunks.status(session) == {"status": "SUCCESS", "state": "available"}
    assert chunks.swept() == []


def test_the_file_is_fetched_once_it_is_available_and_not_before(chunks: Chunks) -> None:
    session = chunks.begin(1)
    chunks.sent(session, 0, b"some text\n")
    early = chunks.api.client.get(f"{PATH}/get/{session}")
    refused(early, 404, "not-found")  # no document yet
    chunks.complete(session)
    body = refused(chunks.api.client.get(f"{PATH}/get/{session}"), 409, "not-available")
    assert body["state"] == "received"
    arrived(session, chunks.api.services)
    told = chunks.api.client.get(f"{PATH}/get/{session}").json()
    data = told["data"]
    assert (data["id"], data["filename"], data["size"]) == (session, "a.txt", 10)
    assert (data["content_type"], data["detail"], data["credential"]) == ("text/plain", None, None)
    assert (data["status"], told["success"]) == ("SUCCESS", True)
    assert httpx.get(data["download_url"]).content == b"some text\n"  # signed: it needs no key
    moved = chunks.api.client.get(f"{PATH}/get/{session}/", params={"download": "1"})
    assert moved.status_code == 307
    assert httpx.get(moved.headers["location"]).content == b"some text\n"


def test_the_dialect_of_the_services_own_front_end(chunks: Chunks) -> None:
    post = chunks.api.client.post
    begun = post(f"{PATH}/upload/init/").json()
    assert begun["success"] is True
    session, size = begun["data"]["upload_id"], begun["data"]["chunk_size"]
    assert size == begun["data"]["chunck_size"] == begun["chunkSize"] > 0
    content = content_of(2500)
    for index, piece in enumerate(cut(content, 1000)):
        # As its collection of examples has it: the file before the fields.
        form = [("file", ("blob", piece)), ("upload_id", (None, session)), ("chunk_index", (None, str(index)))]
        answer = post(f"{PATH}/upload/chunk/", files=[*form, ("chunk_size", (None, str(len(piece))))])
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"] == {"chunk_index": index, "upload_id": session}
    fields = {"upload_id": session, "total_chunks": "3", "total_size": "2500", "file_extension": "txt"}
    more = {"content_type": "text/plain", "detail": '{"a": 1}', "appointment_id": "7"}
    answer = post(f"{PATH}/upload/complete/", data={**fields, **more})
    data = answer.json()["data"]
    assert (data["id"], data["filename"], data["content_type"]) == (session, "file.txt", "text/plain")
    assert data["download_url"].endswith(f"/v1/documents/{session}/content")
    assert_arrived(session, content, chunks.api.services)
    assert chunks.swept() == []


@pytest.mark.parametrize("as_form", [False, True])
def test_bodies_may_be_json_or_forms_and_addresses_may_end_in_a_slash(chunks: Chunks, as_form: bool) -> None:
    post = chunks.api.client.post
    way = "data" if as_form else "json"
    slash = "/" if as_form else ""
    session = post(f"{PATH}/upload/init{slash}", **{way: {"file_name": "a.txt", "total_chunks": 2}}).json()["sessionId"]  # type: ignore[arg-type]
    for index in range(2):
        fields = {"session_id": session, "chunk_index": str(index)}
        answer = post(f"{PATH}/upload/chunk{slash}", data=fields, files={"chunk": ("blob", b"12345")})
        assert answer.status_code == 200, answer.text
    assert post(f"{PATH}/upload/complete{slash}", **{way: {"session_id": session}}).status_code == 200  # type: ignore[arg-type]
    assert chunks.api.client.get(f"{PATH}/status/{session}{slash}").json()["state"] == "received"
    assert post(f"{PATH}/upload/retry{slash}", **{way: {"file_id": session}}).status_code == 409  # type: ignore[arg-type]


def test_missing_chunks_are_named_and_can_be_sent_still(chunks: Chunks) -> None:
    session = chunks.begin(5)
    for index in (0, 3):
        chunks.sent(session, index, b"x")
    body = refused(chunks.complete(session), 409, "upload-incomplete")
    assert (body["missing"], body["missing_count"]) == ([1, 2, 4], 3)
    status = chunks.status(session)
    assert (status["status"], status["state"]) == ("PENDING", "open")
    assert (status["total_chunks"], status["received_chunks"], status["received_bytes"]) == (5, 2, 2)
    assert status["missing"] == [1, 2, 4]
    assert chunks.api.bell.rung == []
    for index in (1, 2, 4):
        chunks.sent(session, index, b"y")
    assert chunks.complete(session).status_code == 200
    assert_arrived(session, b"xyyxy", chunks.api.services)


def test_of_many_missing_chunks_the_first_are_named(chunks: Chunks) -> None:
    session = chunks.begin(10_000)
    chunks.sent(session, 9_999, b"x")
    body = refused(chunks.complete(session), 409, "upload-incomplete")
    assert body["missing"] == list(range(1000))
    assert body["missing_count"] == 9_999
    assert len(chunks.status(session)["missing"]) == 1000


def test_without_any_chunk_nothing_is_complete(chunks: Chunks) -> None:
    for total in (None, 1):
        body = refused(chunks.complete(chunks.begin(total)), 409, "upload-incomplete")
        assert body["missing"] == [0]


def test_a_gap_shows_even_where_nobody_said_how_many_chunks_there_are(chunks: Chunks) -> None:
    session = chunks.begin()
    for index in (0, 2):
        chunks.sent(session, index, b"x")
    assert refused(chunks.complete(session), 409, "upload-incomplete")["missing"] == [1]
    body = refused(chunks.complete(session, totalChunks=2), 400, "malformed-request")
    assert "Chunk 2" in body["detail"]
    chunks.sent(session, 1, b"x")
    assert refused(chunks.complete(session, totalChunks=4), 409, "upload-incomplete")["missing"] == [3]
    assert chunks.complete(session, totalChunks=3).status_code == 200


def test_a_chunk_that_comes_again_replaces_the_one_before_and_leaves_nothing(chunks: Chunks) -> None:
    session = chunks.begin(2)
    chunks.sent(session, 0, b"wrong")
    chunks.sent(session, 1, b" and right")
    before = chunks.pieces(session)
    chunks.sent(session, 1, b" and right")
    assert chunks.pieces(session) == before  # the same bytes: the first one stays
    chunks.sent(session, 0, b"right")
    assert len(chunks.pieces(session)) == 2
    upload, parts = chunks.row(session)
    assert upload.offset == sum(part.size for part in parts) == 15
    assert chunks.complete(session).status_code == 200
    assert_arrived(session, b"right and right", chunks.api.services)
    assert chunks.swept() == []


def test_complete_again_is_the_same_answer_as_long_as_the_document_lives(chunks: Chunks) -> None:
    session = chunks.begin(1)
    chunks.sent(session, 0, b"x")
    first, second = chunks.complete(session), chunks.complete(session)
    assert first.json() == second.json()
    assert len(chunks.api.bell.rung) == 1
    arrived(session, chunks.api.services)
    assert chunks.complete(session).json()["status"] == "SUCCESS"
    before = chunks.pieces()
    refused(chunks.send(session, 0, b"y"), 409, "conflict")
    assert chunks.pieces() == before
    assert chunks.swept() == []


def test_an_infected_or_wrong_file_is_a_failure_with_its_reason(chunks: Chunks) -> None:
    infected, changed = chunks.begin(2), chunks.begin(1, sha256="ab" * 32)
    for index, half in enumerate(cut(EICAR, 40)):
        chunks.sent(infected, index, half)
    chunks.sent(changed, 0, b"other bytes")
    for session, reason in ((infected, "infected"), (changed, "digest_mismatch")):
        assert chunks.complete(session).status_code == 200
        arrived(session, chunks.api.services)
        status = chunks.status(session)
        assert (status["status"], status["state"], status["reason"]) == ("FAILURE", "rejected", reason)
        refused(chunks.api.client.get(f"{PATH}/get/{session}"), 409, "not-available")
        refused(chunks.api.client.post(f"{PATH}/upload/retry", data={"file_id": session}), 409, "conflict")


def test_a_merge_that_fails_is_told_as_failed_and_can_be_tried_again(
    chunks: Chunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.errors import StepRefused
    from pipeline.storage.local import LocalStore

    session = chunks.begin(2)
    for index in range(2):
        chunks.sent(session, index, b"half ")
    assert chunks.complete(session).json()["state"] == "received"

    def fails(*_: object) -> None:
        raise StepRefused("The disk is on fire.")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "compose", fails)
        arrived(session, chunks.api.services)
    status = chunks.status(session)
    assert (status["status"], status["state"], status["reason"]) == ("FAILURE", "failed", "processing_error")
    assert chunks.complete(session).json()["status"] == "FAILURE"
    sweeper.sweep(chunks.api.services)
    answer = chunks.api.client.post(f"{PATH}/upload/retry", json={"sessionId": session})
    assert (answer.status_code, answer.json()["state"]) == (200, "received")
    assert_arrived(session, b"half half ", chunks.api.services)


def test_what_cannot_be_retried(chunks: Chunks) -> None:
    retry = chunks.api.client.post
    session = chunks.begin(2)
    body = refused(retry(f"{PATH}/upload/retry", data={"file_id": session}), 409, "upload-incomplete")
    assert body["missing"] == [0, 1]
    refused(retry(f"{PATH}/upload/retry", data={"file_id": str(uuid4())}), 404, "not-found")
    refused(retry(f"{PATH}/upload/retry", data={}), 422, "invalid-parameters")


def overdue(chunks: Chunks, session: str) -> None:
    upload, _ = chunks.row(session)
    with chunks.api.services.ledger.begin() as tx:
        tx._connection.execute(update(uploads).where(uploads.c.id == upload.id).values(expires_at=1))


def test_a_session_that_nobody_finishes_ends_and_leaves_nothing(chunks: Chunks) -> None:
    session = chunks.begin(2)
    chunks.sent(session, 0, b"x")
    assert chunks.row(session)[0].expires_at - chunks.row(session)[0].created_at >= timedelta(hours=24)
    overdue(chunks, session)
    chunks.sent(session, 0, b"x")  # as long as anything comes, even if it was there, it stays open
    assert len(chunks.swept()) == 1
    overdue(chunks, session)
    assert chunks.swept() == []
    assert chunks.status(session)["state"] == "expired"
    assert chunks.status(session)["status"] == "FAILURE"
    refused(chunks.send(session, 1, b"y"), 410, "upload-gone")
    refused(chunks.complete(session), 410, "upload-gone")
    refused(chunks.api.client.post(f"{PATH}/upload/retry", data={"file_id": session}), 409, "conflict")
    assert chunks.row(session)[0].state is UploadState.EXPIRED


def test_the_same_key_begins_the_same_session(chunks: Chunks) -> None:
    headers = {"Idempotency-Key": '"one"'}
    first = chunks.begin(3, headers=headers)
    assert chunks.begin(3, headers=headers) == first
    refused(chunks.init(4, headers=headers), 422, "idempotency-conflict")
    assert chunks.begin(3) != first


# What is refused.


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ({"totalChunks": 0}, 400, "malformed-request"),
        ({"totalChunks": 10_001}, 413, "too-large"),
        ({"totalChunks": -1}, 422, "invalid-parameters"),
        ({"totalChunks": 1.5}, 422, "invalid-parameters"),
        ({"totalChunks": True}, 422, "invalid-parameters"),
        ({"totalChunks": "many"}, 422, "invalid-parameters"),
        ({"totalChunks": 10**30}, 422, "invalid-parameters"),
        ({"totalChunks": [1]}, 422, "invalid-parameters"),
        ({"totalChunks": 3, "size": 2}, 400, "malformed-request"),
        ({"size": LIMIT + 1}, 413, "too-large"),
        ({"size": 0}, 400, "empty-file"),
        ({"size": -5}, 422, "invalid-parameters"),
        ({"fileName": "a.zip"}, 415, "type-not-allowed"),
        ({"fileName": 5}, 422, "invalid-parameters"),
        ({"fileName": "x" * 5000}, 422, "invalid-parameters"),
        ({"fileName": "a", "type": "application/zip"}, 415, "type-not-allowed"),
        ({"sha256": "abc"}, 422, "invalid-parameters"),
        ({"checksum": "d41d8cd98f00b204e9800998ecf8427e"}, 422, "invalid-parameters"),
    ],
)
def test_sessions_that_could_never_pass_are_not_begun(
    chunks: Chunks, told: dict[str, object], status: int, code: str
) -> None:
    refused(chunks.api.client.post(f"{PATH}/upload/init/", json=told), status, code)
    with chunks.api.services.ledger.reading() as tx:
        assert tx.open_uploads(chunks.api.tenant) == (0, 0)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"5", b"\xff\xfe", b'{"totalChunks": NaN}', b"[" * 60_000, b'{"a": "\\ud800"}', b"null"]
)
def test_bodies_that_are_no_json_object(chunks: Chunks, body: bytes) -> None:
    kind = {"Content-Type": "application/json"}
    for path in ("init", "complete", "retry"):
        answer = chunks.api.client.post(f"{PATH}/upload/{path}", content=body, headers=kind)
        assert 400 <= answer.status_code < 500 or (path, body) == ("init", b'{"a": "\\ud800"}'), answer.text


def test_bodies_have_a_bound(chunks: Chunks) -> None:
    large = {"fileName": "a.txt", "more": "x" * (64 << 10)}
    body = refused(chunks.api.client.post(f"{PATH}/upload/init/", json=large), 413, "too-large")
    assert body["limit"]["name"] == "body_bytes"
    answer = chunks.api.client.post(f"{PATH}/upload/complete/", content=iter([b" " * 8192] * 20))
    refused(answer, 413, "too-large")
    answer = chunks.api.client.post(f"{PATH}/upload/complete/", files={"f": ("a", b"x")}, data={"sessionId": "x"})
    refused(answer, 400, "malformed-request")
    answer = chunks.api.client.post(
        f"{PATH}/upload/init", content=b"a=1&" * 200, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    refused(answer, 400, "malformed-request")


@pytest.mark.parametrize("index", [-1, 3, 10_000, 2**31, 2**63, 10**30, "x", "0x1", "1e3", "٣", "", "0; DROP", "../0"])
@pytest.mark.parametrize("file_first", [False, True])
def test_indices_that_there_are_not(chunks: Chunks, index: object, file_first: bool) -> None:
    session = chunks.begin(3)
    fields = [("sessionId", (None, session)), ("chunkIndex", (None, str(index)))]
    file = [("chunk", ("blob", b"x"))]
    answer = chunks.api.client.post(
        f"{PATH}/upload/chunk/",
        files=file + fields if file_first else fields + file,  # type: ignore[operator]
    )
    body = refused(answer, answer.status_code, answer.json()["type"].rpartition("/")[2])
    assert body["status"] in (400, 422)
    assert chunks.pieces() == []
    assert chunks.row(session)[1] == []


def test_chunks_of_sessions_that_there_are_not(chunks: Chunks) -> None:
    for session in (str(uuid4()), "0", "", "../../etc/passwd", "x" * 5000, "\x00"):
        answer = chunks.send(session, 0, b"x")
        assert answer.status_code in (404, 422), answer.text
    assert chunks.api.client.get(f"{PATH}/status/not-an-id").status_code == 404
    tus = chunks.api.client.post("/v1/uploads/tus", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"})
    other = tus.headers["location"].rpartition("/")[2]
    refused(chunks.send(other, 0, b"x"), 404, "not-found")
    refused(chunks.complete(other), 404, "not-found")
    refused(chunks.api.client.get(f"{PATH}/status/{other}"), 404, "not-found")
    assert chunks.pieces() == []


def test_forms_that_hold_no_chunk(chunks: Chunks) -> None:
    session = chunks.begin(1)
    post, path = chunks.api.client.post, f"{PATH}/upload/chunk/"
    fields = {"sessionId": session, "chunkIndex": "0"}
    refused(post(path, data=fields, files={"chunk": ("blob", b"")}), 400, "empty-file")
    refused(post(path, files={"sessionId": (None, session), "chunkIndex": (None, "0")}), 400, "no-file")
    refused(post(path, json=fields), 400, "malformed-request")
    refused(post(path, data=fields, files=[("c", ("a", b"x")), ("c", ("b", b"y"))]), 413, "too-large")
    refused(post(path, files={"chunk": ("blob", b"x"), "sessionId": (None, session)}), 422, "invalid-parameters")
    refused(post(path, data=fields, files={"chunk": ("b", b"x")}, headers={"Content-Encoding": "gzip"}), 415,
            "unsupported-content")  # fmt: skip
    wrong = {"Content-Digest": f"sha-256=:{digest(b'other')}:"}
    refused(post(path, data=fields, files={"chunk": ("b", b"x", "text/plain", wrong)}), 400, "digest-mismatch")
    assert chunks.pieces() == []
    assert chunks.row(session)[1] == []
    right = {"Content-Digest": f"sha-256=:{digest(b'x')}:"}
    assert post(path, data=fields, files={"chunk": ("b", b"x", "text/plain", right)}).status_code == 200


@pytest.mark.asvs("5.2.1")
def test_all_chunks_together_have_a_limit_as_they_arrive(chunks: Chunks) -> None:
    session = chunks.begin(9)
    half = bytes(LIMIT // 2)
    chunks.sent(session, 0, half)
    body = refused(chunks.send(session, 1, bytes(LIMIT // 2 + 1)), 413, "too-large")
    assert body["limit"] == {"name": "bytes", "value": LIMIT}
    chunks.sent(session, 2, half)
    refused(chunks.send(session, 1, b"x"), 413, "too-large")
    form = [("chunk", ("blob", b"x")), ("sessionId", (None, session)), ("chunkIndex", (None, "1"))]
    refused(chunks.api.client.post(f"{PATH}/upload/chunk/", files=form), 413, "too-large")
    chunks.sent(session, 2, half[:-1])
    chunks.sent(session, 1, b"x")
    assert len(chunks.pieces(session)) == 3
    assert chunks.api.leftovers() == []


def test_a_session_takes_no_more_than_was_announced(chunks: Chunks) -> None:
    session = chunks.begin(3, size=10)
    chunks.sent(session, 0, b"12345")
    body = refused(chunks.send(session, 1, b"123456"), 413, "too-large")
    assert body["limit"] == {"name": "upload_length", "value": 10}
    chunks.sent(session, 1, b"123")
    chunks.sent(session, 2, b"1")
    body = refused(chunks.complete(session), 409, "upload-incomplete")
    assert (body["expected_bytes"], body["received_bytes"], body["missing"]) == (10, 9, [])
    refused(chunks.complete(session, size=9), 400, "malformed-request")
    chunks.sent(session, 2, b"12")
    assert chunks.complete(session, size=10).status_code == 200


@pytest.mark.asvs("8.2.2")
def test_another_tenant_finds_nothing(chunks: Chunks) -> None:
    session = chunks.begin(2)
    chunks.sent(session, 0, b"mine")
    with chunks.api.as_tenant(f"not-{chunks.api.tenant}").client as client:
        theirs = Chunks(chunks.api.as_tenant(f"not-{chunks.api.tenant}"))
        form = [("chunk", ("blob", b"x")), ("sessionId", (None, session)), ("chunkIndex", (None, "1"))]
        for answer in (
            theirs.send(session, 1, b"theirs"),
            client.post(f"{PATH}/upload/chunk/", files=form),
            theirs.complete(session),
            client.get(f"{PATH}/status/{session}"),
            client.get(f"{PATH}/get/{session}"),
            client.post(f"{PATH}/upload/retry", data={"file_id": session}),
        ):
            body = refused(answer, 404, "not-found")
            assert session not in answer.text
            assert "state" not in body
        assert theirs.pieces() == []
        theirs.api.client.close()
    assert [part.number for part in chunks.row(session)[1]] == [0]


def test_keys_and_scopes(chunks: Chunks) -> None:
    session = chunks.begin(1)
    reader = make_key(chunks.api.services.ledger, chunks.api.tenant, scopes=frozenset({"documents:read"}))
    with chunks.api.make_client("") as nobody, chunks.api.make_client(reader) as reads:
        for client, status, code in ((nobody, 401, "unauthorized"), (reads, 403, "forbidden")):
            refused(client.post(f"{PATH}/upload/init/"), status, code)
            form = {"sessionId": (None, session), "chunkIndex": (None, "0"), "chunk": ("blob", b"x")}
            refused(client.post(f"{PATH}/upload/chunk/", files=form), status, code)
            refused(client.post(f"{PATH}/upload/complete/", json={"sessionId": session}), status, code)
            refused(client.post(f"{PATH}/upload/retry", json={"sessionId": session}), status, code)
        assert reads.get(f"{PATH}/status/{session}").status_code == 200
        refused(nobody.get(f"{PATH}/status/{session}"), 401, "unauthorized")
    assert chunks.pieces() == []


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[Chunks]:
    """An API with quotas, small chunks, and a bound on requests."""
    policy = policy_in(tmp_path, "open_uploads = 3\ndocuments = 4\nbytes = 5000")
    with serving(tmp_path, policy_file=policy, chunk_bytes=2000, body_limit_bytes=40_000) as api:
        yield Chunks(api)


@pytest.mark.asvs("5.2.4")
def test_bytes_that_nobody_announced_count_as_they_come(bounded: Chunks) -> None:
    one, two = bounded.begin(), bounded.begin(size=1000)
    for index in range(2):
        bounded.sent(one, index, bytes(2000))
    bounded.sent(one, 1, bytes(1999))  # again, in the place of the one before
    body = refused(bounded.send(one, 2, b"xy"), 429, "quota-exceeded")
    assert body["limit"] == {"name": "bytes", "value": 5000}
    bounded.sent(one, 2, b"x")
    bounded.sent(two, 0, bytes(1000))  # it was announced, and has its place
    refused(bounded.init(size=1), 429, "quota-exceeded")
    assert len(bounded.pieces()) == 4
    assert bounded.complete(one).status_code == 200
    refused(bounded.send(two, 0, bytes(1001)), 413, "too-large")
    with bounded.api.services.ledger.reading() as tx:
        assert tx.stored(bounded.api.tenant) == (1, 4000)


def test_one_chunk_has_a_limit_and_clients_are_told_a_smaller_size(bounded: Chunks) -> None:
    assert bounded.init(5).json()["chunkSize"] == 2000
    session = bounded.begin(5)
    body = refused(bounded.send(session, 0, bytes(2001)), 413, "too-large")
    assert body["limit"] == {"name": "chunk_bytes", "value": 2000}
    form = [("chunk", ("blob", bytes(2001))), ("sessionId", (None, session)), ("chunkIndex", (None, "1"))]
    refused(bounded.api.client.post(f"{PATH}/upload/chunk/", files=form), 413, "too-large")
    assert bounded.pieces() == []
    answer = bounded.api.client.post(f"{PATH}/upload/chunk/", data={}, files={"chunk": ("b", bytes(50_000))})
    problem(answer, 413, "platform-limit")


def hostile_names(count: int) -> list[str]:
    rng = random.Random(5)
    parts = [
        "..",
        "/",
        "\\",
        "\x00",
        "\r\n",
        "%2e%2e",
        "é",
        "\u202e",
        "C:",
        "|",
        "'",
        '"',
        ";",
        "$(id)",
        "<b>",
        "😀",
        ".",
    ]
    fixed = ["../../etc/passwd", "..\\..\\boot.ini", "con", "a" * 4000, ".", "..", "/", "-rf", "original", "piece-0"]
    return fixed + ["".join(rng.choices(parts, k=rng.randint(1, 9))) + ".txt" for _ in range(count - len(fixed))]


@pytest.mark.asvs("5.3.2")
@pytest.mark.cwe("CWE-22")
def test_names_are_never_part_of_a_key(chunks: Chunks) -> None:
    from pipeline.chunks import Announced, begin, expect

    services, tenant = chunks.api.services, chunks.api.tenant
    names = hostile_names(150)
    sessions = [chunks.begin(1, name=name) for name in names]
    for session in sessions[:20]:
        chunks.sent(session, 0, b"x")
    keys = chunks.api.objects()
    assert len(keys) == 20
    assert all(key.startswith(f"standard/{tenant}/{session}/piece-0x") for key, session in
               zip(sorted(keys), sorted(sessions[:20]), strict=True))  # fmt: skip
    for name in hostile_names(300):  # the rule itself, without a socket
        upload = begin(Announced(name, total=1), tenant, services, correlation_id="test")
        expected = expect(upload.id, tenant, 0, services)
        assert upload.key == f"standard/{tenant}/{upload.id}/original"
        assert expected.key == f"standard/{tenant}/{upload.id}/piece-{expected.piece}"
    assert sum(path.name not in {"quarantine", "serving"} for path in
               (services.settings.var_dir / "buckets").iterdir()) == 0  # fmt: skip
