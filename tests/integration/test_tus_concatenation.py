"""Partial uploads, sent in parallel and joined: on a local store, and on S3, where no part is smaller than 5 MiB."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from pipeline import appending, concatenation, sweeper
from pipeline.documents import UploadState
from pipeline.errors import LedgerUnavailable
from pipeline.ledger.models import uploads
from tests.integration.api_server import POLICY, serving
from tests.integration.test_api_uploads import LIMIT, problem
from tests.integration.test_tus_protocol import encoded, other
from tests.integration.tus import CHUNK, PATH, VERSION, Tus, arrived, assert_arrived, content_of, id_of
from tests.world import bucket_urls

__all__ = ["other"]


def join(tus: Tus, urls: Sequence[str], **headers: str) -> httpx.Response:
    sent = {
        **VERSION,
        "Upload-Concat": "final;" + " ".join(urls),
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    return tus.api.client.post(PATH, headers=sent)


def partials(tus: Tus, pieces: Sequence[bytes]) -> list[str]:
    urls = []
    for piece in pieces:
        url = tus.begin(len(piece), Upload_Concat="partial")
        if piece:
            assert tus.patch(url, 0, piece).status_code == 204
        urls.append(url)
    return urls


@pytest.fixture(params=["local", "s3"])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tus]:
    """An API over each kind of store, that takes more than one part of S3."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.read_text().replace('bytes = "256 MiB"', 'bytes = "64 MiB"', 1))
    with serving(tmp_path, **bucket_urls(request.param, request)) as api:
        yield Tus(api)


def test_pieces_of_odd_sizes_sent_side_by_side_become_one_document(large: Tus) -> None:
    content = content_of((11 << 20) + 12_345)
    ends = [0, 6_500_001, 6_500_001, 7_000_000, len(content)]  # above and below 5 MiB, and an empty one
    pieces = [content[start:end] for start, end in pairwise(ends)]
    urls = [large.begin(len(piece), Upload_Concat="partial") for piece in pieces]
    at_once(*(lambda url=url, piece=piece: send(large, url, piece) for url, piece in zip(urls, pieces, strict=True)))  # type: ignore[misc]
    digest = hashlib.sha256(content).hexdigest()
    answer = join(large, urls, Upload_Metadata=encoded(filename="all.txt", sha256=digest))
    assert answer.status_code == 201, answer.text
    url = answer.headers["location"]
    assert answer.headers["airlock-document"] == str(id_of(url))
    head = large.head(url).headers
    assert (head["upload-offset"], head["upload-length"]) == (str(len(content)), str(len(content)))
    assert head["upload-concat"] == "final;" + " ".join(urls)
    assert large.api.bell.rung == [id_of(url)]
    assert_arrived(url, content, large.api.services)
    assert arrived(url, large.api.services).name == "all.txt"
    for _ in range(2):
        sweeper.sweep(large.api.services)
    assert [key for key in large.api.objects() if "piece" in key] == []
    assert large.left() == []


def send(tus: Tus, url: str, content: bytes) -> None:
    """In chunks, over a connection of its own."""
    with tus.api.make_client() as client:
        for at in range(0, len(content), 2_000_003):
            headers = {**VERSION, **CHUNK, "Upload-Offset": str(at)}
            answer = client.patch(url, content=content[at : at + 2_000_003], headers=headers)
            assert answer.status_code == 204, answer.text


def at_once(*calls: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_what_head_says_of_a_partial_upload(tus: Tus) -> None:
    (url,) = partials(tus, [b"hello"])
    head = tus.head(url).headers
    assert (head["upload-concat"], head["upload-offset"], head["upload-length"]) == ("partial", "5", "5")
    assert "airlock-document" not in head
    assert tus.api.documents() == tus.api.bell.rung == []


def test_a_final_upload_takes_no_bytes(tus: Tus) -> None:
    url = join(tus, partials(tus, [b"hello ", b"world"])).headers["location"]
    problem(tus.patch(url, 11, b"!"), 403, "not-appendable")
    assert_arrived(url, b"hello world", tus.api.services)


@pytest.mark.parametrize("prefix", ["", "http://files.example", "https://files.example:8443/airlock"])
def test_urls_may_be_whole_or_paths(tus: Tus, prefix: str) -> None:
    urls = [f"{prefix}{url}" for url in partials(tus, [b"a", b"b"])]
    assert_arrived(join(tus, urls).headers["location"], b"ab", tus.api.services)


def test_urls_that_are_none(tus: Tus) -> None:
    (url,) = partials(tus, [b"x"])
    for listed in (
        "",
        url + ",",
        "/elsewhere/" + url.rpartition("/")[2],
        url + "?a=b",
        "ftp://x" + url,
        f"{url} nowhere",
    ):
        problem(join(tus, [listed]), 400, "malformed-request")
    problem(join(tus, [url, url]), 400, "malformed-request")
    problem(join(tus, [url, f"{PATH}/0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55"]), 404, "not-found")
    whole = tus.begin(1)
    tus.patch(whole, 0, b"x")
    problem(join(tus, [url, whole]), 404, "not-found")  # a whole upload, not a partial one


@pytest.mark.asvs("8.2.2")
def test_nobody_joins_what_is_somebody_elses(tus: Tus, other: Tus) -> None:
    mine, theirs = partials(tus, [b"mine"]), partials(other, [b"theirs"])
    body = problem(join(tus, [*mine, *theirs]), 404, "not-found")
    assert body["missing"] == [str(id_of(theirs[0]))]
    assert_arrived(join(other, theirs).headers["location"], b"theirs", other.api.services)


def test_all_pieces_must_be_whole(tus: Tus) -> None:
    urls = partials(tus, [b"one"])
    unfinished = tus.begin(3, Upload_Concat="partial")
    tus.patch(unfinished, 0, b"t")
    body = problem(join(tus, [*urls, unfinished]), 409, "upload-incomplete")
    assert body["missing"] == [str(id_of(unfinished))]
    assert tus.patch(unfinished, 1, b"wo").status_code == 204
    assert_arrived(join(tus, [*urls, unfinished]).headers["location"], b"onetwo", tus.api.services)


def test_a_piece_is_used_once_and_a_request_sent_twice_makes_one(tus: Tus) -> None:
    one, two, three = partials(tus, [b"1", b"2", b"3"])
    first = join(tus, [one, two])
    again = join(tus, [one, two])
    assert again.status_code == 201
    assert again.headers["location"] == first.headers["location"]
    problem(join(tus, [two, three]), 409, "conflict")
    problem(join(tus, [two, one]), 409, "conflict")
    problem(tus.delete(one), 409, "conflict")
    assert_arrived(first.headers["location"], b"12", tus.api.services)
    assert len(tus.api.documents()) == 1


def test_the_same_request_at_once_makes_one(tus: Tus) -> None:
    urls = partials(tus, [b"a", b"b", b"c"])
    found: set[str] = set()

    def ask() -> None:
        with tus.api.make_client() as client:
            answer = client.post(PATH, headers={**VERSION, "Upload-Concat": "final;" + " ".join(urls)})
            found.add(answer.headers["location"])

    at_once(*[ask] * 4)
    assert len(found) == len(tus.api.documents()) == 1


def test_the_limits_are_those_of_the_whole(tus: Tus) -> None:
    half = content_of(LIMIT // 2 + 1)
    problem(join(tus, partials(tus, [half, half])), 413, "too-large")
    problem(join(tus, partials(tus, [b"", b""])), 400, "empty-file")
    answer = join(tus, partials(tus, [b"x"]), Upload_Metadata=encoded(type="application/zip"))
    problem(answer, 415, "type-not-allowed")


def test_a_piece_that_nobody_wants_any_more(tus: Tus) -> None:
    one, two = partials(tus, [b"1", b"2"])
    assert tus.delete(one).status_code == 204
    assert tus.head(one).status_code == 410
    problem(join(tus, [one, two]), 410, "upload-gone")
    assert tus.left() == []
    assert [key for key in tus.api.objects() if str(id_of(one)) in key] == []


def test_pieces_whose_time_is_over_cannot_be_joined_and_are_removed(tmp_path: Path) -> None:
    with serving(tmp_path, upload_seconds=0.001) as api:
        tus = Tus(api)
        urls = partials(tus, [b"1", b"2"])
        problem(join(tus, urls), 410, "upload-gone")
        sweeper.sweep(api.services)
        assert api.objects() == []
        assert tus.left() == []


def test_pieces_stay_until_they_are_joined_however_late(tmp_path: Path) -> None:
    with serving(tmp_path, orphan_after_seconds=0.001) as api:
        tus = Tus(api)
        urls = partials(tus, [b"late ", b"is not never"])
        url = join(tus, urls).headers["location"]
        with api.services.ledger.begin() as tx:
            tx._connection.execute(update(uploads).values(expires_at=1))
        for _ in range(2):
            sweeper.sweep(api.services)
            sweeper.reconcile(api.services)
        assert_arrived(url, b"late is not never", api.services)


def test_a_process_that_ends_between_the_last_byte_and_the_piece(tus: Tus, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(*_: object, **__: object) -> bool:
        raise LedgerUnavailable

    one, two = (tus.begin(5, Upload_Concat="partial") for _ in range(2))
    monkeypatch.setattr(appending, "complete", ends)
    for url in (one, two):
        problem(tus.patch(url, 0, b"hello"), 503, "ledger-unavailable")
        assert appending.is_whole(tus.upload(url))
    monkeypatch.undo()
    assert tus.offset(one) == 5
    assert tus.upload(one).state is UploadState.COMPLETED  # HEAD saw to it
    answer = join(tus, [one, two])  # and to the other one the request that needs it
    assert_arrived(answer.headers["location"], b"hellohello", tus.api.services)


def test_nothing_is_changed_where_the_document_cannot_be_made(tus: Tus, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = partials(tus, [b"a", b"b"])

    def fails(*_: object, **__: object) -> None:
        raise LedgerUnavailable

    monkeypatch.setattr(concatenation, "document_of", fails)
    problem(join(tus, urls), 503, "ledger-unavailable")
    monkeypatch.undo()
    assert [tus.upload(url).state for url in urls] == [UploadState.COMPLETED] * 2
    assert_arrived(join(tus, urls).headers["location"], b"ab", tus.api.services)


@pytest.mark.asvs("5.2.4")
def test_finished_pieces_count_until_they_are_joined(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.read_text() + '\n[quota]\nopen_uploads = 2\nbytes = "10 B"\n')
    with serving(tmp_path) as api:
        tus = Tus(api)
        urls = partials(tus, [b"12345", b"1234"])
        assert problem(tus.create(1), 429, "quota-exceeded")["limit"] == {"name": "open_uploads", "value": 2}
        url = join(tus, urls).headers["location"]
        assert problem(tus.create(2), 429, "quota-exceeded")["limit"] == {"name": "bytes", "value": 10}
        assert tus.create(1).status_code == 201
        assert_arrived(url, b"123451234", api.services)
