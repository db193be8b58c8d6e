"""A worker's way with one document: claim, renew, settle, release; and what a superseded worker cannot do."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from pipeline.documents import Advance, Job, NewDocument, Part
from pipeline.errors import BadRequest, LeaseLost, NotFound, ObjectExists
from pipeline.ledger.chain import verify_chain
from pipeline.ledger.queries import Transaction
from pipeline.ledger.session import Ledger
from pipeline.states import WORKING, Reason, State
from pipeline.storage.base import ObjectRef
from tests.contract.ledger_fixtures import (
    LAPSED,
    MINUTE,
    SHA,
    claimed,
    clean,
    history_of,
    inserted,
    ledger,
    new_document,
    row_of,
    settled,
)

__all__ = ["ledger"]


def insert_all(ledger: Ledger, *new: NewDocument) -> None:
    """Insert in one transaction."""
    with ledger.begin() as tx:
        for each in new:
            tx.insert(each)


def claimed_in(tx: Transaction, document_id: UUID) -> Job:
    """Claim within a transaction that is open."""
    job = tx.claim(document_id, ready=WORKING, owner="worker-1", lease=MINUTE)
    assert job is not None
    return job


def test_a_document_comes_in_with_its_first_event(ledger: Ledger) -> None:
    new = new_document(name="報告 🧾 café.pdf")
    with ledger.begin() as tx:
        event = tx.insert(new, actor="upload")
    document = row_of(ledger, new.id)
    assert (document.state, document.name, document.source) == (State.QUARANTINED, new.name, new.source)
    assert (document.attempt, document.tries, document.lease_until) == (0, 0, None)
    assert document.created_at == document.available_at == event.at
    assert history_of(ledger, new.id) == [event]
    assert (event.seq, event.start, event.to, event.previous) == (0, None, State.QUARANTINED, "")
    assert verify_chain([event]) == []


@pytest.mark.parametrize("name", ["\U0001f9fe" * 1024, "a b\n\t\x01", "", None])
def test_any_name_up_to_1024_code_points_is_kept_as_it_is(ledger: Ledger, name: str | None) -> None:
    new = new_document(name=name)
    with ledger.begin() as tx:
        tx.insert(new)
    assert row_of(ledger, new.id).name == name


@pytest.mark.parametrize("name", ["a" * 1025, "nul\0", "half \ud83d"])
def test_what_not_every_database_can_keep_is_refused_by_all(ledger: Ledger, name: str) -> None:
    new = new_document(name=name)
    with pytest.raises(BadRequest), ledger.begin() as tx:
        tx.insert(new)
    with ledger.reading() as tx, pytest.raises(NotFound):
        tx.document(new.id)


def test_the_same_id_twice_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    new = new_document()
    other = new_document()
    with ledger.begin() as tx:
        tx.insert(new)
    before = row_of(ledger, new.id)
    with ledger.begin() as tx:
        tx.insert(other)
    another = new_document()
    with pytest.raises(ObjectExists):
        insert_all(ledger, another, new)
    assert row_of(ledger, new.id) == before
    assert len(history_of(ledger, new.id)) == 1
    with ledger.reading() as tx:
        assert tx.known([new.id, other.id, another.id]) == {new.id, other.id}


def test_a_failed_transaction_is_not_committed_even_if_its_error_was_swallowed(ledger: Ledger) -> None:
    new = new_document()
    other = new_document()
    with ledger.begin() as tx:
        tx.insert(new)

    def swallow() -> None:
        with ledger.begin() as tx:
            tx.insert(other)
            with pytest.raises(ObjectExists):
                tx.insert(new)

    with pytest.raises(Exception, match="nothing of it was kept"):
        swallow()
    with ledger.reading() as tx:
        assert tx.known([other.id]) == set()


def test_claim_takes_what_is_ready_and_counts_the_try(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    job = claimed(ledger, document_id)
    assert (job.owner, job.attempt, job.state) == ("worker-1", 1, State.QUARANTINED)
    assert job.document == row_of(ledger, document_id)
    assert job.document.tries == 1
    assert job.document.lease_until is not None
    assert timedelta(seconds=50) < job.document.lease_until - job.document.available_at < timedelta(seconds=120)


def test_claim_leaves_alone_what_is_held_unknown_not_ready_or_not_yet_due(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    with ledger.begin() as tx:
        assert tx.claim(uuid4(), ready=WORKING, owner="w", lease=MINUTE) is None
        assert tx.claim(document_id, ready={State.APPROVED}, owner="w", lease=MINUTE) is None
        assert tx.claim(document_id, ready=(), owner="w", lease=MINUTE) is None
    job = claimed(ledger, document_id)
    with ledger.begin() as tx:
        assert tx.claim(document_id, ready=WORKING, owner="worker-1", lease=MINUTE) is None
        tx.release(job, delay=MINUTE, counted=True, waiting_for=None)
        assert tx.claim(document_id, ready=WORKING, owner="w", lease=MINUTE) is None
    assert row_of(ledger, document_id).attempt == 1


def test_settle_writes_everything_or_nothing(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    job = claimed(ledger, document_id)
    text = Part("text", ObjectRef("quarantine", "k/text", "v7"), 12, SHA, "text/plain")
    served = ObjectRef("serving", "k/original", "v9")
    road = [
        Advance(State.CLEAN, detected_type="application/pdf", verdicts=(clean(), clean("mime")), facts={"ms": 1.5}),
        Advance(State.RECOGNIZED, parts=(text,), text_length=12, pages=2, facts={"engine": "tesseract \0 \ud83d"}),
        Advance(State.APPROVED),
        Advance(State.AVAILABLE, served=served, receipt="signed", expires_in=MINUTE, erase_in=timedelta(0)),
    ]
    with ledger.begin() as tx:
        assert tx.settle(job, road, keep=MINUTE) is None  # no step goes on from AVAILABLE
    with ledger.reading() as tx:
        document = tx.document(document_id)
        events = tx.history(document_id)
        verdicts = tx.verdicts(document_id)
        assert tx.receipt(document_id) == "signed"
    assert (document.state, document.served, document.parts) == (State.AVAILABLE, served, (text,))
    assert (document.detected_type, document.text_length, document.pages) == ("application/pdf", 12, 2)
    assert (document.lease_owner, document.lease_until, document.tries) == (None, None, 0)
    assert document.erase_at == document.updated_at == events[-1].at
    assert document.expires_at == document.updated_at + MINUTE
    assert [event.to for event in events] == [State.QUARANTINED, *(step.to for step in road)]
    assert [event.facts for event in events[1:]] == [{"ms": 1.5}, {"engine": "tesseract \0 ?"}, {}, {}]
    assert verify_chain(events) == []
    assert [record.result for record in verdicts] == [clean().result, clean("mime").result]
    assert all(record.at == events[1].at for record in verdicts)


def test_a_part_is_replaced_by_name(ledger: Ledger) -> None:
    job = claimed(ledger, inserted(ledger))
    raw = Part("text", ObjectRef("quarantine", "k/text", "v1"), 1, SHA, "text/plain")
    other = Part("pdf", ObjectRef("quarantine", "k/pdf", "v1"), 1, SHA, "application/pdf")
    promoted = Part("text", raw.source, 1, SHA, "text/plain", served=ObjectRef("serving", "k/text", "v2"))
    with ledger.begin() as tx:
        held = tx.settle(job, [Advance(State.CLEAN, parts=(raw, other))], keep=MINUTE)
        assert held is not None
        assert held.document.parts == (other, raw)
        tx.settle(held, [Advance(State.RECOGNIZED, parts=(promoted,))])
    assert row_of(ledger, job.document.id).parts == (other, promoted)


def test_keep_holds_the_document_as_a_new_claim(ledger: Ledger) -> None:
    job = claimed(ledger, inserted(ledger))
    step = Advance(State.CLEAN, detected_type="text/plain", sha256="cd" * 32, detail="seen", expires_in=MINUTE)
    with ledger.begin() as tx:
        held = tx.settle(job, [step], keep=MINUTE)
    assert held is not None
    assert (held.attempt, held.state, held.document.tries) == (2, State.CLEAN, 1)
    assert held.document == row_of(ledger, job.document.id)
    with pytest.raises(LeaseLost):
        settled(ledger, job, State.CLEAN)
    assert settled(ledger, held, State.RECOGNIZED) is None


@pytest.mark.parametrize(
    "road",
    [(), (State.AVAILABLE,), (State.QUARANTINED,), (State.CLEAN, State.AVAILABLE), (State.REJECTED, State.CLEAN)],
)
def test_a_move_that_the_graph_lacks_is_a_bug_and_writes_nothing(ledger: Ledger, road: tuple[State, ...]) -> None:
    job = claimed(ledger, inserted(ledger))
    with ledger.begin() as tx, pytest.raises(ValueError):
        tx.settle(job, [Advance(state, verdicts=(clean(),)) for state in road])
    with ledger.reading() as tx:
        assert tx.verdicts(job.document.id) == []
    assert row_of(ledger, job.document.id) == job.document
    assert len(history_of(ledger, job.document.id)) == 1


def test_who_was_taken_over_changes_nothing(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    old = claimed(ledger, document_id, owner="old", lease=LAPSED)
    new = claimed(ledger, document_id, owner="new")
    assert (new.attempt, new.document.tries) == (2, 2)
    with pytest.raises(LeaseLost), ledger.begin() as tx:
        tx.settle(old, [Advance(State.CLEAN, verdicts=(clean(),), receipt="forged")])
    with pytest.raises(LeaseLost), ledger.begin() as tx:
        tx.release(old, delay=MINUTE, counted=False, waiting_for="engine-unavailable")
    with ledger.begin() as tx:
        assert tx.renew(old, MINUTE) is False
        assert tx.verdicts(document_id) == []
        assert tx.receipt(document_id) is None
    assert row_of(ledger, document_id) == new.document
    assert len(history_of(ledger, document_id)) == 1
    settled(ledger, new, State.CLEAN)
    assert verify_chain(history_of(ledger, document_id)) == []


def test_the_same_owner_is_fenced_from_its_own_earlier_claim(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    old = claimed(ledger, document_id, lease=LAPSED)
    new = claimed(ledger, document_id)
    assert old.owner == new.owner
    with pytest.raises(LeaseLost):
        settled(ledger, old, State.CLEAN)
    assert row_of(ledger, document_id) == new.document


def test_a_lapsed_lease_that_nobody_took_is_still_good(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    job = claimed(ledger, document_id, lease=LAPSED)
    with ledger.begin() as tx:
        assert tx.renew(job, MINUTE) is True
        assert tx.claim(document_id, ready=WORKING, owner="w", lease=MINUTE) is None
    settled(ledger, job, State.CLEAN)


@pytest.mark.parametrize(("counted", "tries"), [(True, 1), (False, 0)])
def test_release_gives_back_after_the_delay(ledger: Ledger, counted: bool, tries: int) -> None:
    document_id = inserted(ledger)
    job = claimed(ledger, document_id)
    with ledger.begin() as tx:
        tx.release(job, delay=MINUTE, counted=counted, waiting_for="engine-unavailable")
    document = row_of(ledger, document_id)
    assert (document.state, document.tries, document.waiting_for) == (State.QUARANTINED, tries, "engine-unavailable")
    assert (document.lease_owner, document.lease_until) == (None, None)
    assert document.available_at > job.document.available_at + timedelta(seconds=50)
    assert len(history_of(ledger, document_id)) == 1
    with pytest.raises(LeaseLost), ledger.begin() as tx:
        tx.release(job, delay=LAPSED, counted=False, waiting_for=None)


def test_what_it_waited_for_is_forgotten_when_it_moves_on(ledger: Ledger) -> None:
    document_id = inserted(ledger)
    with ledger.begin() as tx:
        tx.release(claimed_in(tx, document_id), delay=LAPSED, counted=False, waiting_for="engine-unavailable")
        assert tx.waiting_for() == {"engine-unavailable": 1}
        tx.settle(claimed_in(tx, document_id), [Advance(State.REJECTED, Reason.INFECTED, "Eicar \0 found")])
        assert tx.waiting_for() == {}
    document = row_of(ledger, document_id)
    assert (document.reason, document.detail) == (Reason.INFECTED, "Eicar \ufffd found")
