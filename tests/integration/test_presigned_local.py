"""`/v1/uploads` over a store without a server of its own: what is asked, what is answered, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import update

from pipeline.api_keys import make_key
from pipeline.documents import UploadState
from pipeline.errors import LedgerUnavailable
from pipeline.invariants import violations
from pipeline.ledger.models import uploads as rows
from pipeline.ledger.queries import Transaction
from pipeline.storage.base import MAX_SIGNED
from tests.integration.api_server import Api, serving
from tests.integration.presigned import PATH, Uploads, curl, send
from tests.integration.test_api_uploads import LIMIT, problem
from tests.integration.test_chunks_sessions import hostile_names
from tests.integration.test_quota import policy_in
from tests.integration.tus import Tus, arrived, assert_arrived, content_of


@pytest.mark.parametrize("size", [1, 1000, (1 << 20) + 1, LIMIT])
def test_a_signed_put_becomes_the_document_at_once(uploads: Uploads, size: int) -> None:
    content = content_of(size)
    told = uploads.begin(size, type="text/plain", sha256=hashlib.sha256(content).hexdigest())
    assert told["method"] == "put"
    put = told["put"]
    assert put["headers"] == {"Content-Type": "text/plain", "If-None-Match": "*"}
    lives = datetime.fromisoformat(put["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=50) < lives <= MAX_SIGNED
    answer = send(put, content)
    assert answer.status_code == 201
    assert [str(one) for one in uploads.api.bell.rung] == [told["id"]]
    document = uploads.api.client.get(f"/v1/documents/{told['id']}").json()
    assert (document["state"], document["size"], document["via"]) == ("quarantined", size, "put")
    assert uploads.get(told)["document"]["state"] == "quarantined"
    assert uploads.completed(told)["state"] == "quarantined"  # nothing is left to be done, and nothing is done twice
    assert len(uploads.api.bell.rung) == 1
    assert_arrived(told["id"], content, uploads.api.services)
    assert uploads.completed(told)["state"] == "available"


def test_curl_sends_it_as_well(uploads: Uploads) -> None:
    told = uploads.begin(5)
    assert curl(told["put"], b"12345") == 201
    assert curl(told["put"], b"12345") == 409
    assert_arrived(told["id"], b"12345", uploads.api.services)


@pytest.mark.parametrize(
    ("told", "changed", "content", "status"),
    [
        ({}, {"Content_Type": "text/html"}, b"12345", 403),
        ({}, {"Content_Type": None}, b"12345", 403),
        ({}, {"If_None_Match": '"abc"'}, b"12345", 412),
        ({}, {}, b"1234", 403),
        ({}, {}, b"123456", 403),
        ({}, {}, b"", 403),
    ],
)
def test_a_url_is_for_one_type_and_one_size(
    uploads: Uploads, told: dict[str, Any], changed: dict[str, Any], content: bytes, status: int
) -> None:
    upload = uploads.begin(5, type="text/plain", **told)
    assert send(upload["put"], content, **changed).status_code == status
    assert uploads.get(upload)["state"] == "open"
    problem(uploads.complete(upload), 409, "upload-incomplete")
    assert uploads.api.objects() == []
    assert uploads.api.leftovers() == []


def test_a_url_is_for_one_key_and_cannot_be_changed(uploads: Uploads) -> None:
    one, two = uploads.begin(5), uploads.begin(5)
    url = one["put"]["url"]
    for other in (
        url.replace(one["id"], two["id"]),
        url.replace("/original", "/text"),
        url.replace("quarantine", "serving"),
        url.replace("size=5", "size=6"),
        url.replace("size=5", ""),
        url.replace("exp=", "exp=9"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
    ):
        assert other != url
        assert send({**one["put"], "url": other}, b"12345").status_code == 403
    assert httpx.get(url).status_code == 403
    assert uploads.api.objects() == []


def test_a_url_that_is_used_again_changes_nothing(uploads: Uploads) -> None:
    told = uploads.begin(5)
    assert send(told["put"], b"first").status_code == 201
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda n: send(told["put"], b"later").status_code, range(4)))
    assert set(again) == {409}
    assert_arrived(told["id"], b"first", uploads.api.services)
    # The original is gone from quarantine by now, and its place is free: the upload is complete all the same.
    problem(send(told["put"], b"later"), 409, "conflict")
    assert [key for key in uploads.api.objects() if "quarantine" in key] == []
    assert (
        uploads.api.client.get(f"/v1/documents/{told['id']}").json()["sha256"] == hashlib.sha256(b"first").hexdigest()
    )
    moved = uploads.api.client.get(f"/v1/documents/{told['id']}/content")
    assert httpx.get(moved.headers["location"]).content == b"first"


def test_two_that_race_for_one_url(uploads: Uploads) -> None:
    told = uploads.begin(5)
    bodies = [b"%05d" % number for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: send(told["put"], body).status_code, bodies))
    assert sorted(answers) == [201, *[409] * 7]
    assert_arrived(told["id"], bodies[answers.index(201)], uploads.api.services)


def test_an_upload_that_was_given_up_takes_nothing(uploads: Uploads) -> None:
    told = uploads.begin(5)
    assert uploads.delete(told).status_code == 204
    assert uploads.delete(told).status_code == 204
    assert send(told["put"], b"12345").status_code == 410
    problem(uploads.complete(told), 410, "upload-gone")
    problem(uploads.api.client.post(f"{PATH}/{told['id']}/sign"), 410, "upload-gone")
    found = uploads.get(told)
    assert (found["state"], "put" in found, "complete" in found["links"]) == ("aborted", False, False)
    assert uploads.api.objects() == []


def overdue(uploads: Uploads, told: dict[str, Any]) -> None:
    with uploads.api.services.ledger.begin() as tx:
        tx._connection.execute(update(rows).where(rows.c.id == UUID(told["id"])).values(expires_at=1))


def test_an_upload_that_nobody_finishes_ends(uploads: Uploads) -> None:
    told = uploads.begin(5)
    overdue(uploads, told)
    uploads.swept()
    assert uploads.get(told)["state"] == "expired"
    assert send(told["put"], b"12345").status_code == 410
    problem(uploads.complete(told), 410, "upload-gone")
    problem(uploads.delete(told), 410, "upload-gone")


def test_what_has_landed_is_a_document_although_nobody_was_told(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger was away at the very moment: the bytes are there, and are taken by whoever looks next."""
    first, second, third = (uploads.begin(5) for _ in range(3))

    def away(*_: object, **__: object) -> Any:
        raise LedgerUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "insert", away)
        for told in (first, second, third):
            assert send(told["put"], b"12345").status_code == 201
    assert uploads.get(first)["state"] == "open"
    assert uploads.completed(first)["state"] == "quarantined"
    overdue(uploads, second)
    uploads.swept()  # finds the late one by its time, and the young one by its object
    for told in (second, third):
        assert uploads.get(told)["document"]["state"] == "quarantined"
    assert violations(uploads.api.services) == []


def test_signed_again_for_the_same_upload(uploads: Uploads) -> None:
    told = uploads.begin(5)
    again = uploads.api.client.post(f"{PATH}/{told['id']}/sign").json()
    assert again["id"] == told["id"]
    assert send(again["put"], b"12345").status_code == 201
    problem(uploads.api.client.post(f"{PATH}/{told['id']}/sign"), 409, "conflict")


def test_without_a_size_it_is_tus(uploads: Uploads) -> None:
    told = uploads.begin()
    assert (told["method"], told["tus"]["headers"]) == ("tus", {"Tus-Resumable": "1.0.0"})
    tus, url = Tus(uploads.api), told["tus"]["url"]
    assert url == f"{uploads.api.url}/v1/uploads/tus/{told['id']}"
    body = problem(uploads.complete(told), 409, "upload-incomplete")
    assert (body["received_bytes"], body["expected_bytes"]) == (0, None)
    assert tus.patch(url, 0, b"12345").status_code == 204
    assert uploads.get(told)["offset"] == 5
    assert tus.patch(url, 5, b"678", Upload_Length="8").status_code == 204
    assert uploads.completed(told)["state"] == "received"
    assert_arrived(told["id"], b"12345678", uploads.api.services)


def test_a_put_without_a_size_only_where_it_is_asked_for(uploads: Uploads) -> None:
    told = uploads.begin(None, "put")
    assert send(told["put"], iter([bytes(1 << 20)] * 9)).status_code == 413
    assert uploads.api.objects() == uploads.api.leftovers() == []
    assert send(told["put"], iter([b"some", b" text"])).status_code == 201
    assert_arrived(told["id"], b"some text", uploads.api.services)


def test_the_client_says_what_it_can_do(uploads: Uploads) -> None:
    assert uploads.begin(5, "multipart", "tus", "put")["method"] == "tus"
    body = problem(uploads.ask(5, methods=["multipart", "session", "post"]), 422, "no-such-way")
    assert body["methods"] == ["put", "tus"]
    problem(uploads.ask(5, methods=["chunks"]), 422, "invalid-parameters")
    assert uploads.api.client.get(f"{PATH}/{uploads.begin(5)['id']}/parts").status_code == 404
    assert uploads.api.client.get(f"{PATH}/{uploads.begin(5)['id']}/parts/sent").status_code == 404


def test_other_bytes_than_announced_are_told_as_such(uploads: Uploads) -> None:
    content = b"12345"
    told = uploads.begin(5, sha256=base64.b64encode(hashlib.sha256(b"other").digest()).decode())
    assert send(told["put"], content).status_code == 201
    arrived(told["id"], uploads.api.services)
    document = uploads.get(told)["document"]
    assert (document["state"], document["reason"]) == ("rejected", "digest_mismatch")
    # Of another size than announced, by a way past this service.
    told = uploads.begin(6)
    with uploads.api.services.quarantine.create(uploads.row(told)[0].key) as writer:
        writer.write(content)
        writer.commit()
    document = uploads.completed(told)
    assert (document["state"], document["reason"]) == ("rejected", "digest_mismatch")
    assert "6 bytes were announced" in document["detail"]


def test_the_same_key_begins_the_same_upload(uploads: Uploads) -> None:
    headers = {"Idempotency-Key": "one"}
    first, again = uploads.ask(5, headers=headers), uploads.ask(5, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    for other in ({"size": 6}, {"size": 5, "name": "b.txt"}, {"size": 5, "methods": ["tus"]}):
        problem(uploads.ask(**other, headers=headers), 422, "idempotency-conflict")  # type: ignore[arg-type]
    send(again.json()["put"], b"12345")
    done = uploads.ask(5, headers=headers)
    assert (done.status_code, done.json()["document"]["state"], "put" in done.json()) == (201, "quarantined", False)
    with ThreadPoolExecutor(6) as pool:
        ids = {answer.json()["id"] for answer in
               pool.map(lambda _: uploads.ask(5, headers={"Idempotency-Key": "two"}), range(6))}  # fmt: skip
    assert len(ids) == 1
    with uploads.api.services.ledger.reading() as tx:
        assert tx.open_uploads(uploads.api.tenant) == (1, 5)


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ({"size": LIMIT + 1}, 413, "too-large"),
        ({"size": 0}, 400, "empty-file"),
        ({"size": -1}, 422, "invalid-parameters"),
        ({"size": 2**63}, 422, "invalid-parameters"),
        ({"size": "5"}, 422, "invalid-parameters"),
        ({"size": 5.5}, 422, "invalid-parameters"),
        ({"size": True}, 422, "invalid-parameters"),
        ({"size": [5]}, 422, "invalid-parameters"),
        ({"size": 5, "name": "a.zip"}, 415, "type-not-allowed"),
        ({"size": 5, "type": "application/zip"}, 415, "type-not-allowed"),
        ({"size": 5, "sha256": "abc"}, 422, "invalid-parameters"),
        ({"size": 5, "checksum": 7}, 422, "invalid-parameters"),
        ({"size": 5, "methods": "put"}, 422, "invalid-parameters"),
        ({"size": 5, "methods": ["put"] * 50}, 422, "invalid-parameters"),
        ({"size": 5, "sise": 6}, 422, "invalid-parameters"),
        ({"size": 5, "key": "standard/acme/x/original"}, 422, "invalid-parameters"),
        ({"size": 5, "name": "x" * 5000}, 422, "invalid-parameters"),
        ({"size": 5, "name": {"a": 1}}, 422, "invalid-parameters"),
    ],
)
def test_what_could_never_pass_is_refused_before_a_byte_is_sent(
    uploads: Uploads, told: dict[str, object], status: int, code: str
) -> None:
    answer = uploads.api.client.post(PATH, json=told)
    body = problem(answer, status, code)
    if code == "invalid-parameters":
        assert body["errors"]
        assert "xxxx" not in answer.text
    with uploads.api.services.ledger.reading() as tx:
        assert tx.open_uploads(uploads.api.tenant) == (0, 0)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 60_000, b'"x"', b"{}" * 40_000])
def test_bodies_that_are_none(uploads: Uploads, body: bytes) -> None:
    for path in (PATH, f"{PATH}/{uploads.begin(5)['id']}/complete"):
        answer = uploads.api.client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 413), answer.text
    problem(uploads.api.client.post(PATH, content=b"{}", headers={"Content-Encoding": "gzip"}), 415,
            "unsupported-content")  # fmt: skip
    parts = {"parts": [{"number": 1}] * 10_001}
    problem(uploads.complete(uploads.begin(5), parts["parts"]), 422, "invalid-parameters")


@pytest.mark.asvs("5.3.2")
@pytest.mark.cwe("CWE-22")
def test_ten_thousand_hostile_names_and_none_in_a_key(uploads: Uploads) -> None:
    from pipeline.documents import UploadMethod
    from pipeline.uploads import new_upload

    services, tenant = uploads.api.services, uploads.api.tenant
    for name in hostile_names(100):
        told = uploads.begin(1, name=name)
        assert f"/standard/{tenant}/{told['id']}/original?" in told["put"]["url"]
    for name in hostile_names(10_000):  # the rule itself, without a socket
        upload = new_upload(
            services, tenant, UploadMethod.PUT, name=name, declared_type=None, size=1, correlation_id="x"
        )
        assert upload.key == f"standard/{tenant}/{upload.id}/original"
        assert upload.name is None or not set(upload.name) & set("\x00\r\n\u202e/\\")


@pytest.mark.parametrize(
    "kind", ["text/html; charset=x", "TEXT/Plain", "a/b\r\nX: y", "garbage", "*/*", "é/é", "a" * 400]
)
def test_whatever_is_called_a_type(uploads: Uploads, kind: str) -> None:
    answer = uploads.ask(5, type=kind)
    if answer.status_code == 415:
        return
    put = answer.json()["put"]
    assert "\r" not in put["headers"]["Content-Type"]
    assert send(put, b"12345").status_code == 201


@pytest.mark.asvs("8.2.2")
@pytest.mark.asvs("8.4.1")
def test_another_tenant_finds_nothing(uploads: Uploads) -> None:
    told = [uploads.begin(5), uploads.begin(), uploads.begin(5)]
    send(told[2]["put"], b"12345")
    theirs = Uploads(uploads.api.as_tenant(f"not-{uploads.api.tenant}"))
    with theirs.api.client as client:
        for upload in [*told, {"id": str(uuid4())}]:
            base = f"{PATH}/{upload['id']}"
            for verb, path in (
                ("GET", base), ("DELETE", base), ("POST", f"{base}/complete"), ("POST", f"{base}/sign"),
                ("GET", f"{base}/parts"), ("GET", f"{base}/parts/sent"),
            ):  # fmt: skip
                problem(client.request(verb, path), 404, "not-found")
        assert client.get(f"{PATH}/no-id").status_code == 404
        headers = {"Idempotency-Key": "shared"}
        assert theirs.ask(5, headers=headers).json()["id"] != uploads.ask(5, headers=headers).json()["id"]
    assert uploads.get(told[0])["state"] == "open"
    assert theirs.api.objects() == []


def test_keys_and_scopes(uploads: Uploads) -> None:
    base = f"{PATH}/{uploads.begin(5)['id']}"
    reader = make_key(uploads.api.services.ledger, uploads.api.tenant, scopes=frozenset({"documents:read"}))
    with uploads.api.make_client("") as nobody, uploads.api.make_client(reader) as reads:
        for verb, path in (
            ("POST", PATH), ("GET", base), ("DELETE", base), ("POST", f"{base}/complete"), ("POST", f"{base}/sign"),
            ("GET", f"{base}/parts"), ("GET", f"{base}/parts/sent"),
        ):  # fmt: skip
            problem(nobody.request(verb, path, json={} if verb == "POST" else None), 401, "unauthorized")
            problem(reads.request(verb, path, json={} if verb == "POST" else None), 403, "forbidden")


def test_uploads_of_other_kinds_are_shown_and_ended_here_too(uploads: Uploads) -> None:
    session = uploads.api.client.post("/api/v1/file/upload/init/", json={"fileName": "a.txt"}).json()["sessionId"]
    assert uploads.get(session)["method"] == "chunks"
    problem(uploads.complete(session), 409, "upload-incomplete")
    assert uploads.delete(session).status_code == 204
    assert uploads.get(session)["state"] == "aborted"
    told = uploads.begin(5)
    send(told["put"], b"12345")
    problem(uploads.delete(told), 409, "conflict")


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[Uploads]:
    policy = policy_in(tmp_path, "open_uploads = 3\ndocuments = 4\nbytes = 5000")
    with serving(tmp_path, policy_file=policy, body_limit_bytes=3000, presign_seconds=7200) as api:
        yield Uploads(api)


@pytest.mark.asvs("5.2.4")
def test_quotas_hold_however_many_ask_at_once(bounded: Uploads) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: bounded.ask(1000), range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 7
    limits = {answer.json()["limit"]["name"] for answer in answers if answer.status_code == 429}
    assert limits == {"open_uploads"}
    for told in (answer.json() for answer in answers if answer.status_code == 201):
        assert send(told["put"], bytes(1000)).status_code == 201
    body = problem(bounded.ask(2001), 429, "quota-exceeded")
    assert body["limit"] == {"name": "bytes", "value": 5000}
    assert bounded.begin(2000)["method"] == "put"


@pytest.mark.asvs("5.2.4")
def test_with_a_quota_of_bytes_only_what_is_counted_may_come_without_a_size(bounded: Uploads) -> None:
    assert bounded.begin()["method"] == "tus"
    assert problem(bounded.ask(methods=["put"]), 422, "no-such-way")["methods"] == ["tus"]


def test_what_is_too_large_for_one_request_goes_by_tus_in_several(bounded: Uploads) -> None:
    assert bounded.begin(1500)["method"] == "put"
    told = bounded.begin(3001)
    assert (told["method"], told["tus"]["request_bytes"]) == ("tus", 3000)
    tus, url = Tus(bounded.api), told["tus"]["url"]
    assert tus.patch(url, 0, bytes(3000)).status_code == 204
    assert tus.patch(url, 3000, b"x").status_code == 204
    assert bounded.completed(told)["state"] == "received"
    refused = problem(bounded.api.client.post("/v1/documents", content=bytes(3001)), 413, "platform-limit")
    assert refused["links"]["upload"] == PATH


def test_a_thousand_urls_leave_no_trace_in_the_logs(uploads: Uploads, capsys: pytest.CaptureFixture[str]) -> None:
    told = uploads.begin(5)
    send(told["put"], b"12345")
    shown = capsys.readouterr()
    assert "sig=" not in shown.out + shown.err


def test_what_the_document_says_of_the_routes(api: Api) -> None:
    schema = api.client.get("/openapi.json").json()
    verbs = schema["paths"]["/v1/uploads"]["post"]
    assert {"201", "413", "415", "422", "429"} <= set(verbs["responses"])
    assert "/v1/uploads/{upload_id}/parts/sent" in schema["paths"]
    assert json.dumps(schema).count("#/components/schemas/UploadOut") >= 4


def test_random_order_of_everything_ends_in_one_document_or_none(uploads: Uploads) -> None:
    rng = random.Random(11)
    for _ in range(6):
        told = uploads.begin(5)
        calls = [
            lambda told=told: send(told["put"], b"12345").status_code,
            lambda told=told: uploads.complete(told).status_code,
            lambda told=told: uploads.delete(told).status_code,
            lambda told=told: send(told["put"], b"54321").status_code,
        ]
        rng.shuffle(calls)
        with ThreadPoolExecutor(4) as pool:
            answers = [one.result() for one in [pool.submit(call) for call in calls]]
        assert all(answer < 500 for answer in answers), answers
        state = uploads.row(told)[0].state
        with uploads.api.services.ledger.reading() as tx:
            known = bool(tx.known({UUID(told["id"])}))
        assert known == (state is UploadState.COMPLETED)
    uploads.swept()
    assert violations(uploads.api.services) == []
