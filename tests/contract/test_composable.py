"""The contract of Composable (pipeline/storage/abilities.py), held by every backend."""

from __future__ import annotations

import gc
import random
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.errors import ObjectExists, ObjectNotFound, PreconditionFailed, StoreUnavailable
from pipeline.storage.abilities import Composable
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat
from tests.contract.backends import Backend, random_bytes
from tests.contract.lost import lost_replies

MIB = 1 << 20
HEADERS = ObjectHeaders("application/pdf", "attachment", {"document": "d-1"})
GONE = (ObjectNotFound, PreconditionFailed)


def folder() -> str:
    """A folder that no other test uses."""
    return f"standard/acme/{uuid4()}"


def put(backend: Backend, key: str, body: bytes, store: str = "store") -> ObjectRef:
    with getattr(backend, store).create(key) as writer:
        view = memoryview(body)
        for at in range(0, len(body), MIB):
            writer.write(view[at : at + MIB])
        ref: ObjectRef = writer.commit().ref
        return ref


@pytest.fixture(autouse=True)
def _nothing_is_left(backend: Backend) -> Iterator[None]:
    yield
    assert backend.leftovers() == 0
    for store in (backend.store, backend.other):
        for each in store.list("standard/acme/"):
            store.delete(each.ref)


def read(backend: Backend, ref: ObjectRef) -> bytes:
    return b"".join(backend.store.get(ref))


def composed(backend: Backend, bodies: list[bytes], headers: ObjectHeaders = HEADERS) -> ObjectStat:
    """Joined, looked at, and its pieces removed."""
    base = folder()
    sources = [put(backend, f"{base}/piece-{n}", body) for n, body in enumerate(bodies)]
    made: ObjectStat = backend.able.compose(sources, f"{base}/original", headers)
    assert (made.ref.key, made.size, made.headers) == (f"{base}/original", sum(map(len, bodies)), headers)
    seen = backend.store.head(f"{base}/original")
    assert (seen.ref, seen.size, seen.headers) == (made.ref, made.size, headers)
    assert read(backend, made.ref) == b"".join(bodies)
    for source, body in zip(sources, bodies, strict=True):
        assert read(backend, source) == body
        assert backend.store.delete(source)
    assert read(backend, made.ref) == b"".join(bodies)
    assert backend.leftovers() == 0
    return made


def test_every_store_can(backend: Backend) -> None:
    assert isinstance(backend.store, Composable)


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0],
        [7],
        [0, 0, 0],
        [1, 2, 3],
        [0, 5, 0],
        [5 * MIB - 1, 1],
        [5 * MIB, 5 * MIB],
        [6 * MIB],
        [13 * MIB + 1],
        [9 * MIB, 1],
        [1, 9 * MIB],
        [1, 5 * MIB, 1],
        [1, 2 * MIB, 11 * MIB, 3, 4 * MIB, 6 * MIB],
        [5 * MIB + 1, 5 * MIB + 1, 100],
    ],
    ids=str,
)
def test_joined_in_order(backend: Backend, sizes: list[int]) -> None:
    headers = HEADERS if len(sizes) % 2 else ObjectHeaders()
    composed(backend, [random_bytes(size) for size in sizes], headers)


@pytest.mark.parametrize("count", [32, 70])
def test_many_sources(backend: Backend, count: int) -> None:
    composed(backend, [b"%d," % n for n in range(count)])


def test_a_source_may_come_twice_and_from_anywhere(backend: Backend) -> None:
    one, two = put(backend, f"{folder()}/original", b"one"), put(backend, f"{folder()}/original", b"two")
    made = backend.able.compose([one, two, one], f"{folder()}/original")
    assert read(backend, made.ref) == b"onetwoone"


@pytest.mark.parametrize("sizes", [[3], [3, 4], [6 * MIB, 5], [1] * 40], ids=str)
def test_composing_again_gives_the_same(backend: Backend, sizes: list[int]) -> None:
    base = folder()
    sources = [put(backend, f"{base}/piece-{n}", random_bytes(size)) for n, size in enumerate(sizes)]
    made = backend.able.compose(sources, f"{base}/original", HEADERS)
    for store in (backend.store, backend.again()):
        again = store.compose(sources, f"{base}/original", HEADERS)
        assert (again.ref, again.size, again.headers) == (made.ref, made.size, made.headers)
    for source in sources:
        backend.store.delete(source)
    assert backend.able.compose(sources, f"{base}/original", HEADERS).ref == made.ref
    assert backend.leftovers() == 0


@pytest.mark.parametrize("done", [False, True], ids=["undone", "done"])
@pytest.mark.parametrize("sizes", [[], [3], [3, 4], [6 * MIB, 5], [1] * 33], ids=str)
def test_composing_after_a_lost_reply(backend: Backend, sizes: list[int], done: bool) -> None:
    if backend.name == "memory":
        pytest.skip("nothing can be lost on the way")
    base = folder()
    bodies = [random_bytes(size) for size in sizes]
    sources = [put(backend, f"{base}/piece-{n}", body) for n, body in enumerate(bodies)]
    with lost_replies(backend, done=done), pytest.raises(StoreUnavailable):
        backend.able.compose(sources, f"{base}/original", HEADERS)
    made = backend.again().compose(sources, f"{base}/original", HEADERS)
    assert read(backend, made.ref) == b"".join(bodies)
    assert backend.store.head(f"{base}/original").headers == HEADERS
    for source in sources:
        backend.store.delete(source)
    backend.again().compose(sources, f"{base}/original", HEADERS)
    if backend.name.startswith("s3"):
        backend.able.abort_stale_uploads(timedelta(0))  # one whose id nobody was told


@pytest.mark.parametrize("sizes", [[3], [3, 3], [6 * MIB, 6 * MIB], [1] * 40], ids=str)
def test_a_taken_key_is_never_overwritten(backend: Backend, sizes: list[int]) -> None:
    base = folder()
    sources = [put(backend, f"{base}/piece-{n}", random_bytes(size)) for n, size in enumerate(sizes)]
    first = put(backend, f"{base}/original", b"first")
    with pytest.raises(ObjectExists):
        backend.able.compose(sources, f"{base}/original", HEADERS)
    assert backend.store.head(f"{base}/original").ref == first
    assert backend.store.head(f"{base}/original").headers == ObjectHeaders()
    if len(sizes) > 1:  # the same pieces the other way round are another object
        made = backend.able.compose(sources, f"{base}/text")
        with pytest.raises(ObjectExists):
            backend.able.compose(sources[::-1], f"{base}/text")
        assert backend.store.head(f"{base}/text").ref == made.ref
    for source in sources:
        backend.store.delete(source)
    assert backend.leftovers() == 0


@pytest.mark.parametrize("sizes", [[3, 3], [6 * MIB, 6 * MIB], [6 * MIB, 3], [1] * 40, [3]], ids=str)
def test_a_source_that_is_gone(backend: Backend, sizes: list[int]) -> None:
    base = folder()
    sources = [put(backend, f"{base}/piece-{n}", random_bytes(size)) for n, size in enumerate(sizes)]
    backend.store.delete(sources[-1])
    with pytest.raises(GONE):
        backend.able.compose(sources, f"{base}/original")
    put(backend, sources[-1].key, random_bytes(sizes[-1]))  # other bytes under its key
    with pytest.raises(GONE):
        backend.able.compose(sources, f"{base}/original")
    with pytest.raises(ObjectNotFound):
        backend.store.head(f"{base}/original")
    for source in sources:
        backend.store.delete(backend.store.head(source.key).ref)
    assert backend.leftovers() == 0


def test_a_source_of_another_bucket_is_refused(backend: Backend) -> None:
    theirs = put(backend, f"{folder()}/original", b"theirs", "other")
    with pytest.raises(ValueError):
        backend.able.compose([theirs], f"{folder()}/original")


@pytest.mark.parametrize("sizes", [[3], [3, 4], [6 * MIB, 5]], ids=str)
@pytest.mark.cwe(367)
def test_many_at_once_are_one(backend: Backend, sizes: list[int]) -> None:
    base, start = folder(), threading.Barrier(4)
    sources = [put(backend, f"{base}/piece-{n}", random_bytes(size)) for n, size in enumerate(sizes)]
    stores = [backend.again() for _ in range(4)]

    def run(number: int) -> ObjectRef:
        start.wait(30)
        ref: ObjectRef = stores[number].compose(sources, f"{base}/original", HEADERS).ref
        return ref

    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(run, range(4)))
    # SeaweedFS looks at the condition of a completion before it locks: there may be two versions, of the same bytes.
    assert len(made) == 1 or (backend.name == "s3 versioned" and max(sizes) > 5 * MIB)
    assert len({read(backend, ref) for ref in made}) == 1
    assert backend.store.head(f"{base}/original").headers == HEADERS
    for source in sources:
        backend.store.delete(source)
    assert backend.leftovers() == 0


def test_memory_is_bounded_whatever_the_length(backend: Backend) -> None:
    if backend.name in ("memory", "gcs", "s3 versioned"):
        pytest.skip("it is kept in memory, here or in the double; or tried without versions")
    base = folder()
    sources = [put(backend, f"{base}/piece-{n}", random_bytes(9 * MIB)) for n in range(6)]
    sources += [put(backend, f"{base}/piece-s{n}", random_bytes(3 * MIB)) for n in range(6)]
    backend.able.compose(sources[-2:], f"{base}/pdf")  # whatever the first call loads
    gc.collect()
    tracemalloc.start()
    try:
        made = backend.able.compose(sources * 2, f"{base}/original")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.size == 2 * 72 * MIB
    assert peak < 7 * backend.parts + 4 * MIB
    for source in [*sources, made.ref]:
        backend.store.delete(source)


@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 999, MIB, 3 * MIB, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 8 * MIB]), max_size=6),
    seed=st.integers(0, 1 << 30),
)
def test_any_sizes(backend: Backend, sizes: list[int], seed: int) -> None:
    source = random.Random(seed)
    composed(backend, [source.randbytes(size) for size in sizes])
