"""Killed at every call on the ways in that take more than one request: landing, putting together, cleaning up.

What the other side does is part of it: a sender that got no answer asks again, an event that was not acknowledged comes
again. Each kill is proved to have fired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from pipeline.api_keys import make_key
from pipeline.documents import Event, Filters, Lane, UploadMethod, UploadPart
from pipeline.invariants import violations
from pipeline.landing import land_key
from pipeline.states import State
from pipeline.storage.abilities import Resumable
from pipeline.unfinished import clean_uploads
from pipeline.uploads import new_upload, piece_key, receive, record
from tests.faults.test_crash_points import ENOUGH, Fate, Killed, mortal, recover
from tests.world import TENANT, World, bucket_urls

BODY = b"some,text\nmore,text\n"
Way = Callable[[World], tuple[Callable[[], None], Callable[[], UUID]]]


# On S3 each kill costs a second, and there are three hundred: a long run.
@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    buckets = bucket_urls(request.param, request)
    made = World(
        tmp_path, max_tries=5, orphan_after_seconds=1e-9, requeue_after_seconds=1e-9, drop_after_seconds=0, **buckets
    )
    make_key(made.services.ledger, TENANT)
    made.place(announcer=Bells(made))
    yield made
    made.services.close()


class Bells:
    """An announcer that ticks nothing off, so that no thread of its own meets the kill that is meant for the caller."""

    def __init__(self, world: World) -> None:
        self._world = world

    def announce(self, events: list[Event]) -> None:
        for event in events:
            self._world.services.queue.ring(event.document_id, Lane.INSPECT)

    def close(self) -> None:
        """Nothing to end."""


def put(world: World, key: str, body: bytes) -> str:
    with world.services.quarantine.create(key) as writer:
        writer.write(body)
        return writer.commit().ref.version


def chunks(world: World) -> tuple[Callable[[], None], Callable[[], UUID]]:
    """Pieces that are all there; the sender completes its session."""
    upload = record(
        new_upload(
            world.services, TENANT, UploadMethod.CHUNKS, name="a.csv", declared_type=None, size=None, correlation_id="t"
        ),
        world.services,
    )
    for number, body in enumerate((BODY[:7], BODY[7:])):
        part = UploadPart(number, len(body), put(world, piece_key(upload.key, number), body))
        with world.services.ledger.begin() as tx:
            tx.put_upload_part(upload.id, part)
    return (lambda: _none(receive(upload, world.services, size=len(BODY)))), lambda: upload.id


def tus(world: World) -> tuple[Callable[[], None], Callable[[], UUID]]:
    """Bytes that are all there; the request that brought the last one completes the upload."""
    store = world.services.quarantine
    assert isinstance(store, Resumable)
    made = new_upload(
        world.services, TENANT, UploadMethod.TUS, name="a.csv", declared_type=None, size=len(BODY), correlation_id="t"
    )
    progress = store.begin(made.key)
    upload = record(made, world.services)
    with store.resume(upload.key, progress) as writer:
        writer.write(BODY)
        progress = writer.checkpoint()
    return (lambda: _none(receive(upload, world.services, size=len(BODY), progress=progress.state))), lambda: upload.id


def drop(world: World) -> tuple[Callable[[], None], Callable[[], UUID]]:
    """An object in a drop folder, and its event."""
    before = set(documents(world))
    key = f"drop/{TENANT}/{len(before)}.csv"
    put(world, key, BODY)

    def only() -> UUID:
        [mine] = set(documents(world)) - before
        return mine

    return (lambda: _none(land_key(key, None, world.services, actor="event"))), only


def signed(world: World) -> tuple[Callable[[], None], Callable[[], UUID]]:
    """What was sent to a signed URL, and its event."""
    upload = record(
        new_upload(
            world.services, TENANT, UploadMethod.PUT, name="a.csv", declared_type=None, size=None, correlation_id="t"
        ),
        world.services,
    )
    put(world, upload.key, BODY)
    return (lambda: _none(land_key(upload.key, None, world.services, actor="event"))), lambda: upload.id


def _none(_: object) -> None:
    return


def documents(world: World) -> list[UUID]:
    with world.services.ledger.reading() as tx:
        return [one.id for one in tx.documents(Filters(TENANT), limit=200)[0]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", [chunks, tus, drop, signed])
def test_a_kill_anywhere_on_a_way_in_makes_one_document_and_leaves_nothing(world: World, way: Way, after: bool) -> None:
    fired = set()
    for number in range(1, ENOUGH):
        complete, which = way(world)
        fate = Fate()
        fate.kill_at, fate.after = number, after
        survived = True
        with mortal(world, fate):
            try:
                complete()
                world.run(which())
                clean_uploads(world.services)
            except Killed:
                survived = False
        if survived:
            assert not fate.fired
            break
        fired.add(fate.fired)
        assert violations(world.services) == [], fate.fired
        complete()  # whoever asked got no answer, and asks again
        document_id = which()
        recover(world, document_id)
        assert world.document(document_id).state is State.AVAILABLE, fate.fired
        assert world.document(document_id).size == len(BODY)
        assert violations(world.services, at_rest=True) == [], fate.fired
        with world.services.ledger.begin() as tx:
            tx.move(document_id, tenant=None, to=State.DELETED, actor="test")
    else:
        pytest.fail("the way in never ended")
    assert "before a commit" in fired
    together = {chunks: "compose", drop: "compose", tus: "finish"}.get(way)
    if together is not None:
        assert f"{'after' if after else 'before'} quarantine.{together}" in fired
