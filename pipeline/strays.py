"""Objects that lie where no row says so: adopted or removed, in both buckets.

Like all of the sweeper's work this may run twice, at the same time, anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID

from pipeline.documents import Filters, NewDocument, Upload, UploadState
from pipeline.errors import AirlockError, Conflict, LedgerUnavailable, ObjectNotFound, StoreUnavailable
from pipeline.landing import SENT_WHOLE, Outcome, land_upload
from pipeline.services import Services
from pipeline.states import SERVED, State
from pipeline.storage.base import ObjectRef, ObjectStat, ObjectStore
from pipeline.storage.keys import Place, parse
from pipeline.telemetry import logger
from pipeline.unfinished import upload_behind

log = logger(__name__)

Pair = tuple[ObjectStat, Place]

BATCH = 500
GONE = frozenset({State.AVAILABLE, State.EXPIRED, State.DELETED, State.RECALLED})  # quarantine is done with them


def adopt_unannounced(services: Services) -> int:
    """Make documents of quarantined objects that no row knows: an event was lost, or the API died before its commit.

    Adopting is safe where deleting is not: the sender may believe that the bytes arrived, and nothing is served without
    its own clean verdict anyway. But a sender who got no answer has sent them again: then the stray is a double, and
    goes.
    """
    adopted = 0
    for stat, place in _unannounced(services):
        try:
            adopted += _adopt(stat, place, services)
        except LedgerUnavailable:
            raise
        except AirlockError as exc:
            # One that cannot be read, or that another sweeper has just removed, must not hide the others.
            log.warning("stray left as it is", error=exc.code, document=str(place.document_id))
    return adopted


def _adopt(stat: ObjectStat, place: Place, services: Services) -> bool:
    if (upload := upload_behind(place.document_id, services)) is not None:
        return _of_upload(upload, stat, place, services)
    if place.part != "original":
        services.quarantine.delete(stat.ref)  # derived, and its document's row is gone: nobody can ever ask for it
        return False
    digest = hashlib.sha256()
    for chunk in services.quarantine.get(stat.ref):
        digest.update(chunk)
    sha256 = digest.hexdigest()
    with services.ledger.reading() as tx:
        if tx.known({place.document_id}):
            return False  # its own transaction, or another sweeper, was first: it would be taken for its own double
        same, _ = tx.documents(Filters(tenant=place.tenant, sha256=sha256), limit=1)
    if same and same[0].created_at >= stat.modified - timedelta(seconds=1):
        services.quarantine.delete(stat.ref)
        log.info("stray removed: it was sent again", document=str(place.document_id), instead=str(same[0].id))
        return False
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
        return False  # as above
    services.announcer.announce([event])
    return True


def _of_upload(upload: Upload, stat: ObjectStat, place: Place, services: Services) -> bool:
    """What an upload that never became a document has left here."""
    if place.part == "original" and upload.method in SENT_WHOLE and upload.state is not UploadState.ABORTED:
        return land_upload(upload, services, actor="sweeper") is Outcome.TAKEN
    if upload.state in (UploadState.ABORTED, UploadState.EXPIRED):
        _remove(stat.ref, None, services.quarantine)
    return False  # of an open one, or a finished piece that waits for the others


def _unannounced(services: Services) -> Iterator[Pair]:
    for batch in _old_objects(services.quarantine, services):
        states = _states(batch, services)
        yield from ((stat, place) for stat, place in batch if place.document_id not in states)


def remove_stray_from_quarantine(services: Services) -> int:
    """Remove what came to quarantine too late (a superseded reader's text, a signed upload sent twice), and texts that
    their attempt left behind: the document has gone on without them."""
    removed = 0
    for batch in _old_objects(services.quarantine, services):
        states = _states(batch, services)
        rejected = {number for number, state in states.items() if state is State.REJECTED}
        with services.ledger.reading() as tx:
            kept = tx.pinned(rejected)  # until their time is up
        for stat, place in batch:
            number, its = place.document_id, kept.get(place.document_id)
            if states.get(number) in GONE or (number in rejected and not _is(stat, its)):
                try:
                    removed += _remove(stat.ref, its, services.quarantine)
                except (StoreUnavailable, LedgerUnavailable):
                    raise
                except AirlockError as exc:
                    log.warning("not removed from quarantine", error=exc.code, document=str(place.document_id))
    return removed


def _is(stat: ObjectStat, pinned: ObjectRef | None) -> bool:
    """Whether this is the object that is pinned, also where it is by the ETag in a bucket that has versions by now."""
    if pinned is None or stat.ref.key != pinned.key:
        return False
    return pinned.version in (stat.ref.version, f'"{stat.etag}"')


def _remove(ref: ObjectRef, until: ObjectRef | None, store: ObjectStore) -> int:
    """The object, and what it covers in a bucket with versions: whoever has a signed form can send it many times."""
    removed = 0
    while store.delete(ref):
        removed += 1
        try:
            stat = store.head(ref.key)
        except ObjectNotFound:
            break
        if _is(stat, until):
            break
        ref = stat.ref
    return removed


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
            elif state not in SERVED | {State.APPROVED, State.FAILED}:
                # Not of a FAILED one: it may be replayed and become available between our look and our removal.
                services.serving.delete(stat.ref)
                removed += 1
    return removed


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
