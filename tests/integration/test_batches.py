"""Batches worked off: what they are made of becomes documents, once, whatever breaks; and each ends with one event."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from pipeline import attaching, feeding
from pipeline.api_keys import make_key
from pipeline.batches import Batch, BatchEvent, BatchState, ItemState, NewItem, Source
from pipeline.documents import Filters, UploadMethod, UploadState
from pipeline.errors import Conflict, StoreUnavailable
from pipeline.feeding import drop_unsent, feed
from pipeline.invariants import violations
from pipeline.landing import drop_id, land_drop
from pipeline.ledger.models import batches
from pipeline.outbox import relay, relay_batches
from pipeline.settings import QueueKind
from pipeline.states import State
from pipeline.storage.base import ObjectStat
from pipeline.sweeper import sweep
from pipeline.uploads import give_up, new_upload, record
from tests.world import EICAR, TENANT, World, bucket_urls, worlds

WINDOW = 8


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    for made in worlds(tmp_path, queue=QueueKind.CELERY, batch_window=WINDOW, batch_seconds=60):
        make_key(made.services.ledger, TENANT)
        yield made


@pytest.fixture(params=["local", "s3"])
def either(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    urls = bucket_urls(request.param, request)
    for made in worlds(tmp_path, queue=QueueKind.CELERY, batch_window=WINDOW, batch_seconds=60, **urls):
        make_key(made.services.ledger, TENANT)
        yield made


def drop(world: World, key: str, body: bytes | None = None) -> ObjectStat:
    with world.services.quarantine.create(key) as writer:
        writer.write(key.encode() if body is None else body)
        return writer.commit()


def dropped(world: World, many: int, folder: str = "may") -> list[str]:
    keys = [f"drop/{TENANT}/{folder}/{number:04}.csv" for number in range(many)]
    for key in keys:
        drop(world, key)
    return keys


def made(world: World, *items: NewItem, source: Source = Source.OBJECTS, **given: Any) -> Batch:
    """A batch as its request leaves it."""
    batch = Batch(uuid4(), TENANT, None, BatchState.LOADING, source, "request-1", **given)
    bad = sum(item.problem is not None for item in items)
    counts = {ItemState.WAITING: len(items) - bad, ItemState.INVALID: bad}
    with world.services.ledger.begin() as tx:
        tx.new_batch(batch)
        tx.add_items(batch.id, items, first=0)
        return tx.start_batch(batch.id, {state: many for state, many in counts.items() if many})


def by_key(*keys: str) -> list[NewItem]:
    return [NewItem(key=key) for key in keys]


def of(world: World, batch: Batch) -> Batch:
    with world.services.ledger.reading() as tx:
        found = tx.batch(batch.id)
        assert found.counts == tx.counted(batch.id)
        return found


def errors(world: World, batch: Batch) -> dict[int, str | None]:
    with world.services.ledger.reading() as tx:
        return {row.seq: row.error for row in tx.results(batch, after=-1, limit=1000) if row.error}


def ask(world: World, batch: Batch, to: BatchState, *start: BatchState) -> None:
    with world.services.ledger.begin() as tx:
        tx.ask_batch(batch.id, tenant=TENANT, to=to, start=start)


def hurry(world: World) -> None:
    """Nobody holds any batch, and all are due."""
    with world.services.ledger.begin() as tx:
        due = batches.c.due_at.is_not(None)
        tx._connection.execute(update(batches).where(due).values(due_at=0, lease_until=1))


def work_off(world: World, batch: Batch, rounds: int = 60) -> Batch:
    """Play feeder and workers by turns until the batch is over."""
    for _ in range(rounds):
        hurry(world)
        feed(world.services)
        waiting, world.rings.rung = world.rings.rung, []
        for document_id, _, _ in waiting:
            world.run(document_id)
        if of(world, batch).ended_at is not None:
            return of(world, batch)
    raise AssertionError(f"the batch does not end: {of(world, batch)}")


def documents(world: World) -> list[UUID]:
    with world.services.ledger.reading() as tx:
        return [document.id for document in tx.documents(Filters(TENANT), limit=1000)[0]]


def test_a_prefix_becomes_documents_a_window_at_a_time_and_ends_with_one_event(either: World) -> None:
    world = either
    dropped(world, 30)
    drop(world, f"drop/{TENANT}/mayor.csv")  # the prefix ends in a slash
    batch = made(world, source=Source.PREFIX, prefix=f"drop/{TENANT}/may/", listed=False)
    if world.services.settings.quarantine_url is None:  # a folder shows files that are still being written
        world.services.__dict__["settings"] = world.services.settings.model_copy(update={"drop_after_seconds": 0.0})
    feed(world.services)
    assert of(world, batch).counts == {ItemState.RUNNING: WINDOW, ItemState.WAITING: 30 - WINDOW}
    over = work_off(world, batch)
    assert (over.state, over.counts, over.listed) == (BatchState.COMPLETED, {ItemState.AVAILABLE: 30}, True)
    with world.services.ledger.reading() as tx:
        [event] = tx.batch_events(batch.id)
        assert event.facts == {"state": "completed", "total": 30, "counts": {"available": 30}}
        assert {tx.document(one).batch_id for one in documents(world)} == {batch.id}
    assert len(documents(world)) == 30


def test_manifests_hints_reach_the_documents(world: World) -> None:
    key = dropped(world, 1)[0]
    given = NewItem(key, None, None, "Größe.csv", "text/csv", "ab" * 32, 2)
    over = work_off(world, made(world, given, NewItem(line=3, problem="no"), source=Source.MANIFEST))
    assert over.counts == {ItemState.REJECTED: 1, ItemState.INVALID: 1}
    document = world.document(documents(world)[0])
    assert (document.name, document.declared_type) == ("Größe.csv", "text/csv")
    assert errors(world, over) == {0: "digest_mismatch"}


def test_only_the_own_drop_folder_can_be_named_and_nobody_is_told_what_lies_elsewhere(world: World) -> None:
    mine = world.land()
    make_key(world.services.ledger, "other")
    there = "drop/other/secret.csv"
    drop(world, there)
    keys = [there, world.document(mine).source.key, f"drop/{TENANT}/../other/secret.csv", f"drop/{TENANT}/none", "x"]
    foreign = world.land(tenant="other")
    batch = made(world, *by_key(*keys), NewItem(document_id=foreign), NewItem(document_id=uuid4()))
    over = work_off(world, batch)
    assert over.counts == {ItemState.FAILED: 7}
    assert errors(world, over) == dict.fromkeys(range(5), "object-not-found") | {5: "not-found", 6: "not-found"}
    assert documents(world) == [mine]
    assert there in world.quarantined()


def test_an_event_that_was_faster_and_a_batch_find_the_same_document(world: World) -> None:
    keys = dropped(world, 3)
    early = [drop_id(world.services.quarantine.head(key)) for key in keys]
    for key in keys:
        land_drop(key, None, world.services, actor="event")
    world.run(early[0])  # put together: the object is gone from the drop folder
    sweep(world.services)
    assert keys[0] not in world.quarantined()
    world.rings.rung += [(one, world.rings.rung[0][1], 0.0) for one in early]
    over = work_off(world, made(world, *by_key(*keys)))
    assert over.counts == {ItemState.AVAILABLE: 3}
    assert sorted(documents(world)) == sorted(early)
    again = work_off(world, made(world, *by_key(*keys)))
    assert again.counts == {ItemState.AVAILABLE: 3}
    assert len(documents(world)) == 3


def test_what_came_of_a_name_long_ago_is_not_what_is_meant_today(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = dropped(world, 1)[0]
    stat = world.services.quarantine.head(key)
    work_off(world, made(world, *by_key(key)))
    sweep(world.services)
    monkeypatch.setattr(attaching, "RECENT", timedelta(0))
    assert work_off(world, made(world, *by_key(key))).counts == {ItemState.FAILED: 1}
    # Unless it is said which bytes are meant.
    document = world.document(documents(world)[0])
    exact = [NewItem(key, version=stat.ref.version), NewItem(key, declared_sha256=document.sha256)]
    assert work_off(world, made(world, *exact)).counts == {ItemState.AVAILABLE: 2}
    wrong = [NewItem(key, version="another"), NewItem(key, declared_sha256="ab" * 32)]
    assert work_off(world, made(world, *wrong)).counts == {ItemState.FAILED: 2}


def test_another_version_than_was_named_is_not_taken(world: World) -> None:
    key = dropped(world, 1)[0]
    over = work_off(world, made(world, NewItem(key, version="another")))
    assert errors(world, over) == {0: "precondition-failed"}
    assert key in world.quarantined()


def test_bytes_that_an_event_landed_before_are_held_to_the_manifest_too(world: World) -> None:
    key = dropped(world, 1)[0]
    land_drop(key, None, world.services, actor="event")
    over = work_off(world, made(world, NewItem(key, declared_sha256="ab" * 32)))
    assert errors(world, over) == {0: "digest-mismatch"}


def test_documents_and_uploads_are_joined_as_they_are(world: World) -> None:
    done, going, bad = world.land(b"one"), world.land(b"two"), world.land(EICAR)
    world.run(done)
    world.run(bad)
    upload = open_upload(world)
    batch = made(world, *(NewItem(document_id=one) for one in (done, going, bad, upload.id)), source=Source.UPLOADS)
    feed(world.services)
    assert of(world, batch).counts == {
        ItemState.AVAILABLE: 1,
        ItemState.RUNNING: 1,
        ItemState.REJECTED: 1,
        ItemState.OPEN: 1,
    }
    world.run(going)
    hurry(world)
    feed(world.services)
    assert of(world, batch).counts[ItemState.AVAILABLE] == 2
    give_up(upload, world.services)
    over = work_off(world, batch)
    assert errors(world, over) == {2: "infected", 3: "upload-gone"}


def open_upload(world: World) -> Any:
    return record(
        new_upload(
            world.services,
            TENANT,
            UploadMethod.TUS,
            name="a.csv",
            declared_type="text/csv",
            size=3,
            correlation_id="x",
        ),
        world.services,
    )


def test_uploads_that_stay_open_hold_up_nothing_else(world: World) -> None:
    uploads = [open_upload(world) for _ in range(2 * WINDOW)]
    ready = [world.land(b"%d" % number) for number in range(3)]
    batch = made(world, *(NewItem(document_id=one) for one in (*(each.id for each in uploads), *ready)))
    feed(world.services)
    assert of(world, batch).counts == {ItemState.OPEN: 2 * WINDOW, ItemState.RUNNING: 3}
    assert uploads[0].state is UploadState.OPEN


def test_cancelling_begins_nothing_more_and_lets_the_rest_go_to_its_end(world: World) -> None:
    batch = made(world, *by_key(*dropped(world, 20)))
    feed(world.services)
    ask(world, batch, BatchState.CANCELLING, BatchState.RUNNING)
    over = work_off(world, batch)
    assert over.state is BatchState.CANCELLED
    assert over.counts == {ItemState.CANCELLED: 20 - WINDOW, ItemState.AVAILABLE: WINDOW}
    with world.services.ledger.reading() as tx:
        assert [event.facts["state"] for event in tx.batch_events(batch.id)] == ["cancelled"]
    with pytest.raises(Conflict):
        ask(world, batch, BatchState.CANCELLING, BatchState.RUNNING)


def test_a_prefix_that_is_cancelled_is_listed_no_further(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "PAGE", 4)
    dropped(world, 20)
    batch = made(world, source=Source.PREFIX, prefix=f"drop/{TENANT}/", listed=False)
    ask(world, batch, BatchState.CANCELLING, BatchState.RUNNING)
    assert work_off(world, batch).total == 0


def test_retrying_takes_up_what_failed_and_nothing_else(world: World) -> None:
    keys = dropped(world, 4)

    def choke(sample: Any) -> None:
        if sample.path.read_bytes().endswith(b"0002.csv"):
            raise ZeroDivisionError

    world.structure.before = choke
    world.services.__dict__["settings"] = world.services.settings.model_copy(update={"max_tries": 1})
    batch = made(world, *by_key(*keys, f"drop/{TENANT}/late.csv"), NewItem(line=7, problem="no"))
    over = work_off(world, batch)
    assert over.counts == {ItemState.AVAILABLE: 3, ItemState.FAILED: 2, ItemState.INVALID: 1}
    assert errors(world, over) == {2: "attempts_exhausted", 4: "object-not-found"}
    world.structure.before = lambda _: None
    drop(world, f"drop/{TENANT}/late.csv")
    before = len(documents(world))
    ask(world, batch, BatchState.RETRYING, BatchState.COMPLETED)
    again = work_off(world, batch)
    assert (again.run, again.counts) == (2, {ItemState.AVAILABLE: 5, ItemState.INVALID: 1})
    assert len(documents(world)) == before + 1
    with world.services.ledger.reading() as tx:
        assert [event.run for event in tx.batch_events(batch.id)] == [1, 2]


def test_a_prefix_with_more_than_a_batch_may_have_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "PAGE", 3)
    world.services.__dict__["settings"] = world.services.settings.model_copy(
        update={"batch_items": 7, "drop_after_seconds": 0.0}
    )
    dropped(world, 12)
    over = work_off(world, made(world, source=Source.PREFIX, prefix=f"drop/{TENANT}/", listed=False))
    assert (over.total, over.truncated) == (7, True)


def test_a_batch_of_nothing_ends_at_once(world: World) -> None:
    over = work_off(world, made(world, source=Source.PREFIX, prefix=f"drop/{TENANT}/nothing/", listed=False))
    assert (over.state, over.total, over.truncated) == (BatchState.COMPLETED, 0, False)


def test_a_key_can_be_any_text_and_fails_by_itself(either: World) -> None:
    world = either
    odd = ["Größe, 1.csv", "a//b", "a\nb", "./a", "a/../../b", "\x01", " ", "x" * 900, "%2e%2e", "a?versionId=1", "🧾"]
    good = dropped(world, 1)[0]
    batch = made(world, *by_key(*(f"drop/{TENANT}/{name}" for name in odd), good))
    assert work_off(world, batch).counts == {ItemState.FAILED: len(odd), ItemState.AVAILABLE: 1}
    assert set(errors(world, batch).values()) <= {"object-not-found", "store-error", "internal-error"}


def test_an_item_that_meets_a_bug_fails_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = dropped(world, 2)
    head = world.services.quarantine.head

    def bug(key: str, *args: Any) -> ObjectStat:
        if key == keys[0]:
            raise ZeroDivisionError
        return head(key, *args)

    monkeypatch.setattr(world.services.quarantine, "head", bug)
    over = work_off(world, made(world, *by_key(*keys)))
    assert (over.counts, errors(world, over)) == ({ItemState.FAILED: 1, ItemState.AVAILABLE: 1}, {0: "internal-error"})


def test_a_store_that_is_away_fails_no_item(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = made(world, *by_key(*dropped(world, 3)))

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(world.services.quarantine, "head", away)
    assert feed(world.services) == 1
    assert of(world, batch).counts == {ItemState.WAITING: 3}
    assert feed(world.services) == 0  # not again at once
    monkeypatch.undo()
    assert work_off(world, batch).counts == {ItemState.AVAILABLE: 3}


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours may stop it."""


# Where a feeder is killed: what it calls, and the how manieth time.
PLACES: dict[str, tuple[Callable[[World], tuple[object, str]], int]] = {
    "take": (lambda _: (feeding.Feeder, "work"), 1),
    "list": (lambda world: (world.services.quarantine, "list"), 2),
    "head": (lambda world: (world.services.quarantine, "head"), 3),
    "land": (lambda _: (attaching, "land_drop"), 2),
    "begin": (lambda _: (attaching.Attacher, "begin"), 2),
    "look": (lambda _: (attaching.Attacher, "look"), 2),
    "write": (lambda _: (feeding.Feeder, "_write"), 4),
    "end": (lambda _: (feeding.Feeder, "_end"), 2),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("place", PLACES)
def test_a_feeder_that_is_killed_anywhere_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, after: bool
) -> None:
    monkeypatch.setattr(feeding, "PAGE", 3)
    settings = {"queue": QueueKind.CELERY, "batch_window": 3, "batch_seconds": 60, "drop_after_seconds": 0}
    for world in worlds(tmp_path, **settings):
        make_key(world.services.ledger, TENANT)
        dropped(world, 8)
        batch = made(world, source=Source.PREFIX, prefix=f"drop/{TENANT}/", listed=False)
        find, number = PLACES[place]
        target, name = find(world)
        real, calls, fired = getattr(target, name), count(1), []

        def deadly(*args: Any, **kwargs: Any) -> Any:
            fatal = next(calls) == number  # noqa: B023
            if fatal:
                fired.append(place)  # noqa: B023
            if fatal and not after:
                raise Killed
            answer = real(*args, **kwargs)  # noqa: B023
            if fatal:
                raise Killed
            return answer

        monkeypatch.setattr(target, name, deadly)
        for _ in range(30):
            hurry(world)
            with contextlib.suppress(Killed):
                feed(world.services)
            # Whoever the dead one did not ring for is found by the relay.
            relay(world.services, older_than=timedelta(0))
            waiting, world.rings.rung = world.rings.rung, []
            for document_id, _, _ in waiting:
                world.run(document_id)
            if of(world, batch).ended_at is not None:
                break
        assert fired == [place]
        assert of(world, batch).counts == {ItemState.AVAILABLE: 8}
        assert len(documents(world)) == 8
        with world.services.ledger.reading() as tx:
            assert len(tx.batch_events(batch.id)) == 1
        sweep(world.services)
        assert violations(world.services, at_rest=True) == []


def test_a_request_that_broke_off_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(uuid4(), TENANT, None, BatchState.LOADING, Source.MANIFEST, "x")
    with world.services.ledger.begin() as tx:
        tx.new_batch(batch)
        tx.add_items(batch.id, by_key("drop/acme/a"), first=0)
    assert drop_unsent(world.services) == 0
    hurry(world)
    assert drop_unsent(world.services) == 1
    with world.services.ledger.reading() as tx:
        assert tx.counted(batch.id) == {}


def test_documents_that_are_deleted_or_wait_for_a_person_are_told_as_that(world: World) -> None:
    gone, reviewed = world.land(b"one"), world.land(b"two")
    batch = made(world, NewItem(document_id=gone), NewItem(document_id=reviewed))
    feed(world.services)
    with world.services.ledger.begin() as tx:
        tx.move(gone, tenant=TENANT, to=State.DELETED, actor="api", erase_in=timedelta(0))
        for to in (State.CLEAN, State.RECOGNIZED, State.IN_REVIEW):
            tx.move(reviewed, tenant=TENANT, to=to, actor="test")
    hurry(world)
    feed(world.services)
    assert of(world, batch).counts == {ItemState.DELETED: 1, ItemState.IN_REVIEW: 1}
    assert of(world, batch).ended_at is None
    with world.services.ledger.begin() as tx:
        tx.move(reviewed, tenant=TENANT, to=State.REJECTED, actor="person")
    assert work_off(world, batch).counts == {ItemState.DELETED: 1, ItemState.REJECTED: 1}


def test_each_end_is_told_to_every_sink_until_it_is_taken(world: World) -> None:
    ended = [work_off(world, made(world, *by_key(key))) for key in dropped(world, 2)]
    assert relay_batches(world.services, sinks=[]) == 0  # nobody is there to be told: it is kept
    told: list[BatchEvent] = []
    away = True

    def sink(event: BatchEvent) -> None:
        if away and event.batch_id == ended[0].id:
            raise StoreUnavailable
        told.append(event)

    assert relay_batches(world.services, sinks=[sink]) == 1
    away = False
    assert relay_batches(world.services, sinks=[sink]) == 1
    assert relay_batches(world.services, sinks=[sink]) == 0
    assert [event.batch_id for event in told] == [ended[1].id, ended[0].id]
    assert {(event.kind, event.tenant, event.run) for event in told} == {("batch.completed", TENANT, 1)}
