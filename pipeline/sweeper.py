"""Converges with events turned off: whatever a crash, a lost message or a lost event left undone is found and done.

Everything here may run twice, at the same time, anywhere: each statement is conditional. So there is no leader to
elect, and two beats are merely safer than one.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from pipeline.erase import erase
from pipeline.errors import AirlockError, Conflict, LedgerUnavailable, QueueUnavailable, StoreUnavailable
from pipeline.feeding import drop_unsent, feed
from pipeline.lanes import ring_for
from pipeline.outbox import relay
from pipeline.services import Services
from pipeline.states import WORKING, Reason, State
from pipeline.storage.abilities import token_of
from pipeline.storage.base import Sweepable
from pipeline.strays import adopt_unannounced, remove_stray_from_quarantine, remove_stray_from_serving
from pipeline.telemetry import logger
from pipeline.unfinished import clean_uploads, expire_uploads, forget_uploads, land_uploads, take_drops

log = logger(__name__)

BATCH = 500
PASSES = 100  # bounds one sweep; what is left is the next one's


def sweep(services: Services) -> dict[str, int]:
    """One pass over what the ledger knows to be left behind; how much of each was found. Costs a few statements."""
    return _each(
        services,
        {
            "rung": ring_stranded,
            "turned": give_turns,
            "fed": lambda services: feed(services, seconds=2.0),  # where no beat runs, but a clock that calls
            "unsent": drop_unsent,
            "expired": expire_due,
            "erased": erase_due,
            "given_up": expire_uploads,
            "cleaned": clean_uploads,
        },
    )


def reconcile(services: Services) -> dict[str, int]:
    """One pass over what only the buckets know: lists them, so it runs less often than `sweep`."""
    return _each(
        services,
        {
            "adopted": adopt_unannounced,
            "dropped_in": take_drops,
            "landed": land_uploads,
            "unneeded": remove_stray_from_quarantine,
            "unserved": remove_stray_from_serving,
            "aborted": abort_unfinished,
            "spool": clear_spool,
            "forgotten": forget_idempotency_keys,
            "forgotten_uploads": forget_uploads,
        },
    )


def once(services: Services, *, thorough: bool = True) -> dict[str, int]:
    """What beat does at its intervals, all of it once; how much of each was found.

    Without `thorough` the buckets are not listed, which takes minutes where they are large.
    """
    found = {"relayed": relay(services, older_than=timedelta(seconds=services.settings.relay_seconds))}
    return found | sweep(services) | (reconcile(services) if thorough else {})


def _each(services: Services, parts: Mapping[str, Callable[[Services], int]]) -> dict[str, int]:
    """Run each part; one that fails stops no other."""
    found: dict[str, int] = {}
    for name, part in parts.items():
        try:
            found[name] = part(services)
        except AirlockError as exc:
            log.warning("sweep incomplete", part=name, error=exc.code, detail=str(exc))
    if any(found.values()):
        log.info("swept", **found)
    return found


def ring_stranded(services: Services) -> int:
    """Ring for working documents whose lease lapsed, or that nobody touched for long (the message was lost)."""
    idle = timedelta(seconds=services.settings.requeue_after_seconds)
    rung = 0
    for _ in range(PASSES):
        with services.ledger.begin() as tx:
            documents = tx.stranded(states=WORKING, idle=idle, limit=BATCH)
        for document in documents:
            try:
                ring_for(document, services)
            except QueueUnavailable as exc:
                log.warning("broker down, documents wait", error=exc.code)
                return rung
            rung += 1
        if len(documents) < BATCH:
            break
    return rung


def give_turns(services: Services) -> int:
    """Fill up each tenant's window with what is held back: whoever was to pass its turn on is gone, or was deleted."""
    rung, tenant = 0, ""
    while True:
        with services.ledger.reading() as tx:
            following = tx.holding(tenant)
        if following is None:
            return rung
        tenant = following
        with services.ledger.begin(durable=False) as tx:  # lost, they are merely given again
            documents = tx.give_turns(tenant, limit=BATCH)
        for document in documents:
            try:
                ring_for(document, services)
            except QueueUnavailable as exc:
                log.warning("broker down, documents wait", error=exc.code)
                return rung
            rung += 1


def expire_due(services: Services) -> int:
    """AVAILABLE -> EXPIRED for documents whose time is up, by the database's clock."""
    with services.ledger.reading() as tx:
        due = tx.due_for_expiry(limit=BATCH)
    for document_id in due:
        try:
            with services.ledger.begin() as tx:
                tx.move(
                    document_id,
                    tenant=None,
                    to=State.EXPIRED,
                    actor="sweeper",
                    reason=Reason.RETENTION,
                    erase_in=timedelta(0),
                )
        except Conflict:
            continue  # deleted or recalled meanwhile
    return len(due)


def erase_due(services: Services) -> int:
    """Remove the objects of documents that no longer need them."""
    with services.ledger.reading() as tx:
        due = tx.due_for_erasure(limit=BATCH)
    erased = 0
    for document in due:
        try:
            erase(document, services)
        except (StoreUnavailable, LedgerUnavailable):
            raise
        except AirlockError as exc:
            # One that is under a legal hold, say, must not keep all others from going.
            log.warning("not erased", error=exc.code, detail=str(exc), document=str(document.id))
            continue
        erased += 1
    return erased


def abort_unfinished(services: Services) -> int:
    """Abort multipart uploads and temporary files that nobody finishes any more."""
    age = timedelta(seconds=services.settings.orphan_after_seconds)
    stores = (services.quarantine, services.serving)
    # Asked before the stores are: an upload that begins meanwhile is younger than `age`.
    with services.ledger.reading() as tx:
        spare = {token_of(state) for state in tx.unfinished().values()}
    return sum(store.abort_stale_uploads(age, spare=spare) for store in stores if isinstance(store, Sweepable))


def forget_idempotency_keys(services: Services) -> int:
    """Forget Idempotency-Keys after a day: nobody retries for longer, and the table must not grow for ever."""
    with services.ledger.begin(durable=False) as tx:
        return tx.forget_replays(older_than=timedelta(days=1))


def clear_spool(services: Services) -> int:
    """Remove what trips left behind whose worker is gone."""
    spool, cleared = services.settings.spool_dir, 0
    if spool.is_dir():
        for left in spool.iterdir():
            with contextlib.suppress(FileNotFoundError):  # its worker, or another sweeper, was first
                age = time.time() - left.lstat().st_mtime
                if age > services.settings.task_time_limit_seconds + services.settings.lease_seconds:
                    if left.is_dir():
                        shutil.rmtree(left, ignore_errors=True)
                    else:
                        left.unlink()
                    cleared += 1
    return cleared


def run_beat(services: Services, stop: threading.Event) -> None:
    """Relay, sweep and reconcile, each at its interval, until `stop`. Runs beside the broker, not through it: it has to
    work when the broker is what failed."""
    settings = services.settings
    age = timedelta(seconds=settings.relay_seconds)
    # Listing large buckets takes minutes: meanwhile what waits must still be rung for.
    slow = threading.Thread(
        target=_keep_time, args=({lambda: reconcile(services): settings.reconcile_seconds}, stop), name="reconcile"
    )
    slow.start()
    # A batch of thousands takes seconds of each store and database call's time: what waits must not wait for it either.
    batches = threading.Thread(
        target=_keep_time, args=({lambda: feed(services): settings.batch_seconds}, stop), name="batches"
    )
    batches.start()
    _keep_time(
        {
            lambda: relay(services, older_than=age): settings.relay_seconds,
            lambda: sweep(services): settings.sweep_seconds,
        },
        stop,
    )
    batches.join()
    slow.join()


def _keep_time(duties: Mapping[Callable[[], object], float], stop: threading.Event) -> None:
    due = dict.fromkeys(duties, time.monotonic())
    while not stop.is_set():
        for duty, interval in duties.items():
            if time.monotonic() < due[duty]:
                continue
            due[duty] = time.monotonic() + interval
            try:
                duty()
            except AirlockError as exc:
                log.warning("beat waits", error=exc.code, detail=str(exc))
            except Exception:
                # A bug in one duty must not end the others for good.
                log.exception("beat stumbled")
        stop.wait(max(0.1, min(due.values()) - time.monotonic()))
