"""The contract of ObjectStore (pipeline/storage/base.py), held by every backend."""

from __future__ import annotations

import gc
import hashlib
import itertools
import random
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import (
    AirlockError,
    ChecksumMismatch,
    Misconfigured,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat, ObjectStore
from tests.contract.backends import SHORT, Backend, random_bytes

SERIAL = itertools.count()
HEADERS = ObjectHeaders("application/pdf", 'attachment; filename="a.pdf"', {"document": "d-1", "scanned": "yes"})
GONE = (ObjectNotFound, PreconditionFailed)


def fresh() -> str:
    """A key that no other test uses."""
    return f"standard/acme/{next(SERIAL):08}/original"


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def put(store: ObjectStore, key: str, body: bytes, headers: ObjectHeaders | None = None) -> ObjectStat:
    with store.create(key, headers or ObjectHeaders()) as writer:
        view = memoryview(body)
        for at in range(0, len(body), 1 << 20):
            writer.write(view[at : at + (1 << 20)])
        return writer.commit(sha(body))


def read(store: ObjectStore, ref: ObjectRef, start: int = 0, end: int | None = None) -> bytes:
    return b"".join(store.get(ref, start, end))


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_what_is_written_is_read(backend: Backend, size: int) -> None:
    key, body = fresh(), random_bytes(size)
    made = put(backend.store, key, body, HEADERS)
    assert made.ref == ObjectRef(backend.store.bucket, key, made.ref.version)
    assert made.ref.version
    assert made.size == size
    assert made.sha256 in (None, sha(body))
    assert read(backend.store, made.ref) == body
    seen = backend.store.head(key)
    assert (seen.ref, seen.size, seen.headers) == (made.ref, size, HEADERS)
    assert seen.sha256 in (None, sha(body))
    assert seen.modified.tzinfo is not None
    assert backend.store.head(key, made.ref.version) == seen


def test_a_stream_past_one_part(backend: Backend) -> None:
    key, body = fresh(), random_bytes(backend.parts * 2 + 12_345)
    made = put(backend.store, key, body, HEADERS)
    assert made.size == len(body)
    assert sha(read(backend.store, made.ref)) == sha(body)
    assert backend.store.head(key).headers == HEADERS
    assert all(len(piece) <= 1 << 20 for piece in backend.store.get(made.ref))
    middle = backend.parts - 7
    assert read(backend.store, made.ref, middle, middle + 20) == body[middle : middle + 20]
    assert backend.leftovers() == 0


def test_memory_is_bounded_whatever_the_length(backend: Backend) -> None:
    if backend.name in ("memory", "gcs"):
        pytest.skip("it is kept in memory, here or in the double")
    made, piece = None, random_bytes(1 << 20)
    put(backend.store, fresh(), piece)  # whatever the first call loads
    gc.collect()
    tracemalloc.start()
    try:
        with backend.store.create(fresh()) as writer:
            for _ in range(200):
                writer.write(piece)
            made = writer.commit()
        for _ in backend.store.get(made.ref):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.size == 200 << 20
    assert peak < 7 * backend.parts + (4 << 20)
    backend.store.delete(made.ref)


def test_exactly_one_part(backend: Backend) -> None:
    key, body = fresh(), random_bytes(backend.parts)
    assert read(backend.store, put(backend.store, key, body).ref) == body
    assert backend.leftovers() == 0


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(pieces=st.lists(st.binary(max_size=3000), max_size=6), data=st.data(), kind=st.sampled_from([bytes, bytearray]))
def test_any_pieces_any_range(
    backend: Backend, pieces: list[bytes], data: st.DataObject, kind: type[bytes | bytearray]
) -> None:
    key, body = fresh(), b"".join(pieces)
    with backend.store.create(key) as writer:
        for piece in pieces:
            chunk = kind(piece)
            writer.write(chunk)
            if isinstance(chunk, bytearray):
                chunk[:] = b"\xff" * len(chunk)  # the chunk's memory may be used again at once
        made = writer.commit(sha(body))
    start = data.draw(st.integers(0, len(body) + 5))
    end = data.draw(st.none() | st.integers(start, len(body) + 5))
    assert read(backend.store, made.ref, start, end) == body[start:end]


def test_a_body_can_be_closed_before_its_end(backend: Backend) -> None:
    made = put(backend.store, fresh(), random_bytes(3 << 20))
    for pieces_taken in (0, 1):
        body = backend.store.get(made.ref)
        for _ in range(pieces_taken):
            next(body)
        body.close()  # type: ignore[attr-defined]
        assert list(body) == []


def test_nothing_is_seen_before_commit(backend: Backend) -> None:
    key = fresh()
    with backend.store.create(key) as writer:
        writer.write(random_bytes(backend.parts + 1))
        with pytest.raises(ObjectNotFound):
            backend.store.head(key)
        assert key not in [each.ref.key for each in backend.store.list(key)]
        writer.commit()
    assert backend.store.head(key).size == backend.parts + 1


@pytest.mark.parametrize("parts", [0, 2])
def test_abort_leaves_nothing(backend: Backend, parts: int) -> None:
    key = fresh()

    class DroppedError(Exception):
        pass

    def interrupted() -> None:
        with backend.store.create(key, HEADERS) as writer:
            writer.write(random_bytes(backend.parts * parts + 10))
            raise DroppedError

    with pytest.raises(DroppedError):
        interrupted()
    with pytest.raises(ObjectNotFound):
        backend.store.head(key)
    assert backend.leftovers() == 0
    writer = backend.store.create(key)
    writer.write(b"x")
    writer.abort()
    writer.abort()
    with pytest.raises(ValueError):
        writer.write(b"y")
    with pytest.raises(ValueError):
        writer.commit()
    assert backend.leftovers() == 0


def test_abort_after_commit_changes_nothing(backend: Backend) -> None:
    key = fresh()
    with backend.store.create(key) as writer:
        writer.write(b"kept")
        made = writer.commit()
        writer.abort()
    assert read(backend.store, made.ref) == b"kept"


@pytest.mark.parametrize("parts", [0, 1])
def test_a_key_is_never_overwritten(backend: Backend, parts: int) -> None:
    key = fresh()
    late = backend.store.create(key)  # before the key was taken
    late.write(random_bytes(backend.parts * parts + 5))
    first = put(backend.store, key, b"first", HEADERS)
    with pytest.raises(ObjectExists), late:
        late.commit()
    with pytest.raises(ObjectExists):
        put(backend.store, key, b"second")
    assert backend.store.head(key).ref == first.ref
    assert backend.store.head(key).headers == HEADERS
    assert read(backend.store, first.ref) == b"first"
    assert backend.leftovers() == 0


@pytest.mark.cwe(367)
def test_one_of_many_racers_wins(backend: Backend) -> None:
    racers = 6
    for _ in range(1 if backend.name.startswith("s3") else 3):  # SeaweedFS lets one a second through
        key, start = fresh(), threading.Barrier(racers)

        def race(number: int, key: str = key, start: threading.Barrier = start) -> ObjectStat | None:
            with backend.store.create(key, ObjectHeaders("text/plain", None, {"racer": str(number)})) as writer:
                writer.write(b"%d" % number)
                start.wait(30)
                try:
                    return writer.commit(sha(b"%d" % number))
                except ObjectExists:
                    return None

        with ThreadPoolExecutor(racers) as pool:
            won = {n: made for n, made in enumerate(pool.map(race, range(racers))) if made is not None}
        assert len(won) == 1
        [(winner, made)] = won.items()
        assert backend.store.head(key).ref == made.ref
        assert backend.store.head(key).headers.metadata == {"racer": str(winner)}
        assert read(backend.store, made.ref) == b"%d" % winner
    assert backend.leftovers() == 0


def test_a_wrong_sha256_is_refused_where_the_store_checks_it(backend: Backend) -> None:
    if not backend.checks_sha256:
        pytest.skip("no SHA-256 of its own")
    key = fresh()
    with backend.store.create(key) as writer:
        writer.write(b"what arrived")
        with pytest.raises(ChecksumMismatch):
            writer.commit(sha(b"what was sent"))
    with pytest.raises(ObjectNotFound):
        backend.store.head(key)


def test_what_is_not_there_is_not_found(backend: Backend) -> None:
    made = put(backend.store, fresh(), b"here")
    with pytest.raises(ObjectNotFound):
        backend.store.head(fresh())
    with pytest.raises(ObjectNotFound):
        read(backend.store, ObjectRef(made.ref.bucket, fresh(), made.ref.version))
    backend.store.delete(made.ref)
    with pytest.raises(ObjectNotFound):
        read(backend.store, made.ref)
    with pytest.raises(ObjectNotFound):
        backend.store.head(made.ref.key, made.ref.version)


@pytest.mark.parametrize("version", ["", "null", "1", "../x", "0" * 64, "a b\n", "\u00e9"])
def test_a_version_that_never_was(backend: Backend, version: str) -> None:
    made = put(backend.store, fresh(), b"here")
    wrong = ObjectRef(made.ref.bucket, made.ref.key, version)
    if wrong == made.ref:
        pytest.skip("it is this one")
    with pytest.raises(AirlockError):
        read(backend.store, wrong)
    assert backend.store.delete(wrong) is False
    assert read(backend.store, made.ref) == b"here"


@pytest.mark.cwe(367)
def test_a_foreign_hand_cannot_change_what_is_pinned(backend: Backend) -> None:
    key = fresh()
    made = put(backend.other, key, b"what was scanned")
    backend.overwrite(key, b"what came later!")
    assert backend.other.head(key).ref.version != made.ref.version
    if backend.keeps_versions:
        assert read(backend.other, made.ref) == b"what was scanned"
        assert backend.other.head(key, made.ref.version).size == 16
    else:
        with pytest.raises(ObjectNotFound):
            read(backend.other, made.ref)
        with pytest.raises(ObjectNotFound):
            backend.other.head(key, made.ref.version)


def test_delete_is_pinned(backend: Backend) -> None:
    key = fresh()
    first = put(backend.other, key, b"first")
    backend.overwrite(key, b"again")
    second = backend.other.head(key)
    assert backend.other.delete(first.ref) is backend.keeps_versions
    assert backend.other.delete(first.ref) is False
    assert read(backend.other, second.ref) == b"again"
    assert backend.other.delete(second.ref) is True
    assert backend.other.delete(second.ref) is False
    with pytest.raises(ObjectNotFound):
        read(backend.other, second.ref)


def test_a_deleted_key_can_be_made_again_under_another_version(backend: Backend) -> None:
    key = fresh()
    first = put(backend.store, key, b"12345", HEADERS)
    assert backend.store.delete(first.ref)
    second = put(backend.store, key, b"67890")
    assert second.ref.version != first.ref.version or backend.name == "s3 plain"
    assert backend.store.delete(first.ref) is False
    assert read(backend.store, second.ref) == b"67890"
    assert backend.store.head(key).headers == ObjectHeaders()


@pytest.mark.parametrize("parts", [0, 1, 2])
@pytest.mark.parametrize("headers", [None, ObjectHeaders("text/csv", "attachment", {"new": "1"})])
def test_copy_keeps_or_replaces_headers_at_each_size(
    backend: Backend, parts: int, headers: ObjectHeaders | None
) -> None:
    key, body = fresh(), random_bytes(backend.parts * parts + 100)
    source = put(backend.other, key, body, HEADERS)
    made = backend.store.copy(source.ref, key, headers, sha256=sha(body))
    assert made.ref.bucket == backend.store.bucket
    assert made.size == len(body)
    assert made.sha256 == sha(body)
    assert backend.store.head(key).headers == (headers or HEADERS)
    assert backend.store.head(key).ref == made.ref
    assert sha(read(backend.store, made.ref)) == sha(body)
    assert sha(read(backend.other, source.ref)) == sha(body)
    assert backend.leftovers() == 0


@pytest.mark.parametrize("parts", [0, 2])
def test_copy_is_idempotent_and_create_only(backend: Backend, parts: int) -> None:
    key, body = fresh(), random_bytes(backend.parts * parts + 100)
    source = put(backend.other, key, body, HEADERS)
    made = backend.store.copy(source.ref, key, sha256=sha(body))
    again = backend.store.copy(source.ref, key, sha256=sha(body))
    assert again.ref == made.ref
    assert again.sha256 == sha(body)
    taken = fresh()
    put(backend.store, taken, b"something else")
    with pytest.raises(ObjectExists):
        backend.store.copy(source.ref, taken, sha256=sha(body))
    assert read(backend.store, backend.store.head(taken).ref) == b"something else"
    # Copied, and killed before the row said so; the source has gone since: still a success.
    backend.other.delete(source.ref)
    assert backend.store.copy(source.ref, key, sha256=sha(body)).ref == made.ref


@pytest.mark.parametrize("parts", [0, 2])
def test_copy_of_other_bytes_leaves_nothing(backend: Backend, parts: int) -> None:
    key, body = fresh(), random_bytes(backend.parts * parts + 100)
    source = put(backend.other, key, body)
    with pytest.raises(ChecksumMismatch):
        backend.store.copy(source.ref, key, sha256=sha(b"what was scanned"))
    with pytest.raises(ObjectNotFound):
        backend.store.head(key)
    assert backend.leftovers() == 0
    assert backend.store.copy(source.ref, key, sha256=sha(body)).size == len(body)


@pytest.mark.parametrize("parts", [0, 2])
@pytest.mark.cwe(367)
def test_copy_of_a_replaced_source_is_refused(backend: Backend, parts: int) -> None:
    key, body = fresh(), random_bytes(backend.parts * parts + 100)
    source = put(backend.other, key, body)
    backend.overwrite(key, random_bytes(len(body)))
    if backend.keeps_versions:
        made = backend.store.copy(source.ref, key, sha256=sha(body))
        assert read(backend.store, made.ref) == body
    else:
        with pytest.raises(GONE):
            backend.store.copy(source.ref, key, sha256=sha(body))
        with pytest.raises(ObjectNotFound):
            backend.store.head(key)
    with pytest.raises(GONE):
        backend.store.copy(ObjectRef(source.ref.bucket, fresh(), source.ref.version), fresh(), sha256=sha(body))
    assert backend.leftovers() == 0


def test_many_copies_of_one_document_at_once_are_one(backend: Backend) -> None:
    key, body = fresh(), random_bytes(5000)
    source = put(backend.other, key, body, HEADERS)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: backend.store.copy(source.ref, key, sha256=sha(body)), range(4)))
    assert len({each.ref for each in made}) == 1
    assert backend.leftovers() == 0


def test_list_is_in_key_order(backend: Backend) -> None:
    base = f"list{next(SERIAL)}"
    names = ["a/b/c", "a-b/x", "a/b/d", "a0", "a/c", "b", "a.b", "B/z", "a/b-c/d", "a_b"]
    if not backend.sorts_by_key:
        names = [name for name in names if not name.startswith(("a-b", "a.b", "a/b-"))]
    for name in random.Random(1).sample(names, len(names)):
        put(backend.store, f"{base}/{name}", name.encode())
    keys = sorted(f"{base}/{name}" for name in names)

    def listed(prefix: str, after: str = "") -> list[str]:
        return [each.ref.key for each in backend.store.list(prefix, after=after)]

    assert listed(f"{base}/") == keys
    assert listed(f"{base}/a/b") == [key for key in keys if key.startswith(f"{base}/a/b")]
    for key in [*keys, f"{base}/", f"{base}/a/", f"{base}/a/b0", f"{base}/zzz"]:
        assert listed(f"{base}/", key) == [each for each in keys if each > key]
    assert listed(f"{base}/nothing") == []
    for each in backend.store.list(f"{base}/"):
        assert each == backend.store.head(each.ref.key) or each.ref == backend.store.head(each.ref.key).ref
        assert each.size == len(each.ref.key) - len(base) - 1


def test_list_fetches_pages_as_needed(backend: Backend) -> None:
    base = f"pages{next(SERIAL)}"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: put(backend.store, f"{base}/{n:03}", b"x"), range(25)))
    if hasattr(backend.store, "page"):
        backend.store.page = 10
    assert [each.ref.key for each in backend.store.list(f"{base}/")] == [f"{base}/{n:03}" for n in range(25)]
    assert next(iter(backend.store.list(f"{base}/", after=f"{base}/009"))).ref.key == f"{base}/010"


@pytest.mark.asvs("5.3.1")
def test_a_signed_get_gives_the_bytes_and_their_headers(backend: Backend) -> None:
    key, body = fresh(), random_bytes(10_000)
    made = put(backend.store, key, body, HEADERS)
    url = backend.store.sign_get(made.ref, SHORT)
    whole = httpx.get(url)
    assert (whole.status_code, whole.content) == (200, body)
    assert whole.headers["content-type"] == HEADERS.content_type
    assert whole.headers["content-disposition"] == HEADERS.content_disposition
    part = httpx.get(url, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, body[100:200])


@pytest.mark.asvs("8.2.2")
def test_a_changed_url_opens_nothing(backend: Backend) -> None:
    mine, theirs = fresh(), fresh()
    made = put(backend.store, mine, b"mine")
    put(backend.store, theirs, b"theirs")
    url = backend.store.sign_get(made.ref, SHORT)
    assert httpx.get(url).content == b"mine"
    flipped = url[:-1] + ("0" if url[-1] != "0" else "1")
    for wrong in (url.replace(mine, theirs), flipped, url.partition("?")[0], url + "0"):
        answer = httpx.get(wrong)
        assert answer.status_code in (400, 401, 403), answer.status_code
        assert b"theirs" not in answer.content
    assert httpx.put(url, content=b"changed").status_code in (400, 401, 403)
    assert httpx.delete(url).status_code in (400, 401, 403, 405, 501)
    assert read(backend.store, made.ref) == b"mine"


def test_no_url_lives_longer_than_two_hours(backend: Backend) -> None:
    made = put(backend.store, fresh(), b"x")
    for wrong in (timedelta(hours=2, seconds=1), timedelta(0), timedelta(seconds=-5)):
        with pytest.raises(ValueError):
            backend.store.sign_get(made.ref, wrong)
        with pytest.raises(ValueError):
            backend.store.sign_put(fresh(), ObjectHeaders(), wrong)
    assert backend.store.sign_get(made.ref, timedelta(hours=2))


def test_a_signed_put_creates_once(backend: Backend) -> None:
    key = fresh()
    signed = backend.store.sign_put(key, ObjectHeaders("image/png"), SHORT)
    assert signed.method == "PUT"
    assert httpx.put(signed.url, content=b"sent", headers=dict(signed.headers)).status_code in (200, 201)
    seen = backend.store.head(key)
    assert (seen.size, seen.headers.content_type) == (4, "image/png")
    assert httpx.put(signed.url, content=b"anew", headers=dict(signed.headers)).status_code in (409, 412)
    bare = {name: value for name, value in signed.headers.items() if name.lower() == "content-type"}
    assert httpx.put(signed.url, content=b"anew", headers=bare).status_code in (400, 403, 412)
    assert read(backend.store, seen.ref) == b"sent"


def test_a_signed_put_binds_type_and_size(backend: Backend) -> None:
    signed = backend.store.sign_put(fresh(), ObjectHeaders("image/png"), SHORT)
    other = {**signed.headers, "Content-Type": "text/html"}
    assert httpx.put(signed.url, content=b"sent", headers=other).status_code in (400, 403)
    key = fresh()
    sized = backend.store.sign_put(key, ObjectHeaders("image/png"), SHORT, size=4)
    longer = {name: value for name, value in sized.headers.items() if name.lower() != "content-length"}
    assert httpx.put(sized.url, content=b"much longer", headers=longer).status_code in (400, 403)
    with pytest.raises(ObjectNotFound):
        backend.store.head(key)
    assert httpx.put(sized.url, content=b"sent", headers=dict(sized.headers)).status_code in (200, 201)


def test_ping(backend: Backend) -> None:
    backend.store.ping()
    if backend.missing is not backend.store:
        with pytest.raises((Misconfigured, StoreUnavailable)):
            backend.missing.ping()
