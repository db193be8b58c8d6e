"""An object lies in quarantine: whose is it, and what becomes of it?

Asked by events, by batches and by the sweeper, about the same object any number of times, in any order, at once. The
answer is made of the ledger and of what the store says now, never of what a message claims; and every way to one
object ends in the same document id, so there is one document.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from pipeline.documents import Upload, UploadMethod, UploadState
from pipeline.errors import Conflict, NotFound, ObjectNotFound, QuotaExceeded
from pipeline.names import clean_name
from pipeline.quota import charge_documents
from pipeline.services import Services
from pipeline.storage.base import ObjectStat
from pipeline.storage.keys import NAME, key_of, parse
from pipeline.telemetry import logger
from pipeline.uploads import document_of, landed

if TYPE_CHECKING:
    from pipeline.events.landed import ObjectLanded

log = logger(__name__)

DROP = "drop/"
# Sent to the store itself, whole, in one request or session: only these wait for the store to say that they are there.
SENT_WHOLE = frozenset({UploadMethod.PUT, UploadMethod.POST, UploadMethod.SESSION})
# Seconds that a file may lie in the future and still be waited for: beyond that its time says nothing of when it was
# written (a copy keeps the time of a machine whose clock was wrong), and would have it wait for years.
WRONG = 86_400.0
DROPS = UUID("5d3f2c1e-8f0a-4c52-9c55-0d3b6f0c7a11")


class Outcome(StrEnum):
    """What an object turned out to be."""

    TAKEN = "taken"  # it is a document now
    KNOWN = "known"  # somebody was first, or it is the work in progress of a way in that tells the ledger itself
    GONE = "gone"  # it is not there (any more)
    FOREIGN = "foreign"  # another bucket's, or no key of ours
    NOT_READY = "not_ready"  # still being written, by the look of it, or no room for it: the sweeper asks again


@dataclass(frozen=True, slots=True)
class Hints:
    """What somebody who has the right to say so tells of a drop: a batch's manifest."""

    document_id: UUID | None = None
    batch_id: UUID | None = None
    name: str | None = None
    declared_type: str | None = None
    declared_sha256: str | None = None


def land(landed_object: ObjectLanded, services: Services, *, actor: str = "event") -> Outcome:
    """Make a document of what landed, if it is to be one.

    Raises:
        StoreError, LedgerUnavailable: it could not be asked; ask again.
        NotFound: it lies in the drop folder of a tenant that nobody has a key for.
    """
    if landed_object.bucket != services.quarantine.bucket:
        return Outcome.FOREIGN
    return land_key(landed_object.key, landed_object.version, services, actor=actor)


def land_key(key: str, version: str | None, services: Services, *, actor: str) -> Outcome:
    """The same, for an object of the quarantine bucket. Without a version, or with one that is gone: what lies there
    now."""
    if key.startswith(DROP):
        return land_drop(key, version, services, actor=actor)
    place = parse(key)
    if place is None:
        return Outcome.FOREIGN
    if place.part != "original":
        return Outcome.KNOWN
    with services.ledger.reading() as tx:
        known = tx.known({place.document_id})
        try:
            upload = tx.upload(place.document_id)
        except NotFound:
            upload = None
    if known or upload is None or upload.method not in SENT_WHOLE:
        # Without an upload it is a direct one's, whose row is being written this moment; should its process have died
        # before that, the sweeper adopts the object once it is old enough.
        return Outcome.KNOWN
    return land_upload(upload, services, actor=actor)


def land_upload(upload: Upload, services: Services, *, actor: str) -> Outcome:
    """Land an upload that its sender sent to the store itself, if its object is there."""
    if upload.state is UploadState.ABORTED:
        return Outcome.KNOWN
    try:
        stat = services.quarantine.head(upload.key)
    except ObjectNotFound:
        return Outcome.GONE
    try:
        return Outcome.KNOWN if landed(upload, stat, services, actor=actor) is None else Outcome.TAKEN
    except Conflict:  # two at once: the other one's commit came first
        return Outcome.KNOWN


def land_drop(
    key: str, version: str | None, services: Services, *, actor: str, hints: Hints = Hints(), quiet: float = 0.0
) -> Outcome:
    """Make a document of an object in a drop folder; the flow moves its bytes to a key of ours, and removes it there.

    `quiet`: seconds that it must not have changed for (a store that shows files while they are written).
    Raises as `land` does.
    """
    tenant, _, rest = key.removeprefix(DROP).partition("/")
    # A server that keeps its objects as files may take "drop/a/../b/x" for a file of b's.
    if not NAME.fullmatch(tenant) or not rest or key.endswith("/") or {".", ".."} & set(rest.split("/")):
        return Outcome.FOREIGN
    try:
        stat = services.quarantine.head(key)
    except ObjectNotFound:
        return Outcome.GONE
    if quiet and -WRONG < (datetime.now(UTC) - stat.modified).total_seconds() < quiet:
        return Outcome.NOT_READY
    if version is not None and version != stat.ref.version:
        # Replaced since: what lies there now is what counts, and it has, or will have, an event of its own.
        log.info("drop was replaced", tenant=tenant)
    number = hints.document_id or drop_id(stat)
    with services.ledger.reading() as tx:
        if not tx.has_key(tenant):
            raise NotFound("The drop folder belongs to no tenant that has an API key.")
        if tx.known({number}):
            return Outcome.KNOWN
    upload = _drop(number, tenant, stat, services, hints)
    new = document_of(upload, services, size=stat.size)
    try:
        with services.ledger.begin() as tx:
            charge_documents(tx, [new], services.policy)
            tx.open_upload(upload, expires_in=timedelta(0))
            event = tx.insert(new, actor=actor)
    except Conflict:
        return Outcome.KNOWN
    except QuotaExceeded as exc:
        # Nobody is there to be told no. It stays where it lies, and is taken once there is room.
        log.warning("drop waits for room in its tenant's quota", tenant=tenant, detail=exc.detail)
        return Outcome.NOT_READY
    services.announcer.announce([event])
    return Outcome.TAKEN


def drop_id(stat: ObjectStat) -> UUID:
    """The same for every event and sweep about these bytes; another one for the next file under the same name, even
    where a bucket without versions gives equal bytes an equal pin."""
    modified = int(stat.modified.timestamp() * 1000)
    return uuid5(DROPS, f"{stat.ref.bucket}\n{stat.ref.key}\n{stat.ref.version}\n{modified}")


def _drop(number: UUID, tenant: str, stat: ObjectStat, services: Services, hints: Hints) -> Upload:
    now = datetime.now(UTC)
    return Upload(
        id=number,
        tenant=tenant,
        method=UploadMethod.DROP,
        state=UploadState.COMPLETED,
        key=key_of(services.policy.retention.name, tenant, number),
        name=clean_name(hints.name or stat.ref.key),
        declared_type=hints.declared_type,
        size=stat.size,
        declared_sha256=hints.declared_sha256,
        offset=stat.size,
        progress="",
        details={"sources": [{"key": stat.ref.key, "version": stat.ref.version}]},
        version=None,
        batch_id=hints.batch_id,
        correlation_id=f"drop-{number}",
        created_at=now,
        expires_at=now,
    )
