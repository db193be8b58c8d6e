"""Uploads straight to S3, really sent: signed PUTs, forms and parts, on a bucket with versions and on one without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx
import pytest

from pipeline import parts as in_parts
from pipeline.invariants import violations
from pipeline.landing import Outcome, land_key
from pipeline.parts import MIB
from pipeline.storage.s3 import S3Store
from pipeline.sweeper import abort_unfinished, reconcile
from tests.integration.api_server import POLICY, Api, serving
from tests.integration.presigned import PATH, Uploads, curl, send, send_form
from tests.integration.test_api_uploads import problem
from tests.integration.tus import Tus, arrived, assert_arrived, content_of
from tests.servers.seaweedfs import S3Server

REFUSED = (400, 401, 403, 404, 409, 412)
LIMIT = 24 * MIB
PART = 5 * MIB


@pytest.fixture(scope="module", params=["plain", "versioned"])
def bucket(
    request: pytest.FixtureRequest, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """An API over two such buckets."""
    folder = tmp_path_factory.mktemp(f"presigned-{request.param}")
    (folder / "policy.toml").write_text(POLICY.read_text().replace('bytes = "256 MiB"', f"bytes = {LIMIT}", 1))
    urls = {f"{role}_url": s3_server.url(f"presigned-{request.param}-{role}") for role in ("quarantine", "serving")}
    with serving(folder, orphan_after_seconds=0.001, presign_seconds=120, **urls) as api:
        for store in (api.services.quarantine, api.services.serving):
            assert isinstance(store, S3Store)
            if request.param == "versioned":
                store.client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
            for left in list(store.list()):
                store.delete(left.ref)
        yield api


_COUNT = iter(range(1000))


@pytest.fixture
def s3(bucket: Api) -> Iterator[Uploads]:
    """A new tenant's client."""
    bucket.bell.rung.clear()
    mine = bucket.as_tenant(f"tenant-{next(_COUNT)}")
    try:
        yield Uploads(mine)
    finally:
        mine.client.close()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of the least size that S3 allows."""
    monkeypatch.setattr(in_parts, "PART", PART)


def store_of(uploads: Uploads) -> S3Store:
    store = uploads.api.services.quarantine
    assert isinstance(store, S3Store)
    return store


def unfinished(uploads: Uploads) -> list[str]:
    """Keys of the tenant's unfinished uploads in the bucket."""
    store = store_of(uploads)
    found = store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads", ())
    return [one["Key"] for one in found if f"/{uploads.api.tenant}/" in one["Key"]]


def versioned(uploads: Uploads) -> bool:
    return "versioned" in store_of(uploads).bucket


def served(uploads: Uploads, told: dict[str, Any]) -> bytes:
    moved = uploads.api.client.get(f"/v1/documents/{told['id']}/content")
    assert moved.status_code == 307
    return httpx.get(moved.headers["location"]).content


# One request.


def test_a_signed_put(s3: Uploads) -> None:
    content = content_of(100_000)
    told = s3.begin(len(content), type="text/plain", sha256=hashlib.sha256(content).hexdigest())
    assert told["method"] == "put"
    problem(s3.complete(told), 409, "upload-incomplete")
    assert send(told["put"], content).status_code == 200
    assert s3.api.bell.rung == []
    assert s3.completed(told)["state"] == s3.completed(told)["state"] == "quarantined"
    assert [str(one) for one in s3.api.bell.rung] == [told["id"]]
    assert_arrived(told["id"], content, s3.api.services)


def test_curl_sends_a_put_and_an_event_completes_it(s3: Uploads) -> None:
    told = s3.begin(5)
    assert curl(told["put"], b"12345") == 200
    key = s3.row(told)[0].key
    assert land_key(key, None, s3.api.services, actor="event") is Outcome.TAKEN
    assert land_key(key, None, s3.api.services, actor="event") is Outcome.KNOWN
    assert s3.completed(told)["state"] == "quarantined"
    assert_arrived(told["id"], b"12345", s3.api.services)


def test_without_event_and_complete_the_sweeper_finds_it(s3: Uploads) -> None:
    sent, waiting = s3.begin(5), s3.begin(5)
    assert send(sent["put"], b"12345").status_code == 200
    found = reconcile(s3.api.services)
    assert found["landed"] + found["adopted"] >= 1
    assert s3.get(sent)["document"]["state"] == "quarantined"
    assert s3.get(waiting)["state"] == "open"


@pytest.mark.parametrize(
    ("changed", "content"),
    [
        ({"Content_Type": "text/html"}, b"12345"),
        ({"If_None_Match": None}, b"12345"),
        ({"If_None_Match": '"abc"'}, b"12345"),
        ({}, b"123456"),
        ({}, b"1234"),
        ({}, b""),
    ],
)
def test_a_put_is_for_one_type_and_one_size_and_never_replaces(
    s3: Uploads, changed: dict[str, Any], content: bytes
) -> None:
    told = s3.begin(5, type="text/plain")
    assert send(told["put"], content, **changed).status_code in REFUSED
    problem(s3.complete(told), 409, "upload-incomplete")


def test_a_url_is_for_one_key_and_one_bucket(s3: Uploads) -> None:
    one, two = s3.begin(5), s3.begin(5)
    url = one["put"]["url"]
    for other in (
        url.replace(one["id"], two["id"]),
        url.replace("/original", "/text"),
        url.replace("-quarantine/", "-serving/"),
        url.replace("X-Amz-Expires=120", "X-Amz-Expires=7200"),
    ):
        assert other != url
        assert send({**one["put"], "url": other}, b"12345").status_code in REFUSED
    assert httpx.get(url).status_code in REFUSED
    problem(s3.complete(two), 409, "upload-incomplete")


def test_a_form_is_for_one_key_one_type_and_a_range_of_sizes(s3: Uploads) -> None:
    told = s3.begin(5, "post", type="text/plain")
    post = told["post"]
    assert post["fields"]["key"] == s3.row(told)[0].key
    for content, changed in (
        (b"123456", {}),
        (b"1234", {}),
        (b"12345", {"key": post["fields"]["key"].replace(told["id"], "x")}),
        (b"12345", {"Content-Type": "text/html"}),
    ):
        assert send_form(post, content, **changed).status_code in (400, 403), changed
    problem(s3.complete(told), 409, "upload-incomplete")
    assert send_form(post, b"12345").status_code in (200, 201, 204)
    assert s3.completed(told)["state"] == "quarantined"
    assert_arrived(told["id"], b"12345", s3.api.services)


def test_a_form_for_a_file_whose_size_nobody_knows_is_held_to_the_policy(s3: Uploads) -> None:
    told = s3.begin(None, "post")
    assert send_form(told["post"], bytes(LIMIT + 1)).status_code == 400
    assert send_form(told["post"], b"some text").status_code in (200, 201, 204)
    assert s3.completed(told)["state"] == "quarantined"
    assert_arrived(told["id"], b"some text", s3.api.services)


# Used again.


def test_a_put_that_is_used_again_before_the_scan_is_refused(s3: Uploads) -> None:
    told = s3.begin(5)
    with ThreadPoolExecutor(6) as pool:
        bodies = [b"%05d" % number for number in range(6)]
        answers = list(pool.map(lambda body: send(told["put"], body).status_code, bodies))
    assert answers.count(200) == 1
    assert set(answers) - {200} <= set(REFUSED)
    s3.completed(told)
    assert send(told["put"], b"later").status_code in REFUSED
    assert_arrived(told["id"], bodies[answers.index(200)], s3.api.services)


@pytest.mark.parametrize("method", ["put", "post"])
def test_a_url_that_is_used_again_after_the_scan_changes_nothing_that_is_served(s3: Uploads, method: str) -> None:
    def again(content: bytes) -> int:
        return (
            send(told["put"], content).status_code if method == "put" else send_form(told["post"], content).status_code
        )

    told = s3.begin(5, method)
    assert again(b"first") < 300
    s3.completed(told)
    assert_arrived(told["id"], b"first", s3.api.services)
    key = s3.row(told)[0].key
    for _ in range(2):
        again(b"later")  # its place in quarantine is free by now: the store may take it
        assert land_key(key, None, s3.api.services, actor="event") is Outcome.KNOWN
        assert s3.completed(told)["state"] == "available"
        assert served(s3, told) == b"first"
        reconcile(s3.api.services)
        assert served(s3, told) == b"first"
    assert [stat.ref.key for stat in s3.api.services.quarantine.list(key)] == []
    assert violations(s3.api.services) == []


def test_a_form_that_replaces_its_object_before_the_scan_is_never_served_unscanned(s3: Uploads) -> None:
    told = s3.begin(5, "post")
    assert send_form(told["post"], b"first").status_code < 300
    assert s3.completed(told)["state"] == "quarantined"
    send_form(told["post"], b"other")
    document = arrived(told["id"], s3.api.services)
    if versioned(s3):
        assert document.state == "available"
        assert served(s3, told) == b"first"  # the version that was pinned
    else:
        assert (document.state, document.reason) == ("rejected", "source_changed")
    assert violations(s3.api.services) == []


def test_what_is_sent_after_the_upload_was_given_up_is_removed(s3: Uploads) -> None:
    told = s3.begin(5)
    assert s3.delete(told).status_code == 204
    assert send(told["put"], b"12345").status_code == 200  # the store cannot know
    assert land_key(s3.row(told)[0].key, None, s3.api.services, actor="event") is Outcome.KNOWN
    problem(s3.complete(told), 410, "upload-gone")
    s3.swept()
    assert s3.api.objects() == []
    assert s3.api.documents() == []


# Parts.


def begin_parts(s3: Uploads, size: int | None, **more: Any) -> dict[str, Any]:
    told = s3.begin(size, "multipart", **more)
    assert told["multipart"]["part_size"] == PART
    assert told["multipart"]["least_size"] == PART
    return told


def cut(content: bytes) -> list[bytes]:
    return [content[at : at + PART] for at in range(0, len(content), PART)]


@pytest.mark.usefixtures("small_parts")
def test_parts_in_any_order_at_once_and_again(s3: Uploads) -> None:
    content = content_of(2 * PART + 12_345)
    pieces = cut(content)
    told = begin_parts(s3, len(content), type="text/plain")
    parts = told["multipart"]["parts"]
    assert told["multipart"]["part_count"] == len(parts) == 3
    assert [part["size"] for part in parts] == [PART, PART, 12_345]
    assert "next" not in told["multipart"]
    assert parts[0]["headers"] == {}
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(send, [*parts[::-1], parts[0]], [*pieces[::-1], pieces[0]]))
    assert {answer.status_code for answer in answers} == {200}
    tags = [answer.headers["etag"] for answer in answers[2::-1]]
    sent = s3.api.client.get(told["links"]["sent"]).json()["parts"]
    assert sent == [
        {"number": n, "size": len(piece), "etag": tag}
        for n, (piece, tag) in enumerate(zip(pieces, tags, strict=True), 1)
    ]
    body = [{"number": n, "etag": tag} for n, tag in enumerate(tags, 1)]
    assert s3.completed(told, body)["state"] == s3.completed(told, body)["state"] == s3.completed(told)["state"]
    assert s3.get(told)["document"]["state"] == "received"
    assert [str(one) for one in s3.api.bell.rung] == [told["id"]]
    problem(s3.delete(told), 409, "conflict")
    assert_arrived(told["id"], content, s3.api.services)
    assert unfinished(s3) == []


@pytest.mark.usefixtures("small_parts")
def test_urls_come_in_pages(s3: Uploads) -> None:
    told = begin_parts(s3, 4 * PART)
    base = told["links"]["parts"]
    page = s3.api.client.get(base, params={"from": 2, "limit": 2}).json()
    assert [part["number"] for part in page["parts"]] == [2, 3]
    assert page["next"] == f"{base}?from=4&limit=2"
    last = s3.api.client.get(page["next"]).json()
    assert ([part["number"] for part in last["parts"]], "next" in last) == ([4], False)
    for params, status, code in (
        ({"from": 5}, 400, "malformed-request"),
        ({"from": 0}, 422, "invalid-parameters"),
        ({"from": 10_001}, 422, "invalid-parameters"),
        ({"limit": 1001}, 422, "invalid-parameters"),
        ({"limit": -1}, 422, "invalid-parameters"),
    ):
        problem(s3.api.client.get(base, params=params), status, code)
    unknown = begin_parts(s3, None)
    assert len(unknown["multipart"]["parts"]) == 100
    assert unknown["multipart"]["next"] == f"{unknown['links']['parts']}?from=101&limit=100"
    assert "size" not in unknown["multipart"]["parts"][0]
    page = s3.api.client.get(unknown["links"]["parts"], params={"from": 9999}).json()
    assert ([part["number"] for part in page["parts"]], "next" in page) == ([9999, 10_000], False)


def etag_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    tag: str = answer.headers["etag"]
    return tag


@pytest.mark.usefixtures("small_parts")
def test_what_a_client_says_of_its_parts_is_compared(s3: Uploads) -> None:
    content = content_of(PART + 10)
    told = begin_parts(s3, len(content))
    parts, pieces = told["multipart"]["parts"], cut(content)
    body = problem(s3.complete(told), 409, "upload-incomplete")
    assert body["missing"] == [1]
    two = etag_of(send(parts[1], pieces[1]))
    assert problem(s3.complete(told), 409, "upload-incomplete")["missing"] == [1]
    one = etag_of(send(parts[0], pieces[0]))
    good = [{"number": 1, "etag": one}, {"number": 2, "etag": two}]
    lie = '"' + "0" * 32 + '"'
    for claimed, missing in (
        ([{"number": 1, "etag": lie}, {"number": 2, "etag": two}], [1]),
        ([{"number": 1, "etag": two}, {"number": 2, "etag": one}], [1, 2]),
        ([{"number": 1, "etag": one}, {"number": 2, "etag": two, "size": 11}], [2]),
        ([{"number": 1, "md5": "0" * 32}, {"number": 2}], [1]),
        ([*good, {"number": 3, "etag": lie}], [3]),
        ([{"number": 2, "etag": two}], [1]),
        ([{"number": 10_000, "etag": two}], list(range(1, 1001))),
        ([], [1]),
    ):
        assert problem(s3.complete(told, claimed), 409, "upload-incomplete")["missing"] == missing, claimed
    # The first part alone is not what was announced.
    body = problem(s3.complete(told, good[:1]), 409, "upload-incomplete")
    assert (body["expected_bytes"], body["received_bytes"]) == (PART + 10, PART)
    for wrong in ([good[0], good[0]], [{"number": 0}], [{"number": 10_001}], [{"number": -1}], [{"number": "1"}],
                  [{"etag": one}], [{"number": 1, "md5": "x"}], [{"number": 1, "etag": 5}], [5]):  # fmt: skip
        assert s3.complete(told, wrong).status_code in (400, 422), wrong  # type: ignore[arg-type]
    md5s = [hashlib.md5(piece, usedforsecurity=False).hexdigest() for piece in pieces]
    claimed = [{"PartNumber": 2, "ETag": two.strip('"'), "md5": md5s[1]}, {"PartNumber": 1, "md5": md5s[0]}]
    assert s3.completed(told, claimed)["state"] == "received"
    assert_arrived(told["id"], content, s3.api.services)


@pytest.mark.usefixtures("small_parts")
def test_a_part_is_signed_for_its_number_and_size(s3: Uploads) -> None:
    told, other = begin_parts(s3, PART + 10), begin_parts(s3, PART + 10)
    one, two = told["multipart"]["parts"]
    assert send(one, bytes(PART + 1)).status_code in REFUSED
    assert send(one, bytes(PART - 1)).status_code in REFUSED
    assert send({**one, "url": one["url"].replace("partNumber=1", "partNumber=2")}, bytes(PART)).status_code in REFUSED
    assert send({**two, "url": two["url"].replace(told["id"], other["id"])}, bytes(10)).status_code in REFUSED
    assert s3.api.client.get(told["links"]["sent"]).json() == {"parts": []}


@pytest.mark.usefixtures("small_parts")
def test_parts_of_an_unknown_size_are_measured_in_the_end(s3: Uploads) -> None:
    small, right, large = begin_parts(s3, None), begin_parts(s3, None), begin_parts(s3, None)
    for part, content in zip(small["multipart"]["parts"], [bytes(PART - 1), bytes(10)], strict=False):
        etag_of(send(part, content))
    body = problem(s3.complete(small), 400, "malformed-request")
    assert (body["part"], str(PART) in body["detail"]) == (1, True)
    for part, content in zip(right["multipart"]["parts"], [bytes(PART), bytes(10)], strict=False):
        etag_of(send(part, content))
    assert s3.completed(right)["state"] == "received"
    document = arrived(right["id"], s3.api.services)
    assert document.size == PART + 10
    for part in large["multipart"]["parts"][:5]:
        etag_of(send(part, bytes(PART)))
    body = problem(s3.complete(large), 413, "too-large")
    assert body["limit"] == {"name": "bytes", "value": LIMIT}
    assert s3.get(large)["state"] == "open"
    assert s3.delete(large).status_code == s3.delete(small).status_code == 204
    s3.swept()
    assert unfinished(s3) == []


@pytest.mark.usefixtures("small_parts")
def test_given_up_its_parts_are_removed_and_its_urls_are_dead(s3: Uploads) -> None:
    told = begin_parts(s3, PART + 10)
    one, two = told["multipart"]["parts"]
    tag = etag_of(send(one, bytes(PART)))
    assert len(unfinished(s3)) == 1
    assert s3.delete(told).status_code == 204
    s3.swept()
    assert unfinished(s3) == []
    assert send(two, bytes(10)).status_code in REFUSED
    problem(s3.complete(told, [{"number": 1, "etag": tag}]), 410, "upload-gone")
    problem(s3.api.client.get(f"{PATH}/{told['id']}/parts"), 410, "upload-gone")
    problem(s3.api.client.get(f"{PATH}/{told['id']}/parts/sent"), 410, "upload-gone")


@pytest.mark.usefixtures("small_parts")
def test_an_open_upload_is_nobodys_to_clear_away_and_a_lost_one_is_gone(s3: Uploads) -> None:
    told = begin_parts(s3, PART)
    abort_unfinished(s3.api.services)
    assert len(unfinished(s3)) == 1
    etag_of(send(told["multipart"]["parts"][0], bytes(PART)))
    upload = s3.row(told)[0]
    store_of(s3).drop_parts(upload.key, upload.progress)
    problem(s3.complete(told), 410, "upload-gone")
    problem(s3.api.client.get(told["links"]["sent"]), 410, "upload-gone")


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_is_replaced_after_completion_changes_nothing(s3: Uploads) -> None:
    content = content_of(PART + 10)
    told = begin_parts(s3, len(content))
    parts, pieces = told["multipart"]["parts"], cut(content)
    for part, piece in zip(parts, pieces, strict=True):
        etag_of(send(part, piece))
    s3.completed(told)
    send(parts[1], b"0123456789")  # the store still takes it: the parts are not put together yet
    document = arrived(told["id"], s3.api.services)
    if document.state == "available":
        assert document.sha256 == hashlib.sha256(content).hexdigest()  # SeaweedFS takes the one that was named
    else:
        assert (document.state, document.reason) == ("rejected", "source_changed")
    assert send(parts[1], b"0123456789").status_code in REFUSED
    assert violations(s3.api.services) == []


@pytest.mark.usefixtures("small_parts")
def test_whoever_completes_at_once_makes_one_document(s3: Uploads) -> None:
    told = begin_parts(s3, PART)
    etag_of(send(told["multipart"]["parts"][0], bytes(PART)))
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: s3.complete(told).status_code, range(5)))
    assert set(answers) == {202}
    assert len(s3.api.bell.rung) == 1
    assert_arrived(told["id"], bytes(PART), s3.api.services)


@pytest.mark.usefixtures("small_parts")
def test_one_key_begins_one_upload_in_the_bucket_too(s3: Uploads) -> None:
    headers = {"Idempotency-Key": "one"}
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: s3.ask(PART, methods=["multipart"], headers=headers), range(5)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(unfinished(s3)) == 1
    etag_of(send(answers[-1].json()["multipart"]["parts"][0], bytes(PART)))
    etag_of(send(answers[0].json()["multipart"]["parts"][0], bytes(PART)))
    assert s3.completed(answers[0].json())["state"] == "received"


def test_the_best_way_depends_on_the_file(s3: Uploads) -> None:
    assert s3.begin(5)["method"] == "put"
    assert s3.begin(LIMIT)["method"] == "put"
    assert s3.begin()["method"] == "multipart"
    assert s3.begin(5, "tus")["method"] == "tus"
    body = problem(s3.ask(5, methods=["session"]), 422, "no-such-way")
    assert body["methods"] == ["put", "post", "multipart", "tus"]
    assert problem(s3.ask(methods=["put"]), 422, "no-such-way")["methods"] == ["multipart", "post", "tus"]
    told = s3.begin(5, "tus")
    tus = Tus(s3.api)
    assert tus.patch(told["tus"]["url"], 0, b"12345").status_code == 204
    assert tus.head(told["tus"]["url"]).headers["airlock-document"] == told["id"]


def test_the_announced_digest_is_compared_with_what_arrived(s3: Uploads) -> None:
    told = s3.begin(5, sha256="ab" * 32)
    assert send(told["put"], b"12345").status_code == 200
    s3.completed(told)
    arrived(told["id"], s3.api.services)
    assert s3.get(told)["document"]["reason"] == "digest_mismatch"
    with s3.api.services.ledger.reading() as tx:
        assert tx.document(UUID(told["id"])).declared_sha256 == "ab" * 32
