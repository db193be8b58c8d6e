"""The engine behind tus, without HTTP: who may write, what is noted when, and what is left to the sweeper."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from pipeline import appending, sweeper
from pipeline.appending import Stretch, take
from pipeline.documents import Upload, UploadMethod, UploadState
from pipeline.errors import (
    Conflict,
    LedgerUnavailable,
    NotFound,
    OffsetMismatch,
    QuotaExceeded,
    StoreUnavailable,
    UploadGone,
    UploadLocked,
)
from pipeline.policy import Quota
from pipeline.states import State
from pipeline.storage.local_resumable import LocalResumable, LocalResumableWriter
from pipeline.uploads import give_up, new_upload, record
from tests.world import TENANT, World, worlds

AT_ONCE = timedelta(milliseconds=-1)  # over before it began: nobody need wait for a millisecond


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path)


def begun(world: World, size: int | None = 10, method: UploadMethod = UploadMethod.TUS) -> UUID:
    upload = new_upload(
        world.services, TENANT, method, name="a.csv", declared_type=None, size=size, correlation_id="test"
    )
    return record(upload, world.services).id


def held(world: World, upload_id: UUID, offset: int = 0, **more: object) -> Stretch:
    return take(upload_id, TENANT, world.services, offset=offset, **more)  # type: ignore[arg-type]


def row(world: World, upload_id: UUID) -> Upload:
    with world.services.ledger.reading() as tx:
        return tx.upload(upload_id)


def test_one_at_a_time(world: World) -> None:
    upload = begun(world)
    first = held(world, upload)
    with pytest.raises(UploadLocked):
        held(world, upload)
    first.write([b"hel", b"lo"])
    assert first.settle().offset == 5
    with pytest.raises(OffsetMismatch) as caught:
        held(world, upload)
    assert caught.value.extra["offset"] == 5
    second = held(world, upload, 5)
    second.write([b"world"])
    assert second.settle().state is UploadState.COMPLETED
    assert world.run(upload) is State.AVAILABLE
    assert list(world.served().values())[:1] == [b"helloworld"]


def test_what_is_not_there_cannot_be_taken(world: World) -> None:
    upload, other = begun(world), begun(world, method=UploadMethod.PUT)
    with pytest.raises(NotFound):
        take(upload, "somebody-else", world.services, offset=0)
    with pytest.raises(NotFound):
        held(world, other)
    give_up(row(world, upload), world.services)
    with pytest.raises(UploadGone):
        held(world, upload)


def test_dropped_is_as_if_it_had_not_been_sent(world: World) -> None:
    upload = begun(world)
    with_some = held(world, upload)
    with_some.write([b"hello"])
    assert with_some.settle().offset == 5
    lost = held(world, upload, 5)
    lost.write([b"?????"])
    lost.drop()
    lost.drop()
    again = held(world, upload, 5)
    again.write([b"world"])
    again.settle()
    assert world.run(upload) is State.AVAILABLE
    assert b"helloworld" in world.served().values()


def test_whoever_was_superseded_writes_nothing_that_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appending, "LEASE", AT_ONCE)
    upload = begun(world, 15)
    old = held(world, upload)
    old.write([b"hello"])
    new = held(world, upload)  # the old one's lease was over at once
    for call in (lambda: old.write([b"HELLO"]), old.settle):
        with pytest.raises(UploadLocked):
            call()
    new.write([b"HALLO"])
    assert new.settle().offset == 5
    with pytest.raises(UploadLocked):
        old.write([b"HELLO"])
    last = held(world, upload, 5)
    last.write([b" neue welt"])
    last.settle()
    assert world.run(upload) is State.AVAILABLE
    assert b"HALLO neue welt" in world.served().values()


def test_a_lapsed_lease_that_nobody_took_is_taken_up_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appending, "LEASE", AT_ONCE)
    upload = begun(world)
    slow = held(world, upload)
    for byte in b"helloworld":
        slow.write([bytes([byte])])
    assert slow.settle().state is UploadState.COMPLETED


def test_one_that_was_ended_meanwhile(world: World) -> None:
    upload = begun(world)
    sender = held(world, upload)
    sender.write([b"hello"])
    assert give_up(row(world, upload), world.services)
    with pytest.raises(UploadGone):
        sender.settle()
    sweeper.sweep(world.services)
    assert row(world, upload).progress == ""


def test_bytes_are_noted_on_the_way_but_never_those_of_a_chunk_that_is_to_be_checked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "NOTE_BYTES", 4)
    upload = begun(world, 20)
    plain = held(world, upload)
    for offset, noted in ((3, 0), (6, 6), (9, 6), (12, 12)):
        plain.write([b"abc"])
        assert (row(world, upload).offset, offset) == (noted, offset)
    assert plain.settle().offset == 12
    monkeypatch.setattr(appending, "NOTE_SECONDS", -1.0)  # the lease is renewed at each write
    checked = held(world, upload, 12, checked=True)
    for _ in range(2):
        checked.write([b"abcd"])
        assert row(world, upload).offset == 12
    checked.drop()
    assert held(world, upload, 12)


def test_what_the_store_has_begun_is_known_before_the_first_byte(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begun(world)

    def fails(*_: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(LocalResumableWriter, "write", fails)
    sender = held(world, upload)
    with pytest.raises(StoreUnavailable):
        sender.write([b"hello"])
    sender.drop()
    assert row(world, upload).progress
    assert row(world, upload).offset == 0
    give_up(row(world, upload), world.services)
    sweeper.sweep(world.services)
    assert list((world.services.settings.var_dir / "buckets").glob("*/.incoming/*")) == []


@pytest.mark.parametrize("method", [UploadMethod.TUS, UploadMethod.TUS_PARTIAL])
def test_the_sweeper_completes_what_has_all_its_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch, method: UploadMethod
) -> None:
    monkeypatch.setattr(appending, "LEASE", AT_ONCE)
    upload = begun(world, None, method)
    sender = held(world, upload)
    sender.write([b"hello"])
    sender.settle()
    held(world, upload, 5, size=5)  # and with that its process is gone
    assert row(world, upload).state is UploadState.OPEN
    sweeper.sweep(world.services)
    assert row(world, upload).state is UploadState.COMPLETED
    if method is UploadMethod.TUS:
        assert world.run(upload) is State.AVAILABLE
        assert b"hello" in world.served().values()


def test_one_that_cannot_be_completed_any_more_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appending, "LEASE", AT_ONCE)
    upload = begun(world, None)
    sender = held(world, upload)
    sender.write([b"hello"])
    sender.settle()
    held(world, upload, 5, size=5)
    smaller = world.services.policy.limits.model_copy(update={"bytes": 4})
    world.place(policy=world.services.policy.model_copy(update={"limits": smaller}))
    sweeper.sweep(world.services)
    assert row(world, upload).state is UploadState.EXPIRED


def test_a_piece_whose_store_call_failed_is_finished_by_whoever_looks_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begun(world, 5, UploadMethod.TUS_PARTIAL)
    sender = held(world, upload)
    sender.write([b"hello"])
    finish = LocalResumable.finish

    def answer_lost(*arguments: object) -> None:
        finish(*arguments)  # type: ignore[arg-type]
        raise StoreUnavailable

    monkeypatch.setattr(LocalResumable, "finish", answer_lost)
    with pytest.raises(StoreUnavailable):
        sender.settle()
    monkeypatch.undo()
    assert appending.is_whole(row(world, upload))
    assert row(world, upload).lock_owner is None
    assert appending.complete(row(world, upload), world.services)
    assert row(world, upload).version == world.services.quarantine.head(world.quarantined()[0]).ref.version
    assert not appending.complete(row(world, upload), world.services)


def test_a_commit_that_failed_costs_only_what_was_not_noted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begun(world)

    def fails(*_: object, **__: object) -> None:
        raise LedgerUnavailable

    sender = held(world, upload)
    sender.write([b"helloworld"])
    monkeypatch.setattr(appending, "receive", fails)
    with pytest.raises(LedgerUnavailable):
        sender.settle()
    monkeypatch.undo()
    again = held(world, upload)
    again.write([b"helloworld"])
    again.settle()
    assert world.run(upload) is State.AVAILABLE


def test_a_complete_one_takes_no_more(world: World) -> None:
    upload = begun(world, 5)
    sender = held(world, upload)
    sender.write([b"hello"])
    sender.settle()
    with pytest.raises(Conflict):
        held(world, upload, 5)


@pytest.mark.asvs("5.2.4")
def test_a_length_that_comes_late_is_held_to_the_quota(world: World) -> None:
    world.place(policy=world.services.policy.model_copy(update={"quota": Quota(bytes=100)}))
    first, late = begun(world, 60), begun(world, None)
    sender = held(world, late)
    sender.write([b"x" * 30])
    sender.settle()
    with pytest.raises(QuotaExceeded):
        held(world, late, 30, size=41)
    assert row(world, late).size is None
    last = held(world, late, 30, size=40)
    last.write([b"x" * 10])
    assert last.settle().state is UploadState.COMPLETED
    give_up(row(world, first), world.services)
