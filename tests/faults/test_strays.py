"""The sweeper among others that do the same, and among objects that will not let themselves be read or removed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from pipeline.documents import Advance, NewDocument
from pipeline.errors import ObjectNotFound, StoreError, StoreUnavailable
from pipeline.invariants import violations
from pipeline.ledger.models import documents
from pipeline.states import WORKING, Reason, State
from pipeline.storage.base import ObjectRef
from pipeline.storage.keys import key_of
from pipeline.sweeper import reconcile, sweep
from scanners.base import Sample, ScannerError
from tests.world import EICAR, TENANT, World, worlds

APPROVED = [Advance(State.CLEAN), Advance(State.RECOGNIZED), Advance(State.APPROVED)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path, orphan_after_seconds=1e-9, requeue_after_seconds=1e-9)


def put(world: World, key: str, body: bytes) -> ObjectRef:
    with world.services.quarantine.create(key) as writer:
        writer.write(body)
        return writer.commit().ref


@pytest.mark.parametrize("part", ["original", "text"])
def test_what_comes_to_quarantine_after_its_document_has_left_is_removed(world: World, part: str) -> None:
    document_id = world.land()
    assert world.run(document_id) is State.AVAILABLE
    put(world, key_of("standard", TENANT, document_id, part), b"a signed upload, sent again; a superseded reader's")
    reconcile(world.services)
    assert world.quarantined() == []
    assert violations(world.services, at_rest=True) == []


def test_what_is_still_needed_in_quarantine_stays(world: World) -> None:
    def choke(_: Sample) -> None:
        raise ScannerError("no verdict")

    waiting, failed = world.land(b"waits"), world.land(b"fails")
    world.clamav.before = choke
    for _ in range(3):
        world.run(failed)
        world.hurry(failed)
    assert world.document(failed).state is State.FAILED
    reconcile(world.services)
    assert len(world.quarantined()) == 2
    world.clamav.before = lambda _: None
    with world.services.ledger.begin() as tx:
        tx.replay(failed)
    assert [world.run(each) for each in (waiting, failed)] == [State.AVAILABLE, State.AVAILABLE]


def stray(world: World, body: bytes) -> UUID:
    document_id = uuid4()
    put(world, key_of("standard", TENANT, document_id), body)
    return document_id


@pytest.mark.parametrize("other", ["another beat", "a slow commit"])
def test_a_stray_that_gets_its_row_meanwhile_keeps_its_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    body = b"nobody was told of this"
    document_id = stray(world, body)
    get = world.services.quarantine.get

    def meanwhile(ref: ObjectRef, *args: Any) -> Iterator[bytes]:
        monkeypatch.undo()
        if other == "another beat":
            assert reconcile(world.services)["adopted"] == 1
        else:
            new = NewDocument(
                id=document_id,
                tenant=TENANT,
                source=ref,
                size=len(body),
                sha256=hashlib.sha256(body).hexdigest(),
                name="a.csv",
                declared_type=None,
                retention="standard",
                policy_digest="p",
                correlation_id="c",
            )
            with world.services.ledger.begin() as tx:
                tx.insert(new)
        return get(ref, *args)

    monkeypatch.setattr(world.services.quarantine, "get", meanwhile)
    assert reconcile(world.services)["adopted"] == 0
    assert world.run(document_id) is State.AVAILABLE
    assert list(world.served().values()) == [body]


@pytest.mark.parametrize("error", [StoreError, StoreUnavailable, ObjectNotFound])
def test_a_stray_that_cannot_be_read_keeps_no_other_from_being_adopted(
    world: World, monkeypatch: pytest.MonkeyPatch, error: type[StoreError]
) -> None:
    strays = [stray(world, b"stray %d" % number) for number in range(3)]
    sick = str(min(strays))
    get = world.services.quarantine.get

    def read(ref: ObjectRef, *args: Any) -> Iterator[bytes]:
        if sick in ref.key:
            raise error
        return get(ref, *args)

    monkeypatch.setattr(world.services.quarantine, "get", read)
    assert reconcile(world.services)["adopted"] == 2


def test_an_object_that_cannot_be_removed_keeps_no_other_from_going(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [world.land(b"%d" % number) for number in range(3)]
    for document_id in documents:
        with world.services.ledger.begin() as tx:
            tx.move(document_id, tenant=None, to=State.DELETED, actor="api", erase_in=timedelta(0))
    delete = world.services.quarantine.delete

    def locked(ref: ObjectRef) -> bool:
        if str(documents[0]) in ref.key:
            raise StoreError("It is under a legal hold.")
        return delete(ref)

    monkeypatch.setattr(world.services.quarantine, "delete", locked)
    assert sweep(world.services)["erased"] == 2
    assert [str(documents[0]) in key for key in world.quarantined()] == [True]


def test_a_copy_of_a_failed_promotion_is_left_for_its_replay(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    document_id = world.land(b"precious")
    monkeypatch.setattr(world.services.receipts, "sign", lambda *_: 1 / 0)
    for _ in range(3):
        world.run(document_id)
        world.hurry(document_id)
    assert world.document(document_id).state is State.FAILED
    monkeypatch.undo()
    states: list[State] = []
    delete = world.services.serving.delete

    def replayed_meanwhile(ref: ObjectRef) -> bool:
        with world.services.ledger.begin() as tx:
            tx.replay(document_id)
        states.append(world.run(document_id) or State.FAILED)
        return delete(ref)

    monkeypatch.setattr(world.services.serving, "delete", replayed_meanwhile)
    reconcile(world.services)
    monkeypatch.undo()
    if not states:
        with world.services.ledger.begin() as tx:
            tx.replay(document_id)
        world.run(document_id)
    assert list(world.served().values()) == [b"precious"]
    assert violations(world.services, at_rest=True) == []


def test_an_old_spool_is_cleared_of_files_too_and_by_two_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = world.services.settings.spool_dir
    (spool / "folder").mkdir(parents=True)
    (spool / "folder" / "sample").write_bytes(b"x")
    (spool / "file").write_bytes(b"x")
    (spool / "young").write_bytes(b"x")
    for name in ("folder", "file"):
        os.utime(spool / name, (0, 0))
    listed = list(spool.iterdir())
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([spool / "gone meanwhile", *listed]))
    found = reconcile(world.services)
    monkeypatch.undo()
    assert found["spool"] == 2
    assert [path.name for path in spool.iterdir()] == ["young"]


def test_what_is_in_serving_without_being_allowed_to_goes_and_what_is_on_its_way_stays(world: World) -> None:
    approved, rejected, available = (world.land(b"%d" % number) for number in range(3))
    assert world.run(available) is State.AVAILABLE
    for document_id, road in (approved, APPROVED), (rejected, [Advance(State.REJECTED, Reason.INFECTED)]):
        with world.services.ledger.begin() as tx:
            job = tx.claim(document_id, ready=WORKING, owner="test", lease=timedelta(minutes=1))
            assert job is not None
            tx.settle(job, road)
        with world.services.serving.create(key_of("standard", TENANT, document_id)) as writer:
            writer.write(b"x")
            writer.commit()
    assert reconcile(world.services)["unserved"] == 1
    assert {key.split("/")[2] for key in world.served()} == {str(approved), str(available)}


def test_what_is_rejected_stays_in_quarantine_until_its_time(world: World) -> None:
    document_id = world.land(EICAR)
    assert world.run(document_id) is State.REJECTED
    put(world, key_of("standard", TENANT, document_id, "text"), b"a superseded reader's")
    assert reconcile(world.services)["unneeded"] == 1
    assert world.quarantined() == [key_of("standard", TENANT, document_id)]


def test_what_comes_under_the_key_of_a_rejected_document_goes(world: World) -> None:
    """A signed URL lives on: the key is free again once the document's bytes are erased, or were replaced there."""
    replaced, erased = world.land(EICAR), world.land(EICAR + b"2")
    for document_id in (replaced, erased):
        assert world.run(document_id) is State.REJECTED
        world.services.quarantine.delete(world.document(document_id).source)
    with world.services.ledger.begin() as tx:
        tx.erased(erased)
    for document_id in (replaced, erased):
        put(world, key_of("standard", TENANT, document_id), b"sent once more")
    assert reconcile(world.services)["unneeded"] == 2
    assert world.quarantined() == []


def test_another_tenants_same_bytes_make_no_double_nor_does_what_was_sent_before(tmp_path: Path) -> None:
    for world in worlds(tmp_path, orphan_after_seconds=1e-9):
        world.run(world.land(b"shared"))
        older = world.document(world.land(b"sent once before"))
        stray(world, b"shared")
        with world.services.ledger.begin() as tx:
            tx._connection.execute(update(documents).where(documents.c.id == older.id).values(created_at=1))
        stray(world, b"sent once before")
        other = key_of("standard", "other", uuid4())
        put(world, other, b"shared")
        assert reconcile(world.services)["adopted"] == 2  # the second, and the other tenant's


def test_what_is_young_is_somebodys_work_in_progress(tmp_path: Path) -> None:
    for world in worlds(tmp_path):
        stray(world, b"its row is being written")
        put(world, key_of("standard", TENANT, uuid4(), "text"), b"and so is this")
        assert reconcile(world.services)["adopted"] == 0
        assert len(world.quarantined()) == 2


class Bodies:
    """A store whose bodies come as the test says."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.bucket = "far"

    def get(self, _ref: ObjectRef) -> Iterator[bytes]:
        for piece in self.pieces:
            if not piece:
                raise StoreUnavailable("The body stalled.")
            yield piece


@pytest.mark.parametrize(
    ("pieces", "waits"),
    [
        ((b"sho",), None),
        ((b"exactly", b" and more than it"), None),
        ((b"exact1y",), None),
        ((b"exa", b""), "store-unavailable"),
    ],
    ids=["short", "longer", "other", "stalled"],
)
def test_a_body_that_is_not_what_was_sent_is_not_scanned_and_leaves_nothing(
    world: World, pieces: tuple[bytes, ...], waits: str | None
) -> None:
    document_id = world.land(b"exactly")
    near = world.services.quarantine
    world.place(quarantine=Bodies(*pieces))
    assert world.run(document_id) is State.QUARANTINED
    document = world.document(document_id)
    assert document.waiting_for == (waits or "checksum-mismatch")
    assert document.tries == (0 if waits else 1)
    assert world.clamav.scanned == []
    assert not any(world.services.settings.spool_dir.iterdir())
    world.place(quarantine=near)
    world.hurry(document_id)
    assert world.run(document_id) is State.AVAILABLE


def test_a_document_deleted_while_its_quarantine_copy_goes_is_still_erased_from_serving(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = world.land()
    delete = world.services.quarantine.delete

    def deleted_meanwhile(ref: ObjectRef) -> bool:
        monkeypatch.undo()
        with world.services.ledger.begin() as tx:
            tx.move(document_id, tenant=TENANT, to=State.DELETED, actor="api", erase_in=timedelta(0))
        return delete(ref)

    monkeypatch.setattr(world.services.quarantine, "delete", deleted_meanwhile)
    assert world.run(document_id) is State.AVAILABLE
    assert world.document(document_id).erase_at is not None  # the removal that just ended was not the one that is due
    assert sweep(world.services)["erased"] == 1
    assert world.served() == {}
    assert sweep(world.services)["erased"] == 0  # ticked off
