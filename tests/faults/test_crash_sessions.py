"""Killed at every call between a sender and its chunks, its signed requests and its parts.

The sender got no answer, and does what senders do: it asks again with the same Idempotency-Key, sends again what it
does not know to be there, and completes again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from uuid import UUID

import httpx
import pytest

from pipeline import chunks, presigned
from pipeline.chunks import Announced
from pipeline.documents import Upload, UploadMethod, UploadState
from pipeline.errors import Conflict
from pipeline.invariants import violations
from pipeline.presigned import Wanted
from pipeline.states import State
from pipeline.storage.base import SignedPut
from pipeline.unfinished import clean_uploads
from tests.faults.test_crash_points import ENOUGH, Fate, Killed, mortal, recover
from tests.faults.test_crash_ways_in import BODY, world
from tests.world import TENANT, World

__all__ = ["world"]

Sender = Callable[[World, str], Upload]
PIECES = (BODY[:7], BODY[7:], BODY[:7], b"other", BODY[7:])  # with one again, and one replaced, and replaced back
NUMBERS = (0, 1, 0, 1, 1)


def in_chunks(world: World, once: str) -> Upload:
    """A page that cuts a file into chunks."""
    services = world.services
    announced = Announced(name="a.csv", total=2, size=len(BODY))
    upload = chunks.begin(announced, TENANT, services, correlation_id="t", once=(once, "f"))
    for number, piece in zip(NUMBERS, PIECES, strict=True):
        try:
            expected = chunks.expect(upload.id, TENANT, number, services)
        except Conflict:  # complete already
            break
        with services.quarantine.create(expected.key) as writer:
            writer.write(piece)
            ref = writer.commit().ref
        chunks.note(expected, ref, len(piece), hashlib.sha256(piece).hexdigest(), services)
    return chunks.complete(upload.id, TENANT, Announced(), services)


def asked(world: World, once: str, method: UploadMethod) -> Upload:
    wanted = Wanted("a.csv", None, len(BODY), methods=(method,))
    return presigned.begin(wanted, TENANT, world.services, correlation_id="t", once=(once, "f"))[0]


def by_put(world: World, once: str) -> Upload:
    """One that sends a signed request."""
    upload = asked(world, once, UploadMethod.PUT)
    if upload.state is UploadState.OPEN:
        put = presigned.what_to_do(upload, world.services)
        assert isinstance(put, SignedPut)
        if world.services.settings.quarantine_url is None:
            try:  # what the API does with a local store's URL
                with world.services.quarantine.create(upload.key) as writer:
                    writer.write(BODY)
                    writer.commit()
            except Conflict:
                pass
        else:
            assert httpx.put(put.url, content=BODY, headers=dict(put.headers)).status_code in (200, 412)
    return presigned.complete(upload.id, TENANT, world.services)[0]


def in_parts(world: World, once: str) -> Upload:
    """One that sends parts."""
    upload = asked(world, once, UploadMethod.MULTIPART)
    if upload.state is UploadState.OPEN:
        [part] = presigned.part_urls(upload, world.services, first=1, limit=1)
        assert httpx.put(part.put.url, content=BODY, headers=dict(part.put.headers)).status_code == 200
    return presigned.complete(upload.id, TENANT, world.services)[0]


def only_on(world: World, way: Sender) -> None:
    if way is in_parts and world.services.settings.quarantine_url is None:
        pytest.skip("a store without parts")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", [in_chunks, by_put, in_parts])
def test_a_kill_anywhere_between_a_sender_and_its_document(world: World, way: Sender, after: bool) -> None:
    only_on(world, way)
    fired: set[str] = set()
    for number in range(1, ENOUGH):
        fate = Fate()
        fate.kill_at, fate.after = number, after
        once = f"{way.__name__}-{number}-{after}"
        survived, begun = True, None
        with mortal(world, fate):
            try:
                begun = way(world, once)
                world.run(begun.id)
                clean_uploads(world.services)
            except Killed:
                survived = False
        if survived:
            assert not fate.fired
            break
        fired.add(fate.fired)
        assert violations(world.services) == [], fate.fired
        document_id: UUID = way(world, once).id
        recover(world, document_id)
        document = world.document(document_id)
        assert document.state is State.AVAILABLE, (fate.fired, document.reason, document.detail)
        assert document.sha256 == hashlib.sha256(BODY).hexdigest(), fate.fired
        assert violations(world.services, at_rest=True) == [], fate.fired
        with world.services.ledger.begin() as tx:
            tx.move(document_id, tenant=None, to=State.DELETED, actor="test")
    else:
        pytest.fail("the way in never ended")
    when = "after" if after else "before"
    assert "before a commit" in fired
    assert {in_chunks: f"{when} quarantine.delete", in_parts: f"{when} quarantine.begin_parts"}.get(
        way, "before a commit"
    ) in fired
