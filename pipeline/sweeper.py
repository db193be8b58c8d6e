"""Converges with events turned off: whatever a crash, a lost message or a lost event left undone is found and done.

Everything here may run twice, at the same time, anywhere: each statement is conditional. So there is no leader to
elect, and two beats are merely safer than one.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID

from pipeline.documents import Filters, NewDocument
from pipeline.erase import erase
from pipeline.errors import AirlockError, Conflict, QueueUnavailable
from pipeline.lanes import lane_of
from pipeline.outbox import relay
from pipeline.services import Services
from pipeline.states import SERVED, WORKING, Reason, State
from pipeline.storage.base import ObjectStat, ObjectStore, Sweepable
from pipeline.storage.keys import Place, parse
from pipeline.telemetry import logger

log = logger(__name__)

Pair = tuple[ObjectStat, Place]

BATCH = 500
PASSES = 100  # bounds one sweep; what is left is the next one's


def sweep(services: Services) -> dict[str, int]:
    """One pass over what the ledger knows to be left behind; how much of each was found. Costs a few statements."""
    return _each(services, {"rung": ring_stranded, "expired": expire_due, "erased": erase_due})


def reconcile(services: Services) -> dict[str, int]:
    """One pass over what only the buckets know: lists them, so it runs less often than `sweep`."""
    return _each(
        services,
        {
            "adopted": adopt_unannounced,
            "unserved": remove_stray_from_serving,
            "aborted": abort_unfinished,
            "spool": clear_spool,
            "forgotten": forget_idempotency_keys,
        },
    )


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
                services.queue.ring(document.id, lane_of(document, services))
            except QueueUnavailable as exc:
                log.warning("broker down, documents wait", error=exc.code)
                return rung
            rung += 1
        if len(documents) < BATCH:
            break
    return rung


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
    for document in due:
        erase(document, services)
    return len(due)


def adopt_unannounced(services: Services) -> int:
    """Make documents of quarantined objects that no row knows: an event was lost, or the API died before its commit.

    Adopting is safe where deleting is not: the sender may believe that the bytes arrived, and nothing is served without
    its own clean verdict anyway. But a sender who got no answer has sent them again: then the stray is a double, and
    goes.
    """
    adopted = 0
    for stat, place in _unannounced(services):
        if place.part != "original":
            services.quarantine.delete(stat.ref)  # derived, and its document's row is gone: nobody can ever ask for it
            continue
        digest = hashlib.sha256()
        for chunk in services.quarantine.get(stat.ref):
            digest.update(chunk)
        sha256 = digest.hexdigest()
        with services.ledger.reading() as tx:
            same, _ = tx.documents(Filters(tenant=place.tenant, sha256=sha256), limit=1)
        if same and same[0].created_at >= stat.modified - timedelta(seconds=1):
            services.quarantine.delete(stat.ref)
            log.info("stray removed: it was sent again", document=str(place.document_id), instead=str(same[0].id))
            continue
        new = NewDocument(
            id=place.document_id,
            tenant=place.tenant,
            source=stat.ref,
            size=stat.size,
            sha256=sha256,
            name=None,
            declared_type=None,
            retention=place.retention,
            policy_digest=services.policy.digest,
            correlation_id=f"adopted-{place.document_id}",
            via="adopted",
        )
        try:
            with services.ledger.begin() as tx:
                event = tx.insert(new, actor="sweeper")
        except Conflict:
            continue  # its own transaction, or another sweeper, was first
        services.announcer.announce([event])
        adopted += 1
    return adopted


def _unannounced(services: Services) -> Iterator[Pair]:
    for batch in _old_objects(services.quarantine, services):
        states = _states(batch, services)
        yield from ((stat, place) for stat, place in batch if place.document_id not in states)


def remove_stray_from_serving(services: Services) -> int:
    """Remove served objects whose document is not to be served (a superseded worker's late copy).

    An object that no row knows is only reported: it cannot be reached through the service, and after a restore of an
    older database it may be all that is left of a document.
    """
    removed = 0
    for batch in _old_objects(services.serving, services):
        states = _states(batch, services)
        for stat, place in batch:
            state = states.get(place.document_id)
            if state is None:
                log.error("in serving, but no document stands behind it", document=str(place.document_id))
            elif state not in SERVED | {State.APPROVED}:
                services.serving.delete(stat.ref)
                removed += 1
    return removed


def abort_unfinished(services: Services) -> int:
    """Abort multipart uploads and temporary files that nobody finishes any more."""
    age = timedelta(seconds=services.settings.orphan_after_seconds)
    stores = (services.quarantine, services.serving)
    return sum(store.abort_stale_uploads(age) for store in stores if isinstance(store, Sweepable))


def forget_idempotency_keys(services: Services) -> int:
    """Forget Idempotency-Keys after a day: nobody retries for longer, and the table must not grow for ever."""
    with services.ledger.begin(durable=False) as tx:
        return tx.forget_replays(older_than=timedelta(days=1))


def clear_spool(services: Services) -> int:
    """Remove trips' folders whose worker is gone."""
    spool, cleared = services.settings.spool_dir, 0
    if spool.is_dir():
        for folder in spool.iterdir():
            age = time.time() - folder.stat().st_mtime
            if age > services.settings.task_time_limit_seconds + services.settings.lease_seconds:
                shutil.rmtree(folder, ignore_errors=True)
                cleared += 1
    return cleared


def _old_objects(store: ObjectStore, services: Services) -> Iterator[list[Pair]]:
    """Batches of objects whose key is ours and that are old enough not to be somebody's work in progress."""
    before = datetime.now(UTC) - timedelta(seconds=services.settings.orphan_after_seconds)
    ours = (
        (stat, place) for stat in store.list() if stat.modified < before and (place := parse(stat.ref.key)) is not None
    )
    while batch := list(islice(ours, BATCH)):
        yield batch


def _states(batch: list[Pair], services: Services) -> dict[UUID, State]:
    with services.ledger.reading() as tx:
        return tx.states({place.document_id for _, place in batch})


def run_beat(services: Services, stop: threading.Event) -> None:
    """Relay, sweep and reconcile, each at its interval, until `stop`. Runs beside the broker, not through it: it has to
    work when the broker is what failed."""
    settings = services.settings
    age = timedelta(seconds=settings.relay_seconds)
    duties: dict[Callable[[], object], float] = {
        lambda: relay(services, older_than=age): settings.relay_seconds,
        lambda: sweep(services): settings.sweep_seconds,
        lambda: reconcile(services): settings.reconcile_seconds,
    }
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
