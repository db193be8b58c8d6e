"""Pages, the sweeper's lists, the numbers and the keys."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from pipeline.documents import Advance, ApiKey, Filters, Replay
from pipeline.errors import BadRequest, NotFound, ObjectExists
from pipeline.ledger.session import Ledger
from pipeline.states import WORKING, State
from tests.contract.ledger_fixtures import (
    LAPSED,
    MINUTE,
    SHA,
    brought_to,
    claimed,
    inserted,
    ledger,
    new_document,
    row_of,
    settled,
)

__all__ = ["ledger"]

NOW = timedelta(0)


def pages(ledger: Ledger, filters: Filters, limit: int, between: bool = False) -> list[UUID]:
    """Every page in turn; `between`: somebody uploads after each."""
    found: list[UUID] = []
    cursor = None
    while True:
        with ledger.reading() as tx:
            page, cursor = tx.documents(filters, limit=limit, cursor=cursor)
        assert len(page) <= limit
        found += [document.id for document in page]
        if cursor is None:
            return found
        if between:
            inserted(ledger, filters.tenant)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 10, 11])
def test_pages_show_each_document_once_newest_first_while_others_arrive(
    ledger: Ledger, limit: int, together: bool
) -> None:
    if together:  # one transaction, one moment: only the id tells them apart
        new = [new_document() for _ in range(10)]
        with ledger.begin() as tx:
            for each in new:
                tx.insert(each)
        ids = {each.id for each in new}
    else:
        ids = {inserted(ledger) for _ in range(10)}
    inserted(ledger, "other")
    found = pages(ledger, Filters("acme"), limit, between=True)
    assert len(found) == len(set(found))
    assert set(found) == ids
    ages = [row_of(ledger, document_id).created_at for document_id in found]
    assert ages == sorted(ages, reverse=True)


def test_filters_narrow_the_page(ledger: Ledger) -> None:
    waiting, gone = inserted(ledger), brought_to(ledger, State.AVAILABLE)
    unlike = new_document(sha256=None)
    with ledger.begin() as tx:
        tx.insert(unlike)
    at = row_of(ledger, waiting).created_at
    year = timedelta(days=365)
    assert pages(ledger, Filters("acme", states=frozenset({State.AVAILABLE})), 9) == [gone]
    assert set(pages(ledger, Filters("acme", states=frozenset({State.AVAILABLE, State.QUARANTINED})), 2)) == {
        waiting,
        gone,
        unlike.id,
    }
    assert set(pages(ledger, Filters("acme", sha256=SHA), 1)) == {waiting, gone}
    assert set(pages(ledger, Filters("acme", created_after=at - year, created_before=at + year), 9)) == {
        waiting,
        gone,
        unlike.id,
    }
    assert pages(ledger, Filters("acme", created_after=at + year), 9) == []
    assert pages(ledger, Filters("acme", created_before=at), 9) == []


@pytest.mark.parametrize(
    "cursor",
    ["", "a", "%%%", "\u00e9", "AAAA", base64.urlsafe_b64encode(b"\xff" * 24).decode(), "A" * 5000, "' OR 1=1 --"],
)
def test_a_cursor_that_is_not_ours_is_refused(ledger: Ledger, cursor: str) -> None:
    with ledger.reading() as tx, pytest.raises(BadRequest):
        tx.documents(Filters("acme"), limit=1, cursor=cursor)
    with ledger.reading() as tx, pytest.raises(BadRequest):
        tx.documents(Filters("acme"), limit=0)


def test_histories_give_what_is_newer_for_each(ledger: Ledger) -> None:
    first, second, third = (brought_to(ledger, State.APPROVED) for _ in range(3))
    with ledger.reading() as tx:
        events = tx.histories({first: -1, second: 2, third: 99, uuid4(): -1})
        assert tx.histories({}) == []
    assert [(event.document_id, event.seq) for event in events] == [(first, n) for n in range(4)] + [(second, 3)]
    with ledger.reading() as tx:
        assert [event.seq for event in tx.history(first, after=1)] == [2, 3]


def test_unrelayed_waits_for_an_age_and_ends_with_the_mark(ledger: Ledger) -> None:
    inserted(ledger)
    with ledger.begin() as tx:
        assert tx.unrelayed(older_than=MINUTE, limit=9) == []
        [event] = tx.unrelayed(older_than=NOW, limit=9)
        tx.mark_relayed([event.id])
        tx.mark_relayed([event.id])
        tx.mark_relayed([])
        assert tx.unrelayed(older_than=NOW, limit=9) == []


def test_stranded_finds_a_document_whose_holder_is_gone_at_once_and_once(ledger: Ledger) -> None:
    lost = inserted(ledger)
    claimed(ledger, inserted(ledger))  # somebody is at it
    inserted(ledger)  # waits its turn: a message is on its way
    with ledger.begin() as tx:
        assert tx.claim(lost, ready=WORKING, owner="gone", lease=timedelta(milliseconds=1)) is not None
    time.sleep(0.01)  # the database's clock decides, and it has to pass the lease's end
    with ledger.begin() as tx:
        assert [found.id for found in tx.stranded(states=WORKING, idle=MINUTE, limit=9)] == [lost]
    with ledger.begin() as tx:
        assert tx.stranded(states=WORKING, idle=MINUTE, limit=9) == []


def test_stranded_finds_what_nobody_holds_and_nudges_it_once(ledger: Ledger) -> None:
    fresh = inserted(ledger)
    lapsed = inserted(ledger)
    claimed(ledger, lapsed, lease=LAPSED)
    held, later = inserted(ledger), inserted(ledger)
    claimed(ledger, held)
    job = claimed(ledger, later)
    recognized = brought_to(ledger, State.RECOGNIZED)
    brought_to(ledger, State.AVAILABLE)
    with ledger.begin() as tx:
        tx.release(job, delay=MINUTE, counted=True, waiting_for=None)
        assert tx.stranded(states=WORKING, idle=MINUTE, limit=9) == []
        assert tx.stranded(states=(), idle=NOW, limit=9) == []
    with ledger.begin() as tx:
        found = tx.stranded(states=WORKING, idle=NOW, limit=9)
        assert tx.stranded(states=WORKING, idle=MINUTE, limit=9) == []
    assert {each.id: each.state for each in found} == {
        fresh: State.QUARANTINED,
        lapsed: State.QUARANTINED,
        recognized: State.RECOGNIZED,
    }
    with ledger.begin() as tx:
        assert len(tx.stranded(states=WORKING, idle=NOW, limit=2)) == 2


def test_expiry_is_due_when_its_time_is_up_and_not_before(ledger: Ledger) -> None:
    ids = []
    for expires_in in (NOW, MINUTE, None):
        document_id = brought_to(ledger, State.APPROVED)
        with ledger.begin() as tx:
            job = tx.claim(document_id, ready=WORKING, owner="w", lease=MINUTE)
            assert job is not None
            tx.settle(job, [Advance(State.AVAILABLE, expires_in=expires_in)])
        ids.append(document_id)
    with ledger.begin() as tx:
        assert tx.due_for_expiry(9) == ids[:1]
        tx.move(ids[0], tenant=None, to=State.EXPIRED, actor="sweeper", erase_in=NOW)
        assert tx.due_for_expiry(9) == []
        assert [document.id for document in tx.due_for_erasure(9)] == ids[:1]


def test_an_erasure_decided_before_a_move_does_not_hide_what_the_move_asks_for(ledger: Ledger) -> None:
    document_id = brought_to(ledger, State.APPROVED)
    with ledger.begin() as tx:
        job = tx.claim(document_id, ready=WORKING, owner="w", lease=MINUTE)
        assert job is not None
        tx.settle(job, [Advance(State.AVAILABLE, erase_in=NOW)])
        [due] = tx.due_for_erasure(9)  # only the quarantine copy is to go
        tx.move(document_id, tenant="acme", to=State.DELETED, actor="api", erase_in=NOW)
        assert not tx.erased(document_id, state=due.state)
        [again] = tx.due_for_erasure(9)
        assert again.state is State.DELETED
        assert tx.erased(document_id, state=again.state)
        assert tx.due_for_erasure(9) == []


def test_the_numbers(ledger: Ledger) -> None:
    with ledger.reading() as tx:
        assert (tx.counts(), tx.oldest_waiting(), tx.waiting_for()) == ({}, {}, {})
    for state in (State.QUARANTINED, State.QUARANTINED, State.CLEAN, State.AVAILABLE):
        brought_to(ledger, state)
    with ledger.reading() as tx:
        assert tx.counts() == {State.QUARANTINED: 2, State.CLEAN: 1, State.AVAILABLE: 1}
        waiting = tx.oldest_waiting()
    assert set(waiting) == {State.QUARANTINED, State.CLEAN}
    assert all(0 <= seconds < 60 for seconds in waiting.values())


def test_api_keys(ledger: Ledger) -> None:
    made = datetime(2025, 5, 6, 7, 8, 9, 123000, tzinfo=UTC)
    key = ApiKey(uuid4(), "acme", "build server", frozenset({"upload", "read"}), made)
    with ledger.begin() as tx:
        tx.add_key(key, "11" * 32)
        assert tx.key_by_secret("11" * 32) == key
        assert tx.key_by_secret("22" * 32) is None
        assert tx.keys() == [key]
    with pytest.raises(ObjectExists), ledger.begin() as tx:
        tx.add_key(ApiKey(uuid4(), "other", "thief", key.scopes, made), "11" * 32)
    with ledger.begin() as tx:
        tx.revoke_key(key.id)
        tx.revoke_key(key.id)
        assert tx.key_by_secret("11" * 32) is None
        assert tx.keys()[0].revoked_at is not None
        with pytest.raises(NotFound):
            tx.revoke_key(uuid4())


def test_idempotency_keys_are_forgotten_by_age(ledger: Ledger) -> None:
    old = datetime(2020, 1, 1, tzinfo=UTC)
    with ledger.begin() as tx:
        tx.remember("acme", "old", Replay("f", (), old))
        tx.remember("acme", "new", Replay("f", ()))
        assert tx.forget_replays(older_than=timedelta(days=1)) == 1
        assert tx.replay_of("acme", "old") is None
        assert tx.replay_of("acme", "new") is not None


def test_reading_refuses_to_write(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    with ledger.reading() as tx, pytest.raises(ValueError, match="only reads"):
        tx.claim(document_id, ready=WORKING, owner="w", lease=MINUTE)
    settled(ledger, claimed(ledger, document_id), State.CLEAN)
