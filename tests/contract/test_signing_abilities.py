"""What clients are given to send to the store themselves, really sent: parts and forms (S3), sessions (GCS)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from pipeline.errors import ObjectExists, ObjectNotFound, PreconditionFailed
from pipeline.storage.abilities import OpensSessions, SentPart, SignsForms, SignsParts, token_of
from pipeline.storage.base import ObjectHeaders, ObjectRef
from tests.contract.backends import SHORT, Backend

MIB = 1 << 20
HEADERS = ObjectHeaders("application/pdf", "attachment", {"document": "d-1"})
REFUSED = (400, 401, 403, 404)


@pytest.fixture(autouse=True)
def _nothing_is_left(backend: Backend) -> Iterator[None]:
    yield
    assert backend.leftovers() == 0


@pytest.fixture
def s3(backend: Backend) -> Any:
    if not backend.name.startswith("s3"):
        pytest.skip("S3 alone has it")
    return backend.store


@pytest.fixture
def gcs(backend: Backend) -> Any:
    if backend.name != "gcs":
        pytest.skip("Cloud Storage alone has it")
    return backend.store


@pytest.fixture
def three_hours_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is signed now is signed three hours ago."""

    def then(remove_tzinfo: bool = True) -> datetime:
        now = datetime.now(UTC) - timedelta(hours=3)
        return now.replace(tzinfo=None) if remove_tzinfo else now

    monkeypatch.setattr("botocore.auth.get_current_datetime", then)
    monkeypatch.setattr("botocore.signers.get_current_datetime", then)


def fresh() -> str:
    """A key that no other test uses."""
    return f"standard/acme/{uuid4()}/original"


def read(store: Any, ref: ObjectRef) -> bytes:
    return b"".join(store.get(ref))


def test_who_can(backend: Backend) -> None:
    is_s3, is_gcs = backend.name.startswith("s3"), backend.name == "gcs"
    assert isinstance(backend.store, SignsParts) is is_s3
    assert isinstance(backend.store, SignsForms) is is_s3
    assert isinstance(backend.store, OpensSessions) is is_gcs


def send(store: Any, key: str, upload: str, number: int, body: bytes, *, sized: bool = True) -> httpx.Response:
    signed = store.sign_part(key, upload, number, SHORT, size=len(body) if sized else None)
    assert signed.method == "PUT"
    assert timedelta(0) < signed.expires_at - datetime.now(UTC) <= SHORT
    return httpx.put(signed.url, content=body, headers=dict(signed.headers))


def test_parts_that_a_client_sends(s3: Any) -> None:
    key, bodies = fresh(), [os.urandom(5 * MIB), os.urandom(6 * MIB), b"the end"]
    upload = s3.begin_parts(key, HEADERS)
    for number in (3, 1, 2):  # in any order
        assert send(s3, key, upload, number, bodies[number - 1], sized=number != 2).status_code == 200
    assert send(s3, key, upload, 1, bodies[0]).status_code == 200  # and again
    parts = list(s3.sent_parts(key, upload))
    assert [(part.number, part.size) for part in parts] == [(1, 5 * MIB), (2, 6 * MIB), (3, 7)]
    with pytest.raises(ObjectNotFound):
        s3.head(key)
    made = s3.finish_parts(key, upload, parts[::-1])
    assert (made.size, made.headers) == (11 * MIB + 7, HEADERS)
    assert read(s3, made.ref) == b"".join(bodies)
    assert s3.finish_parts(key, upload, parts).ref == made.ref  # its first reply was lost
    # A URL that is still valid changes nothing any more.
    assert send(s3, key, upload, 1, b"x" * 5 * MIB).status_code in REFUSED
    s3.drop_parts(key, upload)
    assert s3.head(key).ref == made.ref
    assert read(s3, made.ref) == b"".join(bodies)
    with pytest.raises(ObjectNotFound):
        list(s3.sent_parts(key, upload))


def test_of_a_part_that_was_sent_twice_the_last_one_counts(s3: Any) -> None:
    key = fresh()
    upload = s3.begin_parts(key)
    first = send(s3, key, upload, 1, b"first").headers["etag"].strip('"')
    last = send(s3, key, upload, 1, b"last!").headers["etag"].strip('"')
    made = s3.finish_parts(key, upload, [SentPart(1, 5, last)])
    assert first != last
    assert read(s3, made.ref) == b"last!"


@pytest.mark.cwe(345)
def test_only_the_parts_that_are_named_and_only_whole(s3: Any) -> None:
    key = fresh()
    upload = s3.begin_parts(key)
    for number in (1, 2):
        assert send(s3, key, upload, number, bytes([number]) * 100).status_code == 200
    one, two = s3.sent_parts(key, upload)
    for wrong in (
        [],
        [one, two],  # the first is too small
        [one, one],
        [SentPart(3, 100, one.tag)],
        [SentPart(1, 100, two.tag)],
        [SentPart(1, 99, one.tag)],
    ):
        with pytest.raises(PreconditionFailed):
            s3.finish_parts(key, upload, wrong)
    with pytest.raises(ObjectNotFound):
        s3.head(key)
    made = s3.finish_parts(key, upload, [two])
    assert read(s3, made.ref) == b"\2" * 100


def test_parts_never_replace_an_object(s3: Any) -> None:
    key = fresh()
    upload = s3.begin_parts(key)
    send(s3, key, upload, 1, b"later")
    with s3.create(key) as writer:
        writer.write(b"first")
        first = writer.commit()
    with pytest.raises(ObjectExists):
        s3.finish_parts(key, upload, list(s3.sent_parts(key, upload)))
    assert read(s3, first.ref) == b"first"
    assert s3.head(key).ref == first.ref
    s3.drop_parts(key, upload)


def test_dropped_parts_are_gone(s3: Any) -> None:
    key = fresh()
    upload = s3.begin_parts(key)
    send(s3, key, upload, 1, b"some")
    parts = list(s3.sent_parts(key, upload))
    s3.drop_parts(key, upload)
    s3.drop_parts(key, upload)
    assert send(s3, key, upload, 1, b"some").status_code in REFUSED
    for wrong in (upload, "~", "", token_of(upload), f"{uuid4()}~0123456789abcdef"):
        with pytest.raises(ObjectNotFound):
            list(s3.sent_parts(key, wrong))
        with pytest.raises(ObjectNotFound):
            s3.finish_parts(key, wrong, parts)


def test_the_sweeper_spares_open_parts(s3: Any) -> None:
    key, other = fresh(), fresh()
    mine, theirs = s3.begin_parts(key), s3.begin_parts(other)
    assert s3.abort_stale_uploads(timedelta(0), spare=[token_of(mine)]) == 1
    assert list(s3.sent_parts(key, mine)) == []
    with pytest.raises(ObjectNotFound):
        list(s3.sent_parts(other, theirs))
    s3.drop_parts(key, mine)


@pytest.mark.asvs("5.2.1")
@pytest.mark.cwe(347)
def test_a_part_is_signed_for_its_place_and_its_size(s3: Any) -> None:
    key, other = fresh(), fresh()
    upload, theirs = s3.begin_parts(key), s3.begin_parts(other)
    signed = s3.sign_part(key, upload, 1, SHORT, size=4)
    for wrong in (
        signed.url.replace("partNumber=1", "partNumber=2"),
        signed.url.replace(key, other),
        signed.url.replace(quote(token_of(upload)), quote(token_of(theirs))),
        signed.url.partition("?")[0] + f"?partNumber=1&uploadId={token_of(upload)}",
    ):
        assert wrong != signed.url
        assert httpx.put(wrong, content=b"sent", headers=dict(signed.headers)).status_code in REFUSED
    assert httpx.put(signed.url, content=b"longer").status_code in REFUSED
    assert httpx.post(signed.url, content=b"sent").status_code in (*REFUSED, 405)
    assert list(s3.sent_parts(key, upload)) == list(s3.sent_parts(other, theirs)) == []
    assert httpx.put(signed.url, content=b"sent", headers=dict(signed.headers)).status_code == 200
    for number in (0, -1, 10_001):
        with pytest.raises(ValueError):
            s3.sign_part(key, upload, number, SHORT)
    for expires in (timedelta(0), timedelta(hours=2, seconds=1)):
        with pytest.raises(ValueError):
            s3.sign_part(key, upload, 1, expires)
    s3.drop_parts(key, upload)
    s3.drop_parts(other, theirs)


def test_a_part_comes_too_late(s3: Any, three_hours_ago: None) -> None:
    signed = s3.sign_part(fresh(), "some~upload", 1, timedelta(hours=2))
    assert httpx.put(signed.url, content=b"sent").status_code == 403  # and not 404: no such upload


def post(form: Any, body: bytes, **other: str) -> httpx.Response:
    return httpx.post(form.url, data={**form.fields, **other}, files={"file": ("x", body, form.fields["Content-Type"])})


def test_a_form_takes_what_it_was_signed_for(s3: Any) -> None:
    key = fresh()
    form = s3.sign_form(key, HEADERS, SHORT, least=3, most=5)
    assert timedelta(0) < form.expires_at - datetime.now(UTC) <= SHORT
    assert post(form, b"four").status_code == 201
    seen = s3.head(key)
    assert (seen.size, seen.headers.content_type, seen.headers.metadata) == (4, "application/pdf", {"document": "d-1"})
    assert read(s3, seen.ref) == b"four"


@pytest.mark.asvs("5.2.1")
@pytest.mark.cwe(347)
def test_a_form_takes_nothing_else(s3: Any) -> None:
    key, other = fresh(), fresh()
    form = s3.sign_form(key, HEADERS, SHORT, least=3, most=5)
    policy = form.fields["policy"]
    for answer in (
        post(form, b"2b"),
        post(form, b"6bytes"),
        post(form, b"x" * 100_000),
        post(form, b"four", key=other),
        post(form, b"four", **{"Content-Type": "text/html"}),
        post(form, b"four", **{"x-amz-meta-document": "d-2"}),
        post(form, b"four", policy=policy[:40] + ("A" if policy[40] != "A" else "B") + policy[41:]),
        post(form, b"four", **{"x-amz-signature": "0" * 64}),
    ):
        assert answer.status_code in REFUSED, answer.text
    for each in (key, other):
        with pytest.raises(ObjectNotFound):
            s3.head(each)
    for expires in (timedelta(0), timedelta(hours=2, seconds=1)):
        with pytest.raises(ValueError):
            s3.sign_form(key, HEADERS, expires, least=0, most=5)


def test_a_form_comes_too_late(s3: Any, three_hours_ago: None) -> None:
    key = fresh()
    assert post(s3.sign_form(key, HEADERS, timedelta(hours=2), least=0, most=5), b"four").status_code in (400, 403)


@pytest.mark.cwe(367)
def test_a_form_that_is_used_again_changes_nothing_that_was_pinned(backend: Backend, s3: Any) -> None:
    key = fresh()
    form = s3.sign_form(key, HEADERS, SHORT, least=0, most=50)
    assert post(form, b"what was scanned").status_code == 201
    pinned = s3.head(key).ref
    assert post(form, b"what came later!").status_code in (201, 412)  # S3 has nothing to sign against it
    if backend.keeps_versions:
        assert read(s3, pinned) == b"what was scanned"
    else:
        with pytest.raises(ObjectNotFound):
            read(s3, pinned)


def test_a_session_that_a_client_is_given(gcs: Any) -> None:
    key, body = fresh(), os.urandom(MIB)
    url = gcs.open_session(key, HEADERS, size=len(body), origin="https://pages.example")
    span = f"bytes 0-{512 * 1024 - 1}/*"
    first = httpx.put(url, content=body[: 512 * 1024], headers={"Content-Range": span})
    assert (first.status_code, first.headers["range"]) == (308, f"bytes=0-{512 * 1024 - 1}")
    assert first.headers["access-control-allow-origin"] == "https://pages.example"
    asked = httpx.put(url, headers={"Content-Range": f"bytes */{len(body)}"})
    assert (asked.status_code, asked.headers["range"]) == (308, f"bytes=0-{512 * 1024 - 1}")
    with pytest.raises(ObjectNotFound):
        gcs.head(key)
    span = f"bytes {512 * 1024}-{len(body) - 1}/{len(body)}"
    assert httpx.put(url, content=body[512 * 1024 :], headers={"Content-Range": span}).status_code == 200
    made = gcs.head(key)
    assert (made.size, made.headers) == (len(body), HEADERS)
    assert read(gcs, made.ref) == body
    # Once, and once only.
    httpx.put(url, content=b"other bytes")
    assert gcs.head(key).ref == made.ref
    gcs.close_session(url)
    assert read(gcs, made.ref) == body


def test_a_session_never_replaces_an_object(gcs: Any) -> None:
    key = fresh()
    url = gcs.open_session(key, ObjectHeaders(), size=None, origin=None)
    with gcs.create(key) as writer:
        writer.write(b"first")
        first = writer.commit()
    assert httpx.put(url, content=b"later").status_code == 412
    assert gcs.head(key).ref == first.ref


def test_a_session_that_is_over(gcs: Any) -> None:
    key = fresh()
    url = gcs.open_session(key, HEADERS, size=4, origin=None)
    gcs.close_session(url)
    gcs.close_session(url)
    assert httpx.put(url, content=b"late").status_code in (404, 410, 499)
    changed = gcs.open_session(key, HEADERS, size=4, origin=None)
    assert httpx.put(changed[:-3] + "xyz", content=b"four").status_code in (404, 410)
    with pytest.raises(ObjectNotFound):
        gcs.head(key)
    gcs.close_session(changed)
