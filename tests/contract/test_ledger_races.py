"""Many at once: one winner, one order, no clock but the database's."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest

from pipeline.documents import Advance, Event, Job, Replay
from pipeline.errors import Conflict, LeaseLost, ObjectExists
from pipeline.ledger.chain import verify_chain
from pipeline.ledger.session import Ledger
from pipeline.states import WORKING, State
from tests.contract.ledger_fixtures import (
    LAPSED,
    MINUTE,
    ROAD,
    at_once,
    claimed,
    history_of,
    inserted,
    ledger,
    new_document,
    row_of,
)

__all__ = ["ledger"]

RACERS = 16


def try_claim(ledger: Ledger, document_id: UUID, owner: str) -> Job | None:
    with ledger.begin() as tx:
        return tx.claim(document_id, ready=WORKING, owner=owner, lease=MINUTE)


@pytest.mark.parametrize("lapsed", [False, True])
def test_of_sixteen_that_claim_at_once_one_wins(ledger: Ledger, lapsed: bool) -> None:
    document_id = inserted(ledger)
    if lapsed:
        claimed(ledger, document_id, lease=LAPSED)
    jobs = at_once([lambda n=n: try_claim(ledger, document_id, f"worker-{n}") for n in range(RACERS)])
    [winner] = [job for job in jobs if job is not None]
    assert row_of(ledger, document_id) == winner.document


def test_of_many_that_settle_one_claim_one_wins(ledger: Ledger) -> None:
    job = claimed(ledger, inserted(ledger))

    def settle() -> bool:
        try:
            with ledger.begin() as tx:
                tx.settle(job, [Advance(State.CLEAN)])
        except LeaseLost:
            return False
        return True

    assert sum(at_once([settle] * 8)) == 1
    events = history_of(ledger, job.document.id)
    assert [event.to for event in events] == [State.QUARANTINED, State.CLEAN]


def test_of_many_moves_at_once_one_wins_and_the_holder_is_fenced(ledger: Ledger) -> None:
    job = claimed(ledger, inserted(ledger))

    def delete() -> bool:
        try:
            with ledger.begin() as tx:
                tx.move(job.document.id, tenant="acme", to=State.DELETED, actor="api")
        except Conflict:
            return False
        return True

    def settle() -> bool:
        try:
            with ledger.begin() as tx:
                tx.settle(job, [Advance(State.CLEAN)])
        except LeaseLost:
            return False
        return True

    *deleted, _ = at_once([*[delete] * 7, settle])
    assert sum(deleted) == 1
    assert row_of(ledger, job.document.id).state is State.DELETED
    assert verify_chain(history_of(ledger, job.document.id)) == []


def test_of_sixteen_with_one_idempotency_key_one_wins_and_only_its_document_stays(ledger: Ledger) -> None:
    def upload() -> UUID | None:
        new = new_document()
        try:
            with ledger.begin() as tx:
                tx.insert(new)
                tx.remember("acme", "key-1", Replay("fingerprint", (new.id,)))
        except ObjectExists:
            return None
        return new.id

    answers = at_once([upload] * RACERS)
    [winner] = [answer for answer in answers if answer is not None]
    with ledger.reading() as tx:
        replay = tx.replay_of("acme", "key-1")
        assert replay is not None
        assert replay.document_ids == (winner,)
        assert tx.counts() == {State.QUARANTINED: 1}


def test_events_are_relayed_in_order_for_each_document_while_many_write(ledger: Ledger) -> None:
    ids = [inserted(ledger) for _ in range(8)]
    seen: list[Event] = []
    done = threading.Event()

    def work(document_id: UUID) -> None:
        job: Job | None = claimed(ledger, document_id)
        for state in ROAD:
            assert job is not None
            with ledger.begin() as tx:
                job = tx.settle(job, [Advance(state)], keep=MINUTE)

    def relay() -> int:
        with ledger.reading() as tx:
            events = tx.unrelayed(older_than=timedelta(0), limit=7)
        seen.extend(events)
        with ledger.begin() as tx:
            tx.mark_relayed([event.id for event in events])
        return len(events)

    def relay_on() -> None:
        while not done.is_set() or relay():
            relay()

    with ThreadPoolExecutor(9) as pool:
        relaying = pool.submit(relay_on)
        try:
            for future in [pool.submit(work, document_id) for document_id in ids]:
                future.result()
        finally:
            done.set()  # a writer that failed must end the test, not hang it
        relaying.result()
    told: dict[UUID, list[int]] = defaultdict(list)
    for event in seen:
        told[event.document_id].append(event.seq)
    assert told == {document_id: [0, 1, 2, 3, 4] for document_id in ids}


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_worker_whose_clock_is_an_hour_off_changes_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, skew: int
) -> None:
    document_id = inserted(ledger)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + skew)
    monkeypatch.setattr(time, "time_ns", lambda: int((right() + skew) * 1e9))
    job = claimed(ledger, document_id, owner="skewed")
    monkeypatch.undo()
    assert try_claim(ledger, document_id, "second") is None
    assert job.document.lease_until is not None
    assert abs(job.document.lease_until.timestamp() - right() - 60) < 30
    monkeypatch.setattr(time, "time", lambda: right() + skew)
    with ledger.begin() as tx:
        assert tx.claim(document_id, ready=WORKING, owner="skewed too", lease=MINUTE) is None
        assert tx.stranded(states=WORKING, idle=timedelta(0), limit=9) == []
        tx.release(job, delay=MINUTE, counted=True, waiting_for=None)
        assert tx.claim(document_id, ready=WORKING, owner="skewed too", lease=MINUTE) is None
