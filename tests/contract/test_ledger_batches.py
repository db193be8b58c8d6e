"""Batches in each database: written down, taken by one at a time, counted without counting, ended once."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from pipeline.batches import Batch, BatchState, Change, ItemState, NewItem, Source
from pipeline.errors import BadRequest, Conflict, LeaseLost, NotFound
from pipeline.ledger.queries.feeding import Owned
from pipeline.ledger.session import Ledger
from pipeline.states import State
from tests.contract.ledger_fixtures import LAPSED, MINUTE, SHA, at_once, brought_to, inserted, ledger

__all__ = ["ledger"]

NOW = timedelta(0)


def new(tenant: str = "acme", **given: object) -> Batch:
    return Batch(uuid4(), tenant, "May", BatchState.LOADING, Source.OBJECTS, "request-1", **given)  # type: ignore[arg-type]


def started(ledger: Ledger, *items: NewItem, tenant: str = "acme", **given: object) -> Batch:
    batch = new(tenant, **given)
    bad = sum(item.problem is not None for item in items)
    counts = {ItemState.WAITING: len(items) - bad, ItemState.INVALID: bad}
    with ledger.begin() as tx:
        tx.new_batch(batch)
        tx.add_items(batch.id, items, first=0)
        return tx.start_batch(batch.id, {state: many for state, many in counts.items() if many})


def taken(ledger: Ledger, owner: str = "me", lease: timedelta = MINUTE) -> Batch | None:
    with ledger.begin() as tx:
        return tx.take_batch(owner=owner, lease=lease)


def keys(many: int) -> list[NewItem]:
    return [NewItem(key=f"drop/acme/{number}.pdf") for number in range(many)]


def test_a_batch_is_not_seen_before_all_of_it_is_written(ledger: Ledger) -> None:
    batch = new()
    with ledger.begin() as tx:
        tx.new_batch(batch)
        tx.add_items(batch.id, keys(3), first=0)
    assert taken(ledger) is None
    with ledger.begin() as tx:
        assert tx.batches("acme", limit=5) == ([], None)
        with pytest.raises(NotFound):
            tx.batch(batch.id)
        with pytest.raises(NotFound):
            tx.ask_batch(batch.id, tenant="acme", to=BatchState.CANCELLING, start={BatchState.RUNNING})
        assert tx.keep_loading(batch.id)
        assert tx.stale_batches(older_than=MINUTE) == []
        assert tx.stale_batches(older_than=NOW) == [batch.id]
        assert tx.start_batch(batch.id, {ItemState.WAITING: 3}).state is BatchState.RUNNING
        with pytest.raises(Conflict):
            tx.start_batch(batch.id, {})
        assert not tx.drop_batch(batch.id)
        assert tx.counted(batch.id) == {ItemState.WAITING: 3}


def test_what_was_never_started_goes_without_a_trace(ledger: Ledger) -> None:
    batch = new()
    with ledger.begin() as tx:
        tx.new_batch(batch)
        tx.add_items(batch.id, keys(3), first=0)
    with ledger.begin() as tx:
        assert tx.drop_batch(batch.id)
        assert not tx.drop_batch(batch.id)
        assert not tx.keep_loading(batch.id)
        assert tx.counted(batch.id) == {}


def test_items_come_back_as_they_were_given(ledger: Ledger) -> None:
    whole = NewItem("drop/acme/ü 🧾.pdf", None, "v1", "Rechnung.pdf", "application/pdf", "ab" * 32, 2)
    ids = NewItem(document_id=uuid4(), line=3)
    bad = NewItem(line=4, problem="It has neither key nor id.")
    batch = started(ledger, whole, ids, bad)
    with ledger.reading() as tx:
        found = tx.items_in(batch.id, ItemState.WAITING, limit=10)
        assert [item.given for item in found] == [whole, ids]
        assert [item.document_id for item in found] == [None, ids.document_id]
        assert tx.items_in(batch.id, ItemState.WAITING, limit=10, after=0) == found[1:]
        [line] = tx.items_in(batch.id, ItemState.INVALID, limit=10)
        assert line.given == bad
        assert batch.counts == tx.counted(batch.id) == {ItemState.WAITING: 2, ItemState.INVALID: 1}


def test_only_its_tenant_sees_it_and_pages_turn(ledger: Ledger) -> None:
    mine = [started(ledger, *keys(1)).id for _ in range(5)]
    other = started(ledger, tenant="other")
    with ledger.begin() as tx:
        with pytest.raises(NotFound):
            tx.batch(other.id, tenant="acme")
        with pytest.raises(NotFound):
            tx.ask_batch(other.id, tenant="acme", to=BatchState.CANCELLING, start={BatchState.RUNNING})
        seen: list[UUID] = []
        cursor = None
        while True:
            page, cursor = tx.batches("acme", limit=2, cursor=cursor)
            seen += [batch.id for batch in page]
            if cursor is None:
                break
        assert sorted(seen) == sorted(mine)
        assert len(seen) == 5
        with pytest.raises(BadRequest):
            tx.batches("acme", limit=2, cursor="x")
        assert {batch.id for batch in tx.batches_by_id([*mine, uuid4()])} == set(mine)
        assert (tx.alive_batches("acme", at_most=3), tx.alive_batches("acme", at_most=9)) == (3, 5)


def test_one_at_a_time_holds_a_batch_and_a_holder_that_is_gone_is_replaced(ledger: Ledger) -> None:
    batch = started(ledger, *keys(3))
    found = at_once([lambda n=n: taken(ledger, f"worker-{n}") for n in range(4)])  # type: ignore[misc]
    assert [one.id for one in found if one is not None] == [batch.id]
    assert taken(ledger) is None
    owner = next(f"worker-{n}" for n, one in enumerate(found) if one is not None)
    with ledger.begin() as tx:
        tx.release_batch(batch.id, owner="somebody else", due_in=NOW)
    assert taken(ledger) is None
    with ledger.begin() as tx:
        tx.release_batch(batch.id, owner=owner, due_in=MINUTE)
    assert taken(ledger) is None  # not due
    with ledger.begin() as tx:
        tx.ask_batch(batch.id, tenant="acme", to=BatchState.CANCELLING, start={BatchState.RUNNING})
    assert taken(ledger, "old", LAPSED) is not None  # asked for something: due at once
    again = taken(ledger, "new")
    assert again is not None
    for change in ([], [Change(0, ItemState.WAITING, ItemState.RUNNING, uuid4())]):
        with pytest.raises(LeaseLost), ledger.begin() as tx:
            tx.change_items(batch, change, owner="old", lease=MINUTE)
    with ledger.begin() as tx:
        assert not tx.turn_batch(again, owner="old", to=BatchState.RUNNING)
        assert not tx.end_batch(again, owner="old", to=BatchState.CANCELLED, kind="batch.completed")
        assert tx.counted(batch.id) == {ItemState.WAITING: 3}


def test_changes_and_counts_are_one(ledger: Ledger) -> None:
    batch = started(ledger, *keys(4), listed=False)
    assert taken(ledger) is not None
    documents = [uuid4(), uuid4()]
    changes = [
        Change(0, ItemState.WAITING, ItemState.RUNNING, documents[0]),
        Change(2, ItemState.WAITING, ItemState.RUNNING, documents[1]),
        Change(3, ItemState.WAITING, ItemState.FAILED, error="object-not-found"),
    ]
    with ledger.begin() as tx:
        batch = tx.change_items(batch, changes, owner="me", lease=MINUTE)
    assert batch.counts == {ItemState.WAITING: 1, ItemState.RUNNING: 2, ItemState.FAILED: 1}
    with ledger.begin() as tx:
        done = [Change(0, ItemState.RUNNING, ItemState.AVAILABLE)]
        after = tx.change_items(
            batch, done, owner="me", lease=MINUTE, added=keys(2), last_key="drop/acme/z", listed=True, truncated=True
        )
    assert (after.last_key, after.listed, after.truncated, after.revision) == ("drop/acme/z", True, True, 3)
    with ledger.reading() as tx:
        assert tx.counted(batch.id) == after.counts
        [item] = tx.items_in(batch.id, ItemState.AVAILABLE, limit=5)
        assert item.document_id == documents[0]  # kept
        assert [one.seq for one in tx.items_in(batch.id, ItemState.WAITING, limit=9)] == [1, 4, 5]
        [failed] = tx.items_in(batch.id, ItemState.FAILED, limit=5)
        assert (failed.error, failed.document_id) == ("object-not-found", None)


def test_all_items_of_a_state_move_together(ledger: Ledger) -> None:
    batch = started(ledger, *keys(5), NewItem(document_id=uuid4()))
    assert taken(ledger) is not None
    with ledger.begin() as tx:
        failed = [
            Change(0, ItemState.WAITING, ItemState.FAILED, uuid4()),
            Change(1, ItemState.WAITING, ItemState.FAILED),
        ]
        batch = tx.change_items(batch, failed, owner="me", lease=MINUTE)
        batch = tx.shift_items(batch, ItemState.FAILED, ItemState.RETRY, begun=True, owner="me", lease=MINUTE)
        batch = tx.shift_items(batch, ItemState.FAILED, ItemState.WAITING, begun=False, owner="me", lease=MINUTE)
        assert batch.counts == tx.counted(batch.id) == {ItemState.RETRY: 1, ItemState.WAITING: 5}
        batch = tx.shift_items(batch, ItemState.WAITING, ItemState.CANCELLED, owner="me", lease=MINUTE)
        assert batch.counts == tx.counted(batch.id) == {ItemState.RETRY: 1, ItemState.CANCELLED: 5}
    with pytest.raises(LeaseLost), ledger.begin() as tx:
        tx.shift_items(batch, ItemState.RETRY, ItemState.WAITING, owner="you", lease=MINUTE)


def test_it_ends_once_with_one_event_and_each_retry_is_another_run(ledger: Ledger) -> None:
    batch = started(ledger, *keys(1))
    for run in (1, 2):
        found = taken(ledger)
        assert found is not None
        with ledger.begin() as tx:
            if found.state is BatchState.RETRYING:
                assert tx.turn_batch(found, owner="me", to=BatchState.RUNNING)
                found = tx.batch(found.id)
            start = ItemState.WAITING if run == 1 else ItemState.FAILED
            found = tx.change_items(found, [Change(0, start, ItemState.FAILED)], owner="me", lease=MINUTE)
            assert tx.end_batch(found, owner="me", to=BatchState.COMPLETED, kind="batch.completed")
            assert not tx.end_batch(found, owner="me", to=BatchState.COMPLETED, kind="batch.completed")
        assert taken(ledger) is None
        with ledger.begin() as tx:
            over = tx.batch(batch.id)
            assert (over.state, over.run, over.ended_at is None) == (BatchState.COMPLETED, run, False)
            events = tx.batch_events(batch.id)
            assert [(event.run, event.kind) for event in events] == [(n + 1, "batch.completed") for n in range(run)]
            assert events[-1].facts == {"state": "completed", "total": 1, "counts": {"failed": 1}}
            [told] = tx.unrelayed_batch_events(5)
            tx.mark_batch_events([told.id])
            assert tx.unrelayed_batch_events(5) == []
            with pytest.raises(Conflict):
                tx.ask_batch(batch.id, tenant="acme", to=BatchState.CANCELLING, start={BatchState.RUNNING})
            asked = tx.ask_batch(batch.id, tenant="acme", to=BatchState.RETRYING, start={BatchState.COMPLETED})
            assert (asked.run, asked.ended_at) == (run + 1, None)
            assert tx.ask_batch(batch.id, tenant="acme", to=BatchState.RETRYING, start=()).run == run + 1


def test_what_is_asked_for_meanwhile_is_not_overwritten(ledger: Ledger) -> None:
    batch = started(ledger)
    found = taken(ledger)
    assert found is not None
    with ledger.begin() as tx:
        tx.ask_batch(batch.id, tenant="acme", to=BatchState.CANCELLING, start={BatchState.RUNNING})
        assert not tx.end_batch(found, owner="me", to=BatchState.COMPLETED, kind="batch.completed")
        assert tx.batch(batch.id).state is BatchState.CANCELLING
        assert tx.batch_events(batch.id) == []


def test_documents_are_told_to_their_own_tenant_only(ledger: Ledger) -> None:
    mine, failed, other = inserted(ledger), brought_to(ledger, State.FAILED), inserted(ledger, "other")
    with ledger.reading() as tx:
        assert tx.owned([mine, failed, other, uuid4()], tenant="acme") == {
            mine: Owned(State.QUARANTINED, None, SHA),
            failed: Owned(State.FAILED, None, SHA),
        }


def test_results_name_each_item_with_its_document_as_it_is_now(ledger: Ledger) -> None:
    mine, other = inserted(ledger), inserted(ledger, "other")
    batch = started(ledger, NewItem(document_id=mine), NewItem(document_id=other), *keys(1))
    with ledger.reading() as tx:
        rows = tx.results(batch, after=-1, limit=10)
        assert [(row.seq, row.now, row.document_name) for row in rows] == [
            (0, "quarantined", "report.pdf"),
            (1, None, None),
            (2, None, None),
        ]
        assert [row.seq for row in tx.results(batch, after=0, limit=1)] == [1]
