"""Whose message may be in the broker: windows, their order, and what happens when several decide at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from pipeline.documents import Advance, Job
from pipeline.errors import LeaseLost
from pipeline.ledger.models import documents
from pipeline.ledger.queries.turns import NEVER
from pipeline.ledger.session import Ledger
from pipeline.states import WORKING, State
from pipeline.turns import OFF, Turn, Window
from tests.contract.ledger_fixtures import (
    LAPSED,
    MINUTE,
    at_once,
    brought_to,
    claimed,
    ledger,
    new_document,
    row_of,
    settled,
)

__all__ = ["ledger"]

SMALL = Window(singles=2, bulk=3)
NOW = timedelta(0)


@pytest.fixture(autouse=True)
def _small(ledger: Ledger) -> Iterator[None]:
    """Windows that a test can fill."""
    ledger._window = SMALL
    return


def insert(ledger: Ledger, tenant: str = "acme", *, batch: UUID | None = None) -> UUID:
    new = replace(new_document(tenant), batch_id=batch)
    with ledger.begin() as tx:
        event = tx.insert(new)
    assert event.turn is turn_of(ledger, new.id)
    return new.id


def ended(ledger: Ledger, job: Job) -> list[UUID]:
    """Settle for good; those whose turn has come by that."""
    with ledger.begin() as tx:
        tx.settle(job, [Advance(State.CLEAN), Advance(State.FAILED)])
    return [one.id for one in tx.turned]


def passed_on(ledger: Ledger, document_id: UUID) -> list[UUID]:
    return ended(ledger, claimed(ledger, document_id))


def turn_of(ledger: Ledger, document_id: UUID) -> Turn | None:
    return row_of(ledger, document_id).turn


def test_few_are_singles_more_are_of_many_and_the_rest_is_held_back(ledger: Ledger) -> None:
    mine = [insert(ledger) for _ in range(7)]
    assert [turn_of(ledger, one) for one in mine] == [Turn.SINGLE] * 2 + [Turn.BULK] * 3 + [Turn.HELD] * 2
    assert turn_of(ledger, insert(ledger, "other")) is Turn.SINGLE


def test_what_settles_passes_its_turn_to_whoever_waits_longest(ledger: Ledger) -> None:
    mine = [insert(ledger) for _ in range(7)]
    job = claimed(ledger, mine[3])
    with ledger.begin() as tx:
        held = tx.settle(job, [Advance(State.CLEAN)], keep=MINUTE)
        assert tx.turned == []  # it goes on
    assert held is not None
    with ledger.begin() as tx:
        tx.settle(held, [Advance(State.REJECTED)])
        assert [(one.id, one.state, one.turn) for one in tx.turned] == [(mine[5], State.QUARANTINED, Turn.BULK)]
    assert [turn_of(ledger, one) for one in (mine[3], mine[5], mine[6])] == [None, Turn.BULK, Turn.HELD]


def test_a_single_that_settles_does_not_overfill_the_window(ledger: Ledger) -> None:
    mine = [insert(ledger) for _ in range(6)]
    assert passed_on(ledger, mine[0]) == []
    assert turn_of(ledger, mine[5]) is Turn.HELD


def test_another_tenants_are_never_given_the_turn(ledger: Ledger) -> None:
    for _ in range(7):
        insert(ledger, "zebra")
    mine = insert(ledger)
    assert passed_on(ledger, mine) == []


def test_what_was_sent_by_itself_comes_before_items_of_a_batch(ledger: Ledger) -> None:
    batch = uuid4()
    items = [insert(ledger, batch=batch) for _ in range(5)]
    assert [turn_of(ledger, one) for one in items] == [Turn.BULK_ITEM] * 3 + [Turn.HELD_ITEM] * 2
    own = [insert(ledger) for _ in range(3)]
    assert [turn_of(ledger, one) for one in own] == [Turn.SINGLE, Turn.SINGLE, Turn.HELD]
    for number, expected in enumerate((own[2], items[3], items[4])):
        assert passed_on(ledger, items[number]) == [expected]


def test_a_document_that_fails_and_is_tried_again_lets_others_go_first(ledger: Ledger) -> None:
    mine = [insert(ledger) for _ in range(6)]
    job = claimed(ledger, mine[2])
    with ledger.begin() as tx:
        assert tx.release(job, delay=MINUTE, counted=True, waiting_for="step-error") is False
        assert [one.id for one in tx.turned] == [mine[5]]
    assert turn_of(ledger, mine[2]) is Turn.HELD
    assert passed_on(ledger, mine[3]) == []  # its time has not come


@pytest.mark.parametrize(("counted", "delay"), [(False, MINUTE), (True, NOW), (False, NOW)])
def test_what_waits_for_a_part_that_is_away_keeps_its_turn(ledger: Ledger, counted: bool, delay: timedelta) -> None:
    """Whoever came in its stead would find the same."""
    mine = [insert(ledger) for _ in range(6)]
    job = claimed(ledger, mine[2])
    with ledger.begin() as tx:
        assert tx.release(job, delay=delay, counted=counted, waiting_for=None) is True
        assert tx.turned == []
    assert turn_of(ledger, mine[2]) is Turn.BULK


def test_one_that_nobody_waits_behind_keeps_its_turn(ledger: Ledger) -> None:
    mine = insert(ledger)
    job = claimed(ledger, mine)
    with ledger.begin() as tx:
        assert tx.release(job, delay=MINUTE, counted=True, waiting_for=None) is True
    assert turn_of(ledger, mine) is Turn.SINGLE


def test_who_was_taken_over_gives_no_turns(ledger: Ledger) -> None:
    mine = [insert(ledger) for _ in range(6)]
    old = claimed(ledger, mine[2], owner="old", lease=LAPSED)
    claimed(ledger, mine[2], owner="new")
    with pytest.raises(LeaseLost):
        settled(ledger, old, State.FAILED)
    with pytest.raises(LeaseLost), ledger.begin() as tx:
        tx.release(old, delay=MINUTE, counted=True, waiting_for=None)
    assert turn_of(ledger, mine[5]) is Turn.HELD


def test_the_sweeper_does_not_ring_for_what_is_held_back_and_fills_windows_up(ledger: Ledger) -> None:
    mine = [insert(ledger) for _ in range(8)]
    insert(ledger, "other")
    with ledger.begin() as tx:
        tx._connection.execute(
            update(documents).where(documents.c.turn >= Turn.BULK_ITEM).values(nudged_at=0)
        )  # long ago
        found = {one.id: one.turn for one in tx.stranded(states=WORKING, idle=NOW, limit=100)}
        assert set(mine[:5]) < set(found)
        assert not set(mine[5:]) & set(found)
        assert (tx.holding(), tx.holding("acme")) == ("acme", None)
        assert tx.held() == 3
        assert tx.give_turns("acme", limit=10) == []
        tx.move(mine[2], tenant=None, to=State.DELETED, actor="api")
        tx.move(mine[3], tenant=None, to=State.DELETED, actor="api")
        assert [one.id for one in tx.give_turns("acme", limit=10)] == mine[5:7]
    with ledger.reading() as tx:
        assert tx.holding() == "acme"
    with ledger.begin() as tx:
        tx._window = OFF
        assert [one.id for one in tx.give_turns("acme", limit=10)] == mine[7:]
        assert tx.holding() is None


def test_what_goes_back_to_work_takes_its_place_among_the_others(ledger: Ledger) -> None:
    failed, reviewed = brought_to(ledger, State.FAILED), brought_to(ledger, State.IN_REVIEW)
    assert (turn_of(ledger, failed), turn_of(ledger, reviewed)) == (None, None)
    for _ in range(4):
        insert(ledger)
    with ledger.begin() as tx:
        assert tx.replay(failed).turn is Turn.BULK
        assert tx.move(reviewed, tenant=None, to=State.APPROVED, actor="api").turn is Turn.HELD
    assert turn_of(ledger, reviewed) is Turn.HELD


def test_what_is_held_back_does_not_make_the_workers_look_slow(ledger: Ledger) -> None:
    mine = [insert(ledger) for _ in range(6)]
    for one in mine[:5]:
        settled(ledger, claimed(ledger, one), State.REJECTED)
    with ledger.begin() as tx:
        assert tx.oldest_waiting().keys() == {State.QUARANTINED}  # its turn came
        tx._connection.execute(update(documents).values(turn=Turn.HELD, nudged_at=NEVER))
        assert (tx.oldest_waiting(), tx.held()) == ({}, 6)


def test_without_a_window_all_are_singles(ledger: Ledger) -> None:
    ledger._window = OFF
    mine = [insert(ledger) for _ in range(9)]
    assert {turn_of(ledger, one) for one in mine} == {Turn.SINGLE}
    settled(ledger, claimed(ledger, mine[0]), State.FAILED)


def test_many_that_settle_at_once_pass_on_a_turn_each_and_none_twice(ledger: Ledger) -> None:
    ledger._window = Window(singles=1, bulk=8)
    mine = [insert(ledger) for _ in range(25)]
    given = mine[:9]
    turned: list[UUID] = []
    while given:
        jobs = [claimed(ledger, one) for one in given]

        given = [one for some in at_once([partial(ended, ledger, job) for job in jobs]) for one in some]
        turned += given
        with ledger.begin() as tx:  # what no two of them saw free, the sweeper does
            more = [one.id for one in tx.give_turns("acme", limit=100)]
        assert len(given) + len(more) <= 9
        given += more
        turned += more
    assert sorted(turned) == sorted(mine[9:])
    assert {turn_of(ledger, one) for one in mine} == {None}


def test_inserts_at_once_overfill_a_window_by_no_more_than_one_each(ledger: Ledger) -> None:
    def one() -> UUID:
        return insert(ledger)

    mine = [document for _ in range(4) for document in at_once([one] * 4)]
    turns = [turn_of(ledger, document) for document in mine]
    assert 2 <= turns.count(Turn.SINGLE) <= 5
    assert 3 <= turns.count(Turn.BULK) <= 6
    assert turns.count(Turn.HELD) >= 5
