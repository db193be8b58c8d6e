"""Moves by a person or the sweeper, replay, and the wall between tenants."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from pipeline.documents import Filters, Replay
from pipeline.errors import Conflict, LeaseLost, NotFound
from pipeline.ledger.chain import verify_chain
from pipeline.ledger.queries import Transaction
from pipeline.ledger.session import Ledger
from pipeline.states import ENDS, TRANSITIONS, WORKING, Reason, State, may_move
from tests.contract.ledger_fixtures import (
    MINUTE,
    brought_to,
    claimed,
    history_of,
    inserted,
    ledger,
    row_of,
    settled,
)

__all__ = ["ledger"]

REACHED = [State.QUARANTINED, State.APPROVED, State.AVAILABLE, State.IN_REVIEW, State.FAILED]


@pytest.mark.parametrize("start", REACHED)
def test_moves_follow_the_graph_and_end_at_its_ends(ledger: Ledger, start: State) -> None:
    for to in State:
        document_id = brought_to(ledger, start)
        before = row_of(ledger, document_id)

        def move(document_id: UUID = document_id, to: State = to) -> None:
            with ledger.begin() as tx:
                tx.move(document_id, tenant="acme", to=to, actor="api", reason=Reason.REQUESTED, facts={"by": "key-1"})

        if not may_move(start, to) or (start is State.FAILED and to in WORKING):
            with pytest.raises(Conflict):
                move()
            assert row_of(ledger, document_id) == before
            continue
        move()
        events = history_of(ledger, document_id)
        assert (events[-1].start, events[-1].to, events[-1].actor) == (start, to, "api")
        assert verify_chain(events) == []
        assert row_of(ledger, document_id).reason is Reason.REQUESTED
        if to in ENDS:
            assert not TRANSITIONS[to]
            with pytest.raises(Conflict):
                move()


def test_a_move_drops_the_lease_and_fences_its_holder(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    job = claimed(ledger, document_id)
    with ledger.begin() as tx:
        event = tx.move(document_id, tenant=None, to=State.DELETED, actor="api", erase_in=timedelta(0))
        assert not tx.renew(job, MINUTE)
    with pytest.raises(LeaseLost):
        settled(ledger, job, State.CLEAN)
    document = row_of(ledger, document_id)
    assert (document.state, document.lease_owner, document.erase_at) == (State.DELETED, None, event.at)


def test_replay_goes_back_to_where_it_failed_with_all_tries_before_it(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    settled(ledger, claimed(ledger, document_id), State.CLEAN, State.FAILED)
    with ledger.begin() as tx:
        document = tx.replay(document_id, tenant="acme")
    assert document == row_of(ledger, document_id)
    assert (document.state, document.tries, document.reason, document.attempt) == (State.CLEAN, 0, None, 1)
    with ledger.begin() as tx, pytest.raises(Conflict):
        tx.replay(document_id)
    settled(ledger, claimed(ledger, document_id), State.RECOGNIZED, State.FAILED)
    with ledger.begin() as tx:
        assert tx.replay(document_id).state is State.RECOGNIZED
    assert verify_chain(history_of(ledger, document_id)) == []


def test_a_stale_claim_does_not_survive_failure_and_replay(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    job = claimed(ledger, document_id)
    with ledger.begin() as tx:
        tx.move(document_id, tenant=None, to=State.FAILED, actor="sweeper", reason=Reason.WORKER_LOST)
        tx.replay(document_id)
    with pytest.raises(LeaseLost):
        settled(ledger, job, State.CLEAN)


def test_replay_calls_off_the_erasure_and_is_refused_after_it(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    for erased in (False, True):
        with ledger.begin() as tx:
            tx.move(document_id, tenant=None, to=State.FAILED, actor="sweeper", erase_in=timedelta(0))
            assert [document.id for document in tx.due_for_erasure(9)] == [document_id]
            if erased:
                assert tx.erased(document_id, state=State.FAILED)
            else:
                assert tx.replay(document_id).erase_at is None
            assert tx.due_for_erasure(9) == []
            assert tx.erased(document_id, state=State.AVAILABLE) is False
    with ledger.begin() as tx, pytest.raises(Conflict, match="erased"):
        tx.replay(document_id)


FOREIGN: dict[str, Callable[[Transaction, UUID, str], object]] = {
    "document": lambda tx, document_id, tenant: tx.document(document_id, tenant=tenant),
    "move": lambda tx, document_id, tenant: tx.move(document_id, tenant=tenant, to=State.DELETED, actor="api"),
    "replay": lambda tx, document_id, tenant: tx.replay(document_id, tenant=tenant),
}


@pytest.mark.parametrize("verb", FOREIGN)
@pytest.mark.parametrize("tenant", ["other", "ACME", "acme ", "", "acm", "%"])
def test_a_foreign_tenants_document_is_not_found_like_one_that_is_not_there(
    ledger: Ledger, verb: str, tenant: str
) -> None:
    document_id = brought_to(ledger, State.FAILED)
    before = row_of(ledger, document_id)
    answers = []
    for target in (document_id, uuid4()):
        with pytest.raises(NotFound) as caught, ledger.begin() as tx:
            FOREIGN[verb](tx, target, tenant)
        answers.append((caught.value.detail, caught.value.extra))
    assert answers[0] == answers[1]
    assert row_of(ledger, document_id) == before


@pytest.mark.parametrize("tenant", ["other", "ACME", "acm", "%"])
def test_lists_and_keys_are_each_tenants_own(ledger: Ledger, tenant: str) -> None:
    document_id = inserted(ledger, "acme")
    with ledger.begin() as tx:
        tx.remember("acme", "key", Replay("f", (document_id,)))
        assert tx.documents(Filters(tenant), limit=9) == ([], None)
        assert tx.replay_of(tenant, "key") is None
        assert tx.replay_of("acme", "KEY") is None
        tx.remember(tenant, "key", Replay("g", ()))
        tx.remember("acme", "Key", Replay("h", ()))
        replay = tx.replay_of("acme", "key")
    assert replay is not None
    assert (replay.fingerprint, replay.document_ids) == ("f", (document_id,))


def test_a_cursor_of_one_tenant_opens_nothing_of_another(ledger: Ledger) -> None:
    own = {inserted(ledger, "acme") for _ in range(3)}
    inserted(ledger, "other")
    for _ in range(3):
        inserted(ledger, "other")
    with ledger.reading() as tx:
        _, cursor = tx.documents(Filters("other"), limit=1)
        page, _ = tx.documents(Filters("acme"), limit=9, cursor=cursor)
    assert {document.id for document in page} <= own
