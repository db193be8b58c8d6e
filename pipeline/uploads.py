"""The rules of every way in that takes more than one request: what may begin, and how it becomes a document.

    admit -> open_upload -> (bytes, by whichever way) -> receive | landed -> the flow
                                                      -> give_up

An upload's id is the id of its document. So whatever completes it (its sender, an event of the bucket, the sweeper,
any of them twice) makes the same one document, or finds that it is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from pipeline.documents import Event, Json, NewDocument, Replay, Upload, UploadMethod, UploadPart, UploadState
from pipeline.errors import (
    Conflict,
    EmptyFile,
    IdempotencyConflict,
    NotFound,
    ObjectExists,
    TooLarge,
    TypeNotAllowed,
    UploadGone,
)
from pipeline.names import clean_name
from pipeline.quota import charge_upload
from pipeline.services import Services
from pipeline.states import Reason, State
from pipeline.storage.base import ObjectRef, ObjectStat
from pipeline.storage.keys import key_of
from scanners.types import ALSO_DECLARED, EXTENSIONS, GENERIC, HARMLESS_TEXT, canonical, suffix_of

if TYPE_CHECKING:
    from pipeline.policy import Policy

KNOWN = frozenset(kind for kinds in EXTENSIONS.values() for kind in kinds)


def admit(policy: Policy, *, name: str | None, declared_type: str | None, size: int | None) -> None:
    """Whether this may begin, as far as its announcement tells: before a byte is sent.

    Only what could never pass is refused here; what the bytes are is found out in quarantine.

    Raises:
        TooLarge, EmptyFile, TypeNotAllowed: the limit or the type, and what to do.
    """
    if size is not None and size > policy.limits.bytes:
        limit = policy.limits.bytes
        raise TooLarge(f"The limit is {limit} bytes in one file.", limit={"name": "bytes", "value": limit})
    if size == 0:
        raise EmptyFile("A file of 0 bytes has nothing to check.")
    allowed = frozenset(map(canonical, policy.accept.types))
    kind = canonical(declared_type or "")
    also = {one for one, ways in ALSO_DECLARED.items() if kind in ways}
    if kind in KNOWN - GENERIC - HARMLESS_TEXT and not ({kind} | also) & allowed:
        raise TypeNotAllowed(f"Files of the type {kind} are not taken. GET /v1/policy lists those that are.")
    suffix = suffix_of(name)
    if suffix in EXTENSIONS and not {canonical(one) for one in EXTENSIONS[suffix]} & allowed:
        raise TypeNotAllowed(f"Files that end in .{suffix} are not taken. GET /v1/policy lists the types that are.")


def new_upload(
    services: Services,
    tenant: str,
    method: UploadMethod,
    *,
    name: str | None,
    declared_type: str | None,
    size: int | None,
    correlation_id: str,
    declared_sha256: str | None = None,
    details: Mapping[str, Json] | None = None,
    batch_id: UUID | None = None,
    upload_id: UUID | None = None,
    progress: str = "",
) -> Upload:
    """An upload as it will be recorded, admitted; nothing is written yet. Raises as `admit` does."""
    cleaned = clean_name(name)
    admit(services.policy, name=cleaned, declared_type=declared_type, size=size)
    number = upload_id or uuid4()
    now = datetime.now(UTC)  # replaced by the database's clock when it is recorded
    return Upload(
        id=number,
        tenant=tenant,
        method=method,
        state=UploadState.OPEN,
        key=key_of(services.policy.retention.name, tenant, number),
        name=cleaned,
        declared_type=declared_type,
        size=size,
        declared_sha256=declared_sha256.lower() if declared_sha256 else None,
        offset=0,
        progress=progress,
        details=details or {},
        version=None,
        batch_id=batch_id,
        correlation_id=correlation_id,
        created_at=now,
        expires_at=now,
    )


def lifetime(services: Services) -> timedelta:
    """How long an upload may stay open without a byte."""
    return timedelta(seconds=services.settings.upload_seconds)


def record(upload: Upload, services: Services) -> Upload:
    """Write it down as open, within the tenant's quota. Raises QuotaExceeded, ObjectExists (the id is taken)."""
    with services.ledger.begin() as tx:
        charge_upload(tx, upload, services.policy)
        return tx.open_upload(upload, expires_in=lifetime(services))


def record_once(upload: Upload, services: Services, *, key: str, fingerprint: str) -> tuple[Upload, bool]:
    """`record` under the tenant's Idempotency-Key: the upload that the key stands for, and whether it was there before.

    `fingerprint` tells requests apart that were to begin different uploads. Raises also IdempotencyConflict.
    """
    try:
        with services.ledger.begin() as tx:
            if (earlier := tx.replay_of(upload.tenant, key)) is None:
                tx.remember(upload.tenant, key, Replay(fingerprint, (upload.id,)))
                charge_upload(tx, upload, services.policy)
                return tx.open_upload(upload, expires_in=lifetime(services)), False
    except ObjectExists:  # another request with this key, in the same moment
        with services.ledger.reading() as tx:
            earlier = tx.replay_of(upload.tenant, key)
    if earlier is None or earlier.fingerprint != fingerprint:
        raise IdempotencyConflict("This Idempotency-Key stands for something else. Use a new key for a new upload.")
    return find(earlier.document_ids[0], upload.tenant, services), True


def find(upload_id: UUID, tenant: str, services: Services) -> Upload:
    """The tenant's upload. Raises NotFound also where it is somebody else's."""
    with services.ledger.reading() as tx:
        return tx.upload(upload_id, tenant=tenant)


def must_be_open(upload: Upload) -> None:
    """Raises UploadGone where it was ended or is over, Conflict where it is complete already."""
    if upload.state in (UploadState.ABORTED, UploadState.EXPIRED):
        raise UploadGone(f"This upload is {upload.state.value}. Begin a new one.")
    if upload.state is not UploadState.OPEN:
        raise Conflict("This upload is complete already.", state=upload.state.value)


def document_of(
    upload: Upload, services: Services, *, size: int, source: ObjectRef | None = None, via: str | None = None
) -> NewDocument:
    """The document that the upload becomes: QUARANTINED with a pinned source, RECEIVED where it is still in parts."""
    return NewDocument(
        id=upload.id,
        tenant=upload.tenant,
        source=source or ObjectRef(services.quarantine.bucket, upload.key, ""),
        size=size,
        sha256=None,  # nobody has hashed the whole yet: inspect does
        name=upload.name,
        declared_type=upload.declared_type,
        retention=upload.key.partition("/")[0],
        policy_digest=services.policy.digest,
        correlation_id=upload.correlation_id,
        via=via or upload.method.value.partition("_")[0],
        declared_sha256=upload.declared_sha256,
        batch_id=upload.batch_id,
        state=State.QUARANTINED if source else State.RECEIVED,
    )


def receive(
    upload: Upload,
    services: Services,
    *,
    size: int,
    owner: str | None = None,
    progress: str | None = None,
    parts: list[UploadPart] | None = None,
) -> Event | None:
    """Everything has arrived, in parts: close the upload and make its document, in one commit; then ring.

    With `owner` only the holder of the upload's lock may. None: it was closed already, by whoever came first.
    `parts` are the ones to be put together, where they were not noted as they came.

    Raises:
        TooLarge: the parts together are more than the policy takes; nothing is changed.
    """
    admit(services.policy, name=None, declared_type=None, size=size)
    with services.ledger.begin() as tx:
        if parts is not None:
            try:
                tx.set_upload_parts(upload.id, parts)
            except Conflict:
                return None
        if not tx.end_upload(upload.id, UploadState.COMPLETED, owner=owner, offset=size, size=size, progress=progress):
            return None
        event = tx.insert(document_of(upload, services, size=size))
    services.announcer.announce([event])
    return event


def landed(upload: Upload, stat: ObjectStat, services: Services, *, actor: str = "upload") -> Event | None:
    """The whole object lies under the upload's key: close the upload, make its document, pinned to what lies there.

    What lies there is measured, whatever was announced. Other bytes than announced are a document too, a rejected one:
    its sender learns why, and nothing is lost. None: it was landed already.
    """
    new = document_of(upload, services, size=stat.size, source=stat.ref)
    with services.ledger.begin() as tx:
        closed = tx.end_upload(upload.id, UploadState.COMPLETED, offset=stat.size, size=stat.size)
        if not closed and (tx.known({upload.id}) or tx.upload(upload.id).state is UploadState.ABORTED):
            return None
        # Where its time was over when the last byte came: the bytes are here all the same.
        event = tx.insert(new, actor=actor)
        if upload.size is not None and upload.size != stat.size:
            tx.move(
                new.id,
                tenant=None,
                to=State.REJECTED,
                actor=actor,
                reason=Reason.DIGEST_MISMATCH,
                detail=f"{upload.size} bytes were announced, and {stat.size} arrived. Send it again.",
                erase_in=timedelta(days=services.policy.retention.rejected_days),
            )
    services.announcer.announce([event])
    return event


def give_up(upload: Upload, services: Services, *, owner: str | None = None) -> bool:
    """End an open upload for its sender; the sweeper removes what it left. False: it was over already."""
    with services.ledger.begin() as tx:
        return tx.end_upload(upload.id, UploadState.ABORTED, owner=owner)


def piece_key(upload_key: str, number: int | str) -> str:
    """Where one piece of an upload lies: beside the object that they become."""
    return f"{upload_key.rpartition('/')[0]}/piece-{number}"


def piece_ref(upload: Upload, part: UploadPart, bucket: str) -> ObjectRef:
    """A noted piece's pinned object."""
    return ObjectRef(bucket, piece_key(upload.key, part.piece or part.number), part.version)


__all__ = [
    "NotFound",
    "admit",
    "document_of",
    "find",
    "give_up",
    "landed",
    "lifetime",
    "must_be_open",
    "new_upload",
    "piece_key",
    "piece_ref",
    "receive",
    "record",
    "record_once",
]
