"""Uploads straight to Cloud Storage, really sent: signed PUTs and resumable sessions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from pipeline import presigned as rules
from pipeline.invariants import violations
from pipeline.landing import Outcome, land_key
from pipeline.sweeper import reconcile
from tests.integration.api_server import Api, serving
from tests.integration.presigned import PATH, Uploads, curl, send
from tests.integration.test_api_uploads import problem
from tests.integration.tus import arrived, assert_arrived, content_of
from tests.servers.gcs_double import GCSDouble

GRAIN = 256 << 10
REFUSED = (400, 401, 403, 404, 410, 412, 499)


@pytest.fixture(scope="module")
def bucket(gcs_server: GCSDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API over two such buckets."""
    urls = {f"{role}_url": gcs_server.url(f"presigned-{role}") for role in ("quarantine", "serving")}
    folder = tmp_path_factory.mktemp("presigned-gcs")
    with serving(folder, orphan_after_seconds=0.001, cors_origins="https://app.example", **urls) as api:
        yield api
        for store in (api.services.quarantine, api.services.serving):
            store.client.close()  # type: ignore[attr-defined]


_COUNT = iter(range(1000))


@pytest.fixture
def gcs(bucket: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Uploads]:
    """A new tenant's client; what has a mebibyte is large."""
    monkeypatch.setattr(rules, "LARGE", 1 << 20)
    bucket.bell.rung.clear()
    mine = bucket.as_tenant(f"tenant-{next(_COUNT)}")
    try:
        yield Uploads(mine)
    finally:
        mine.client.close()


def send_piece(session: dict[str, Any], at: int, piece: bytes, total: int | str) -> httpx.Response:
    """A piece of a session, as its documentation has it."""
    span = f"bytes {at}-{at + len(piece) - 1}/{total}" if piece else f"bytes */{total}"
    return httpx.put(session["url"], content=piece, headers={"Content-Range": span}, timeout=60)


def held(answer: httpx.Response) -> int:
    """How many bytes the session keeps."""
    assert answer.status_code == 308
    return int(answer.headers["range"].rpartition("-")[2]) + 1 if "range" in answer.headers else 0


def test_a_signed_put(gcs: Uploads) -> None:
    told = gcs.begin(5, type="text/plain")
    assert told["method"] == "put"
    assert told["put"]["headers"]["x-goog-if-generation-match"] == "0"
    problem(gcs.complete(told), 409, "upload-incomplete")
    for content, changed in (
        (b"123456", {}),
        (b"12345", {"Content_Type": "text/html"}),
        (b"12345", {"x_goog_if_generation_match": None}),
        (b"12345", {"x_goog_content_length_range": "0,99"}),
    ):
        assert send(told["put"], content, **changed).status_code in REFUSED  # type: ignore[arg-type]
    assert curl(told["put"], b"12345") == 200
    assert send(told["put"], b"later").status_code == 412
    assert gcs.completed(told)["state"] == gcs.completed(told)["state"] == "quarantined"
    assert_arrived(told["id"], b"12345", gcs.api.services)
    send(told["put"], b"later")  # its place is free by now
    assert land_key(gcs.row(told)[0].key, None, gcs.api.services, actor="event") is Outcome.KNOWN
    reconcile(gcs.api.services)
    assert [stat.ref.key for stat in gcs.api.services.quarantine.list(gcs.row(told)[0].key)] == []
    assert violations(gcs.api.services) == []


def test_a_session_that_breaks_and_goes_on(gcs: Uploads) -> None:
    content = content_of((2 << 20) + 7)
    told = gcs.begin(len(content), type="text/plain")
    assert (told["method"], told["session"]["grain"]) == ("session", GRAIN)
    session = told["session"]
    assert held(send_piece(session, 0, content[: 2 * GRAIN], len(content))) == 2 * GRAIN
    problem(gcs.complete(told), 409, "upload-incomplete")
    again = gcs.api.client.post(f"{PATH}/{told['id']}/sign").json()["session"]
    assert again == session  # it is the same, with all that it has
    at = held(send_piece(again, 0, b"", len(content)))
    answer = send_piece(session, at, content[at:], len(content))
    assert answer.status_code in (200, 201)
    assert gcs.completed(told)["state"] == gcs.completed(told)["state"] == "quarantined"
    assert_arrived(told["id"], content, gcs.api.services)


def test_without_a_size_it_is_a_session(gcs: Uploads) -> None:
    told = gcs.begin()
    assert told["method"] == "session"
    assert held(send_piece(told["session"], 0, bytes(GRAIN), "*")) == GRAIN
    assert send_piece(told["session"], GRAIN, b"end", GRAIN + 3).status_code in (200, 201)
    gcs.completed(told)
    assert_arrived(told["id"], bytes(GRAIN) + b"end", gcs.api.services)
    body = problem(gcs.ask(5, methods=["multipart", "post"]), 422, "no-such-way")
    assert body["methods"] == ["put", "session", "tus"]


def test_other_bytes_than_announced_are_measured_when_they_land(gcs: Uploads) -> None:
    told = gcs.begin(GRAIN, "session")
    assert send_piece(told["session"], 0, b"short", 5).status_code in (200, 201)
    document = gcs.completed(told)
    assert (document["state"], document["reason"]) == ("rejected", "digest_mismatch")
    assert "262144 bytes were announced, and 5 arrived" in document["detail"]
    large = gcs.begin(None, "session")
    most = gcs.api.services.policy.limits.bytes + 1
    assert send_piece(large["session"], 0, bytes(most), most).status_code in (200, 201)
    gcs.completed(large)
    document = arrived(large["id"], gcs.api.services)
    assert (document.state, document.reason) == ("rejected", "too_large")


def test_a_session_is_used_once(gcs: Uploads) -> None:
    told = gcs.begin(5, "session")
    assert send_piece(told["session"], 0, b"first", 5).status_code in (200, 201)
    gcs.completed(told)
    assert_arrived(told["id"], b"first", gcs.api.services)
    send_piece(told["session"], 0, b"later", 5)
    assert [stat.ref.key for stat in gcs.api.services.quarantine.list(gcs.row(told)[0].key)] == []
    assert gcs.completed(told)["state"] == "available"
    assert violations(gcs.api.services) == []


def test_given_up_the_session_is_closed(gcs: Uploads, gcs_server: GCSDouble) -> None:
    before = len(gcs_server.sessions)
    told = gcs.begin(5, "session")
    assert len(gcs_server.sessions) == before + 1
    assert gcs.delete(told).status_code == 204
    gcs.swept()
    assert len(gcs_server.sessions) == before
    assert send_piece(told["session"], 0, b"12345", 5).status_code in REFUSED
    problem(gcs.complete(told), 410, "upload-gone")
    assert gcs.row(told)[0].progress == ""  # its URL is a secret: nothing keeps it any longer


def test_one_key_opens_one_session(gcs: Uploads, gcs_server: GCSDouble) -> None:
    before = len(gcs_server.sessions)
    headers = {"Idempotency-Key": "one"}
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: gcs.ask(5, methods=["session"], headers=headers).json(), range(5)))
    assert len({answer["session"]["url"] for answer in answers}) == 1
    assert len(gcs_server.sessions) == before + 1
    assert send_piece(answers[0]["session"], 0, b"12345", 5).status_code in (200, 201)
    gcs.completed(answers[0])


def test_a_session_is_for_the_page_that_asked_if_it_may(gcs: Uploads, gcs_server: GCSDouble) -> None:
    for origin, kept in (("https://app.example", "https://app.example"), ("https://evil.example", None), (None, None)):
        headers = {} if origin is None else {"Origin": origin}
        told = gcs.begin(5, "session", headers=headers)
        name = told["session"]["url"].rpartition("=")[2]
        assert gcs_server.sessions.find(name).origin == kept


def test_nobody_else_learns_of_a_session(gcs: Uploads) -> None:
    told = gcs.begin(5, "session")
    theirs = gcs.api.as_tenant(f"not-{gcs.api.tenant}")
    with theirs.client as client:
        for verb, path in (("GET", ""), ("POST", "/sign"), ("POST", "/complete"), ("DELETE", "")):
            answer = client.request(verb, f"{PATH}/{told['id']}{path}")
            problem(answer, 404, "not-found")
            assert told["session"]["url"] not in answer.text
    assert "session" not in gcs.get(told)  # only who signs again is told
