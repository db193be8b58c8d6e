"""Chunk sessions: a file in numbered chunks, which come in any order, at once, again, to any process.

    begin -> expect -> (a piece in the store) -> note -> ... -> complete -> the flow joins the pieces

Every request that brings a chunk writes an object of its own and notes it when it is whole, so a retry and its first
try never meet. Of two for one number the one noted last counts; where both have the same bytes the first stays. What
is noted when the session is completed is what is joined: nothing can be added or replaced from that commit on.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from pipeline.documents import Event, Json, Upload, UploadMethod, UploadPart, UploadState
from pipeline.errors import (
    AirlockError,
    BadRequest,
    LedgerUnavailable,
    NoSuchWay,
    NotFound,
    TooLarge,
    UploadIncomplete,
)
from pipeline.names import clean_name
from pipeline.quota import charge_bytes
from pipeline.services import Services
from pipeline.storage.abilities import Composable
from pipeline.storage.base import ObjectRef
from pipeline.telemetry import logger
from pipeline.uploads import (
    admit,
    document_of,
    lifetime,
    must_be_open,
    new_upload,
    piece_key,
    piece_ref,
    record,
    record_once,
)

log = logger(__name__)

MOST = 10_000  # chunks in one session
NAMED = 1000  # missing chunks that are named at once


@dataclass(frozen=True, slots=True)
class Announced:
    """What its sender says of the whole file, at the beginning or at the end."""

    name: str | None = None  # not cleaned
    declared_type: str | None = None
    size: int | None = None
    sha256: str | None = None
    total: int | None = None  # chunks


@dataclass(frozen=True, slots=True)
class Expected:
    """A chunk that may come: of which upload, under which key, and how large."""

    upload: Upload
    number: int
    piece: str  # what its key ends in
    most: int  # bytes
    refusal: TooLarge  # of more

    @property
    def key(self) -> str:
        """Where it goes."""
        return piece_key(self.upload.key, self.piece)


def begin(
    announced: Announced,
    tenant: str,
    services: Services,
    *,
    correlation_id: str,
    once: tuple[str, str] | None = None,
) -> Upload:
    """Open a session. `once`: an Idempotency-Key and the fingerprint of the request that it stands for.

    Raises:
        TooLarge, EmptyFile, TypeNotAllowed, QuotaExceeded, IdempotencyConflict: as for any upload.
        BadRequest: there cannot be so many chunks. NoSuchWay: the store cannot join pieces.
    """
    composable(services)
    _must_be_possible(announced)
    upload = new_upload(
        services,
        tenant,
        UploadMethod.CHUNKS,
        name=announced.name,
        declared_type=announced.declared_type,
        size=announced.size,
        declared_sha256=announced.sha256,
        details={} if announced.total is None else {"chunks": announced.total},
        correlation_id=correlation_id,
    )
    if once is None:
        return record(upload, services)
    return record_once(upload, services, key=once[0], fingerprint=once[1])[0]


def composable(services: Services) -> Composable:
    """The quarantine store. Raises NoSuchWay where it cannot join objects."""
    store = services.quarantine
    if not isinstance(store, Composable):
        raise NoSuchWay("This store cannot join chunks. Use /v1/uploads/tus.")
    return store


def _must_be_possible(announced: Announced) -> None:
    if announced.total is None:
        return
    if announced.total < 1:
        raise BadRequest("A file has at least one chunk.")
    if announced.total > MOST:
        raise TooLarge(f"A file may come in {MOST} chunks.", limit={"name": "chunks", "value": MOST})
    if announced.size is not None and announced.total > max(1, announced.size):
        raise BadRequest("There cannot be more chunks than bytes.")


def total_of(upload: Upload) -> int | None:
    """How many chunks were announced."""
    total = upload.details.get("chunks")
    return total if isinstance(total, int) else None


def find(upload_id: UUID, tenant: str, services: Services) -> tuple[Upload, list[UploadPart]]:
    """The tenant's session and the chunks that are noted. Raises NotFound also for an upload of another kind."""
    with services.ledger.reading() as tx:
        upload = _session(tx.upload(upload_id, tenant=tenant))
        return upload, tx.upload_parts(upload_id)


def _session(upload: Upload) -> Upload:
    if upload.method is not UploadMethod.CHUNKS:
        raise NotFound("there is no such session")
    return upload


def missing(upload: Upload, parts: Sequence[UploadPart]) -> list[int]:
    """Which chunks have not come. Where nobody said how many there are: those before the last one that has."""
    here = {part.number for part in parts}
    total = total_of(upload)
    return [number for number in range(max(here, default=-1) + 1 if total is None else total) if number not in here]


def expect(upload_id: UUID, tenant: str, number: int, services: Services) -> Expected:
    """Whether chunk `number` may come, and how large.

    Raises:
        NotFound, UploadGone, Conflict: there is no such session, or it takes nothing more.
        BadRequest: it has no such chunk. TooLarge: the others have all the bytes.
    """
    with services.ledger.reading() as tx:
        upload = _session(tx.upload(upload_id, tenant=tenant))
        must_be_open(upload)
        end = total_of(upload) or MOST
        if not 0 <= number < end:  # before a database is asked for a number that its column cannot hold
            raise BadRequest(f"Chunks are numbered from 0 to {end - 1} here.")
        before = tx.upload_part(upload_id, number)
    bound = services.settings.chunk_bytes
    whole, refusal = _whole(upload, services)
    room = whole - upload.offset + (before.size if before else 0)
    if room <= 0:
        raise refusal
    if bound < room:
        refusal = TooLarge(f"The limit is {bound} bytes in one chunk.", limit={"name": "chunk_bytes", "value": bound})
    return Expected(upload, number, f"{number}x{secrets.token_hex(8)}", min(room, bound), refusal)


def _whole(upload: Upload, services: Services) -> tuple[int, TooLarge]:
    if upload.size is not None:
        size = upload.size
        return size, TooLarge(f"The file has {size} bytes in all.", limit={"name": "upload_length", "value": size})
    limit = services.policy.limits.bytes
    return limit, TooLarge(f"The limit is {limit} bytes in one file.", limit={"name": "bytes", "value": limit})


def note(expected: Expected, ref: ObjectRef, size: int, sha256: str, services: Services) -> None:
    """Have a chunk count whose piece is in the store. The piece that it replaces is removed, or, where that one has the
    same bytes, the new one.

    Raises:
        UploadGone, Conflict: the session ended meanwhile. TooLarge, QuotaExceeded: there is no room for it any more.
            The new piece is removed.
        LedgerUnavailable: whether it counts is not known; send it again. The piece goes with the upload.
    """
    part = UploadPart(expected.number, size, ref.version, sha256, expected.piece)
    try:
        left = _noted(part, expected.upload, services)
    except LedgerUnavailable:
        raise
    except Exception:
        remove(ref, services)
        raise
    if left is not None:
        remove(piece_ref(expected.upload, left, ref.bucket), services)


def _noted(part: UploadPart, session: Upload, services: Services) -> UploadPart | None:
    with services.ledger.begin() as tx:
        must_be_open(tx.hold_upload(session.id))
        before = tx.upload_part(session.id, part.number)
        if before is not None and (before.size, before.sha256) == (part.size, part.sha256):
            tx.keep_upload(session.id, expires_in=lifetime(services))
            return part
        tx.put_upload_part(session.id, part, expires_in=lifetime(services))
        upload = tx.upload(session.id)
        most, refusal = _whole(upload, services)
        if upload.offset > most:
            raise refusal
        if upload.size is None:
            charge_bytes(tx, upload.tenant, 0, services.policy)  # its own bytes are counted by now
        return before


def remove(ref: ObjectRef, services: Services) -> None:
    """Remove a piece that counts no more; what cannot be removed now goes with the upload."""
    try:
        services.quarantine.delete(ref)
    except AirlockError as exc:
        log.warning("a piece stays until its upload is cleaned up", error=exc.code)


def complete(upload_id: UUID, tenant: str, announced: Announced, services: Services) -> Upload:
    """All chunks are here: close the session and make its document, in one commit. The session as it is then; of one
    that is complete, again the same.

    `announced` is what was not said at the beginning.

    Raises:
        NotFound, UploadGone: there is no such session, or it was ended.
        UploadIncomplete: chunks are `missing` (the first of them; `missing_count` says how many), or bytes.
        BadRequest: what is announced is not what was before. TooLarge, EmptyFile, TypeNotAllowed: as for any upload.
    """
    with services.ledger.begin() as tx:
        upload = _session(tx.hold_upload(upload_id, tenant=tenant))
        if upload.state is UploadState.COMPLETED:
            return upload
        must_be_open(upload)
        upload = _told(upload, announced)
        parts = tx.upload_parts(upload_id)
        size = _must_be_whole(upload, parts)
        admit(services.policy, name=upload.name, declared_type=upload.declared_type, size=size)
        tx.end_upload(upload_id, UploadState.COMPLETED, offset=size, size=size, details=upload.details)
        event: Event = tx.insert(document_of(upload, services, size=size))
    services.announcer.announce([event])
    return replace(upload, state=UploadState.COMPLETED, offset=size, size=size)


def _told(upload: Upload, announced: Announced) -> Upload:
    _must_be_possible(announced)
    before = (total_of(upload), upload.size, upload.declared_sha256)
    now = (announced.total, announced.size, announced.sha256)
    if any(one is not None and other is not None and one != other for one, other in zip(before, now, strict=True)):
        raise BadRequest("The session was begun for another number of chunks, size or SHA-256.")
    details: dict[str, Json] = dict(upload.details)
    if announced.total is not None:
        details["chunks"] = announced.total
    return replace(
        upload,
        name=upload.name or clean_name(announced.name),
        declared_type=upload.declared_type or announced.declared_type,
        size=upload.size if announced.size is None else announced.size,
        declared_sha256=upload.declared_sha256 or announced.sha256,
        details=details,
    )


def _must_be_whole(upload: Upload, parts: Sequence[UploadPart]) -> int:
    total, lacking = total_of(upload), missing(upload, parts)
    if total is not None and parts and parts[-1].number >= total:
        raise BadRequest(f"Chunk {parts[-1].number} has arrived, of a file that has {total}.")
    if lacking or not parts:
        named: list[int] = lacking[:NAMED] or [0]
        count = len(lacking) or 1
        raise UploadIncomplete(
            f"{count} chunk{'s are' if count > 1 else ' is'} missing.", missing=named, missing_count=count
        )
    size = sum(part.size for part in parts)
    if upload.size not in (None, size):
        raise UploadIncomplete(
            f"The chunks have {size} bytes together, and {upload.size} were announced.",
            missing=[],
            expected_bytes=upload.size,
            received_bytes=size,
        )
    return size
