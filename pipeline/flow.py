"""The map of the system: which step takes a document on from which state, and how one worker runs them.

claim -> work -> settle. The work happens with no transaction open; `settle` writes the new state, its event and what
was learnt in one transaction, and only if (state, attempt) still match. A step never calls another step.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from pipeline.documents import Advance, Job
from pipeline.drain import Trip
from pipeline.erase import erase
from pipeline.errors import AirlockError, LeaseLost, QueueUnavailable
from pipeline.hand import Hand
from pipeline.lanes import instant, lane_of, ring_for
from pipeline.lease import Lease
from pipeline.services import Services
from pipeline.states import WORKING, Reason, State
from pipeline.steps import Step, assemble, decide, inspect, promote, recognize
from pipeline.telemetry import contextvars, logger

log = logger(__name__)

FLOW: Mapping[State, Step] = {
    State.RECEIVED: assemble,
    State.QUARANTINED: inspect,
    State.CLEAN: recognize,
    State.RECOGNIZED: decide,
    State.APPROVED: promote,
}
assert FLOW.keys() == WORKING  # noqa: S101  a state that nothing moves on must not exist


def run(document_id: UUID, services: Services) -> State | None:
    """Take a document as far as this worker can; None if there was nothing to do (finished, waiting, held elsewhere).

    Raises:
        LedgerUnavailable: nothing could be recorded; the lease lapses and the sweeper rings again.
        Draining: this process is about to end; nothing was touched.
    """
    with services.drain.trip() as trip:
        return _run(document_id, trip, services)


def _run(document_id: UUID, trip: Trip, services: Services) -> State | None:
    settings = services.settings
    with services.ledger.begin(durable=False) as tx:
        job = tx.claim(
            document_id, ready=WORKING, owner=services.owner, lease=timedelta(seconds=settings.lease_seconds)
        )
    if job is None:
        return None
    with contextvars.bound_contextvars(
        correlation_id=job.document.correlation_id, document=str(document_id), tenant=job.document.tenant
    ):
        with Lease(job, services) as lease, Hand(job.document, services) as hand:
            trip.lease = lease
            try:
                state = _trip(lease, hand, services)
            except LeaseLost:
                state = lease.job.state
                log.warning("superseded", state=state, attempt=lease.job.attempt)
        _follow_up(lease, state, services)
        return state


def _trip(lease: Lease, hand: Hand, services: Services) -> State:
    """Step after step, while the sample is in hand and the lanes are ours."""
    job: Job | None = lease.job
    if lease.job.document.tries > services.settings.max_tries:
        # Every earlier attempt ended without a word: it took its worker with it. Not once more.
        lost = Advance(State.FAILED, Reason.WORKER_LOST, "Each attempt ended with the loss of its worker.")
        lease.settle([lost], keep=False)
        return State.FAILED
    while job is not None:
        document = job.document
        if services.drain.begun or lane_of(document, services) not in services.settings.lanes:
            lease.release(delay=timedelta(0), counted=False, waiting_for=None)
            return document.state
        try:
            advances = _decide(job, hand, services)
            lease.check()
        except LeaseLost:
            raise
        except AirlockError as exc:
            return _fall_back(lease, exc, services)
        except Exception as exc:  # noqa: BLE001  logged and counted
            # A bug, or a library's error that no adapter translated: it may be this document's doing, so it counts.
            # Its message is not logged: it may quote the document or its name.
            frames = "".join(traceback.format_tb(exc.__traceback__))
            log.error("step failed", state=document.state, error=type(exc).__name__, frames=frames)  # noqa: TRY400
            return _fall_back(lease, None, services)
        last = advances[-1].to
        job = lease.settle(advances, keep=last in WORKING)
        if job is not None:
            hand.document = job.document  # what was in parts has a source now
        for advance in advances:
            log.info("advanced", state=advance.to, reason=advance.reason, attempt=lease.job.attempt)
    return last


def _decide(job: Job, hand: Hand, services: Services) -> list[Advance]:
    """One step's work, and the instant steps behind it."""
    document = job.document
    advances: list[Advance] = []
    while True:
        advance = FLOW[document.state](replace(job, document=document, state=document.state), hand, services)
        advances.append(advance)
        document = replace(
            document,
            state=advance.to,
            detected_type=advance.detected_type or document.detected_type,
            sha256=advance.sha256 or document.sha256,
            text_length=document.text_length if advance.text_length is None else advance.text_length,
        )
        if document.state not in FLOW or not instant(document, services):
            return advances


def backoff(tries: int, waited: timedelta, services: Services) -> timedelta:
    """Exponential with full jitter, so that what failed together does not come back together.

    What waits for a part that is down has its try given back, so there it is the time `waited` that grows.
    """
    settings = services.settings
    longest = max(settings.retry_base_seconds * 2 ** min(tries, 16), waited.total_seconds())
    ceiling = min(settings.retry_cap_seconds, longest)
    return timedelta(seconds=random.uniform(settings.retry_base_seconds / 2, ceiling))  # noqa: S311


def _fall_back(lease: Lease, exc: AirlockError | None, services: Services) -> State:
    """A step raised: wait, try again, or give up with the cause."""
    job = lease.job
    waits = exc is not None and exc.waits
    retryable = exc is None or exc.retryable
    code = exc.code if exc else "internal-error"
    log.warning("step raised", state=job.state, error=code, detail=str(exc) if exc else None, attempt=job.attempt)
    if waits or (retryable and job.document.tries < services.settings.max_tries):
        # What waits for a part that is down is not to blame: its attempt is given back. Both times are the database's.
        waited = job.document.available_at - job.document.updated_at if waits else timedelta(0)
        delay = backoff(job.document.tries, waited, services)
        lease.release(delay=delay, counted=not waits, waiting_for=code)
        return job.state
    reason = Reason.ATTEMPTS_EXHAUSTED if retryable else Reason.PROCESSING_ERROR
    lease.settle(
        [Advance(State.FAILED, reason, f"{exc or 'Internal error'} ({code})", facts={"error": code})], keep=False
    )
    return State.FAILED


def _follow_up(lease: Lease, state: State, services: Services) -> None:
    """After the commit: ring for whose turn has come and for what goes on elsewhere; remove what is not needed."""
    try:
        for document in lease.turned:
            ring_for(document, services)
        if state is State.AVAILABLE:
            with services.ledger.reading() as tx:
                done = tx.document(lease.job.document.id)
            if done.state is state and done.erase_at is not None:
                erase(done, services)
        elif lease.given_back is not None:
            ring_for(lease.job.document, services, delay=lease.given_back.total_seconds())
    except QueueUnavailable as exc:
        log.warning("not rung, the sweeper will", error=exc.code)
    except AirlockError as exc:
        # Nothing hangs on this: the sweeper does whatever was left undone.
        log.warning("follow-up left to the sweeper", state=state, error=exc.code, detail=str(exc))
