"""Uploads over a real socket: both bodies, names, digests, limits, keys, and that nothing is left of what failed."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from ingest_api.uploads.landing import PIECE
from pipeline.errors import LedgerUnavailable, StoreUnavailable
from pipeline.ledger.queries import Transaction
from pipeline.storage.base import ObjectHeaders
from pipeline.storage.local import LocalStore
from pipeline.storage.local_writer import LocalWriter
from tests.integration.api_server import Api

LIMIT = 8 << 20


def stored(api: Api, document_id: str) -> bytes:
    (key,) = [key for key in api.objects() if document_id in key]
    ref = api.services.quarantine.head(key).ref
    return b"".join(api.services.quarantine.get(ref))


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"/problems/{code}"
    assert body["status"] == status
    assert body["correlation_id"] == response.headers["x-request-id"]
    return body


@pytest.mark.parametrize("size", [1, 100 << 10, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7, LIMIT])
@pytest.mark.parametrize("way", ["raw", "chunked", "form"])
def test_bytes_arrive_as_they_were(api: Api, size: int, way: str) -> None:
    content = hashlib.shake_128(b"%d" % size).digest(size)
    pieces = [content[at : at + 70_001] for at in range(0, size, 70_001)]
    if way == "form":
        answer = api.client.post("/v1/documents", files={"file": ("a.bin", content)})
    else:
        answer = api.client.post("/v1/documents", content=content if way == "raw" else iter(pieces))
    assert answer.status_code == 202, answer.text
    document = answer.json()
    assert answer.headers["location"] == document["links"]["self"] == f"/v1/documents/{document['id']}"
    assert (document["state"], document["size"]) == ("quarantined", size)
    assert document["sha256"] == hashlib.sha256(content).hexdigest()
    assert stored(api, document["id"]) == content
    assert str(api.bell.rung[-1]) == document["id"]
    assert api.client.get(answer.headers["location"]).json()["sha256"] == document["sha256"]


def test_several_files_become_documents_together(api: Api) -> None:
    files = [("a", ("one.txt", b"1", "text/plain")), ("b", ("two.pdf", b"2" * 2_000_000)), ("c", ("three", b"3"))]
    answer = api.client.post("/v1/documents", files=files, data={"note": "passed over"})
    documents = answer.json()["documents"]
    assert [document["name"] for document in documents] == ["one.txt", "two.pdf", "three"]
    assert [document.get("declared_type") for document in documents] == ["text/plain", "application/pdf", None]
    assert [stored(api, document["id"])[:1] for document in documents] == [b"1", b"2", b"3"]
    assert len(api.bell.rung) == 3


@pytest.mark.asvs("5.3.2")
@pytest.mark.cwe("CWE-22")
def test_a_name_is_kept_beside_the_bytes_and_never_in_a_key(api: Api) -> None:
    name = "../../é\u202e\"quote'.pdf"
    answer = api.client.post("/v1/documents", files={"file": (name, b"x", "application/pdf")})
    document = answer.json()
    assert document["name"] == "é\"quote'.pdf"
    (key,) = api.objects()
    assert key == f"standard/{api.tenant}/{document['id']}/original"
    assert api.services.quarantine.head(key).headers == ObjectHeaders()  # nothing of the sender's


def test_the_correlation_id_goes_with_the_document(api: Api) -> None:
    answer = api.client.post("/v1/documents", content=b"x", headers={"X-Request-Id": "from-the-client.1"})
    assert answer.headers["x-request-id"] == answer.json()["correlation_id"] == "from-the-client.1"
    for bad in ("a b", "x" * 65, "<script>", ""):
        answer = api.client.post("/v1/documents", content=b"x", headers={"X-Request-Id": bad})
        assert answer.headers["x-request-id"] == answer.json()["correlation_id"] != bad


def digest(content: bytes, algorithm: str = "sha256") -> str:
    return base64.b64encode(hashlib.new(algorithm, content).digest()).decode()


@pytest.mark.parametrize("size", [10, 3 * PIECE])
def test_digests_are_verified(api: Api, size: int) -> None:
    content = b"d" * size
    headers = {"Content-Digest": f"sha-256=:{digest(content)}:, sha-512=:{digest(content, 'sha512')}:"}
    assert api.client.post("/v1/documents", content=content, headers=headers).status_code == 202
    answer = api.client.post("/v1/documents", content=b"e" * size, headers=headers)
    assert problem(answer, 400, "digest-mismatch")["header"] == "Content-Digest"
    assert len(api.objects()) == len(api.documents()) == 1
    assert api.leftovers() == []


def test_a_forms_digest_covers_the_whole_form_and_a_parts_its_part(api: Api) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n%b\r\n\r\ninside\r\n'
    good, bad = (part % f"Content-Digest: sha-256=:{digest(text)}:".encode() for text in (b"inside", b"other"))
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    for content, header, status in [
        (good + b"--b--", {}, 202),
        (bad + b"--b--", {}, 400),
        (good + b"--b--", {"Content-Digest": f"sha-256=:{digest(good + b'--b--')}:"}, 202),
        (good + b"--b--", {"Content-Digest": f"sha-256=:{digest(b'inside')}:"}, 400),
        (good + good + bad + b"--b--", {}, 400),
    ]:
        assert api.client.post("/v1/documents", content=content, headers=kind | header).status_code == status
    assert len(api.objects()) == len(api.documents()) == 2


@pytest.mark.asvs("5.2.1")
@pytest.mark.parametrize("way", ["raw", "chunked", "form", "second file"])
def test_one_byte_over_the_limit_is_refused_and_leaves_nothing(api: Api, way: str) -> None:
    content = bytes(LIMIT + 1)
    if way == "raw":
        answer = api.client.post("/v1/documents", content=content)
    elif way == "chunked":
        answer = api.client.post("/v1/documents", content=iter([content[:PIECE]] * 9))
    elif way == "form":
        answer = api.client.post("/v1/documents", files={"file": ("a", content)})
    else:
        answer = api.client.post("/v1/documents", files=[("f", ("a", b"x")), ("f", ("b", content))])
    assert problem(answer, 413, "too-large")["limit"] == {"name": "bytes", "value": LIMIT}
    assert api.objects() == api.documents() == api.leftovers() == api.bell.rung == []


def test_too_long_by_its_own_word_is_refused_before_a_byte_is_read(api: Api) -> None:
    with api.connect() as sock:
        sock.sendall(
            f"POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
            f"Content-Length: {LIMIT + 1}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        # The answer comes although no byte of the body was sent, and without a 100 Continue that would invite it.
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_too_many_files(api: Api) -> None:
    answer = api.client.post("/v1/documents", files=[("f", (f"{n}", b"x")) for n in range(6)])
    assert problem(answer, 413, "too-large")["limit"] == {"name": "files", "value": 5}
    assert api.objects() == api.documents() == []


@pytest.mark.parametrize("size", [100, 3 * PIECE])
def test_a_client_that_stops_half_way_leaves_nothing(api: Api, size: int) -> None:
    with api.connect() as sock:
        sock.sendall(
            f"POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n"
            f"Content-Length: {size + 10_000}\r\n\r\n".encode()
            + b'--b\r\nContent-Disposition: form-data; name="f"; filename="1"\r\n\r\nfirst\r\n'
            + b'--b\r\nContent-Disposition: form-data; name="f"; filename="2"\r\n\r\n'
            + bytes(size)
        )
        # The first file is durable by now, or will be; wait until its bytes are there.
        wait_for(lambda: len(api.objects()) == 1)
    wait_for(lambda: api.objects() == api.leftovers() == [])
    assert api.documents() == []


def wait_for(condition: Any, seconds: float = 30) -> None:
    over = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        over.wait(0.02)
    pytest.fail("it never came about")


def test_an_idempotency_key_stands_for_one_request(api: Api) -> None:
    headers = {"Idempotency-Key": '"first"'}
    first = api.client.post("/v1/documents", content=b"same", headers=headers)
    again = api.client.post("/v1/documents", content=b"same", headers={"Idempotency-Key": "first"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    for changed in (
        {"content": b"other"},
        {"content": b"same", "params": {"name": "other.txt"}},
        {"files": {"file": ("a", b"same")}},
    ):
        problem(api.client.post("/v1/documents", headers=headers, **changed), 422, "idempotency-conflict")
    assert len(api.objects()) == len(api.documents()) == len(api.bell.rung) == 1
    other = api.as_tenant(f"{api.tenant}-b")
    with other.client:
        assert other.client.post("/v1/documents", content=b"other", headers=headers).status_code == 202


def test_of_racers_with_one_key_one_stores_and_all_get_its_answer(api: Api) -> None:
    content = b"r" * (2 * PIECE)
    together = threading.Barrier(8)

    def send(_: int) -> tuple[int, str]:
        def body() -> Iterator[bytes]:
            yield content[:PIECE]
            together.wait(30)  # every request has looked its key up, and found nothing
            yield content[PIECE:]

        with api.make_client() as client:
            answer = client.post("/v1/documents", content=body(), headers={"Idempotency-Key": "race"})
        return answer.status_code, answer.json()["id"]

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(send, range(8)))
    assert len(answers) == 1
    assert answers.pop()[0] == 202
    assert len(api.objects()) == len(api.documents()) == len(api.bell.rung) == 1
    assert api.leftovers() == []


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, error: Exception) -> Iterator[None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(kind, name, fail)
        yield


@pytest.mark.parametrize("method", ["write", "commit"])
@pytest.mark.parametrize("size", [10, 3 * PIECE])
def test_a_store_that_fails_is_a_503_and_leaves_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch, method: str, size: int
) -> None:
    with failing(monkeypatch, LocalWriter, method, StoreUnavailable("disk at /secret is gone")):
        answer = api.client.post("/v1/documents", content=bytes(size))
    body = problem(answer, 503, "store-unavailable")
    assert "/secret" not in json.dumps(body)
    assert answer.headers["retry-after"]
    assert api.objects() == api.documents() == api.leftovers() == []


def test_a_ledger_that_is_away_before_the_commit_leaves_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing(monkeypatch, Transaction, "insert", LedgerUnavailable()):
        answer = api.client.post("/v1/documents", files=[("f", ("a", b"1")), ("f", ("b", b"2"))])
    problem(answer, 503, "ledger-unavailable")
    assert api.objects() == api.documents() == api.bell.rung == []


def test_when_the_commits_answer_is_lost_the_bytes_stay_and_the_retry_finds_them(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = api.services.ledger
    begin = type(ledger).begin

    @contextmanager
    def lossy(self: Any) -> Iterator[Transaction]:
        with begin(self) as tx:
            yield tx
        raise LedgerUnavailable("the connection was lost")

    headers = {"Idempotency-Key": "lost"}
    with monkeypatch.context() as patch:
        patch.setattr(type(ledger), "begin", lossy)
        problem(api.client.post("/v1/documents", content=b"once", headers=headers), 503, "ledger-unavailable")
    again = api.client.post("/v1/documents", content=b"once", headers=headers)
    assert again.status_code == 202
    assert again.headers["idempotency-replayed"] == "true"
    assert stored(api, again.json()["id"]) == b"once"
    assert len(api.documents()) == 1


def test_an_unforeseen_error_tells_nothing_and_leaves_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing(monkeypatch, LocalStore, "create", RuntimeError("the password is hunter2")):
        answer = api.client.post("/v1/documents", content=b"x")
    assert "hunter2" not in json.dumps(problem(answer, 500, "internal-error"))
    assert api.objects() == api.documents() == []
