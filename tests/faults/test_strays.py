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

from pipeline.documents import NewDocument
from pipeline.errors import ObjectNotFound, StoreError, StoreUnavailable
from pipeline.invariants import violations
from pipeline.states import State
from pipeline.storage.base import ObjectRef
from pipeline.storage.keys import key_of
from pipeline.sweeper import reconcile, sweep
from scanners.base import Sample, ScannerError
from tests.world import TENANT, World, worlds


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
