"""Rows to values and back: the one place where a column's spelling meets a field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import Row

from pipeline.documents import (
    ApiKey,
    Document,
    Event,
    NewDocument,
    Part,
    Upload,
    UploadMethod,
    UploadPart,
    UploadState,
    VerdictRecord,
)
from pipeline.ledger.chain import plain
from pipeline.ledger.clock import epoch_ms, instant, maybe_instant
from pipeline.states import Reason, State
from pipeline.storage.base import ObjectRef
from scanners.base import Engine, Finding, ScanResult, Verdict

Columns: TypeAlias = dict[str, Any]
Line: TypeAlias = Row[*tuple[Any, ...]]


def storable(text: str | None) -> str | None:
    """The text without what PostgreSQL cannot keep (NUL, half a surrogate pair): an engine's odd remark is no reason
    to lose its verdict."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def source_columns(ref: ObjectRef) -> Columns:
    """Where the quarantined bytes are."""
    return {"source_bucket": ref.bucket, "source_key": ref.key, "source_version": ref.version}


def served_columns(ref: ObjectRef | None) -> Columns:
    """Where the promoted bytes are, if they are."""
    if ref is None:
        return {"served_bucket": None, "served_key": None, "served_version": None}
    return {"served_bucket": ref.bucket, "served_key": ref.key, "served_version": ref.version}


def _source(row: Line) -> ObjectRef:
    return ObjectRef(row.source_bucket, row.source_key, row.source_version)


def _served(row: Line) -> ObjectRef | None:
    return None if row.served_key is None else ObjectRef(row.served_bucket, row.served_key, row.served_version)


def new_document_columns(new: NewDocument) -> Columns:
    """What an upload says of itself; state, times and chain are the ledger's."""
    return {
        "id": new.id,
        "tenant": new.tenant,
        "name": new.name,
        "declared_type": new.declared_type,
        "size": new.size,
        "sha256": new.sha256,
        "retention": new.retention,
        "policy_digest": new.policy_digest,
        "correlation_id": new.correlation_id,
        "via": new.via,
        "declared_sha256": new.declared_sha256,
        "batch_id": new.batch_id,
        **source_columns(new.source),
    }


def document_of(row: Line, parts: Sequence[Part] = ()) -> Document:
    """A row of `documents` as a value."""
    return Document(
        id=row.id,
        tenant=row.tenant,
        state=State(row.state),
        reason=None if row.reason is None else Reason(row.reason),
        detail=row.detail,
        name=row.name,
        declared_type=row.declared_type,
        detected_type=row.detected_type,
        size=row.size,
        sha256=row.sha256,
        source=_source(row),
        served=_served(row),
        retention=row.retention,
        policy_digest=row.policy_digest,
        correlation_id=row.correlation_id,
        via=row.via,
        attempt=row.attempt,
        tries=row.tries,
        lease_owner=row.lease_owner,
        lease_until=maybe_instant(row.lease_until),
        available_at=instant(row.available_at),
        waiting_for=row.waiting_for,
        created_at=instant(row.created_at),
        updated_at=instant(row.updated_at),
        expires_at=maybe_instant(row.expires_at),
        erase_at=maybe_instant(row.erase_at),
        text_length=row.text_length,
        pages=row.pages,
        parts=tuple(parts),
        declared_sha256=row.declared_sha256,
        batch_id=row.batch_id,
        turn=row.turn,
    )


def part_columns(document_id: UUID, part: Part) -> Columns:
    """A part as a row of `parts`."""
    return {
        "document_id": document_id,
        "name": part.name,
        "size": part.size,
        "sha256": part.sha256,
        "media_type": part.media_type,
        **source_columns(part.source),
        **served_columns(part.served),
    }


def part_of(row: Line) -> Part:
    """A row of `parts` as a value."""
    return Part(row.name, _source(row), row.size, row.sha256, row.media_type, _served(row))


def verdict_columns(document_id: UUID, record: VerdictRecord, now: int) -> Columns:
    """A verdict as a row of `verdicts`; `now` stands in where the record has no time."""
    result, engine = record.result, record.result.engine
    dated = engine is not None and engine.signatures_at is not None
    return {
        "document_id": document_id,
        "part": record.part,
        "sha256": record.sha256,
        "scanner": result.scanner,
        "verdict": result.verdict,
        "finding": result.finding,
        "detail": storable(result.detail),
        "engine": engine.name if engine else None,
        "engine_version": engine.version if engine else None,
        "signatures": engine.signatures if engine else None,
        "signatures_at": epoch_ms(engine.signatures_at) if dated and engine and engine.signatures_at else None,
        "coverage": plain(result.coverage),
        "media_type": result.media_type,
        "duration_ms": result.duration_ms,
        "at": epoch_ms(record.at) if record.at else now,
    }


def verdict_of(row: Line) -> VerdictRecord:
    """A row of `verdicts` as a value."""
    engine = None
    if row.engine is not None:
        engine = Engine(row.engine, row.engine_version, row.signatures, maybe_instant(row.signatures_at))
    result = ScanResult(
        scanner=row.scanner,
        verdict=Verdict(row.verdict),
        detail=row.detail,
        finding=None if row.finding is None else Finding(row.finding),
        engine=engine,
        coverage=row.coverage,
        media_type=row.media_type,
        duration_ms=row.duration_ms,
    )
    return VerdictRecord(row.part, row.sha256, result, instant(row.at))


def event_of(row: Line) -> Event:
    """A row of `events` as a value."""
    return Event(
        id=row.id,
        document_id=row.document_id,
        tenant=row.tenant,
        seq=row.seq,
        at=instant(row.at),
        start=None if row.start is None else State(row.start),
        to=State(row.to),
        reason=None if row.reason is None else Reason(row.reason),
        attempt=row.attempt,
        actor=row.actor,
        facts=row.facts,
        previous=row.previous,
        hash=row.hash,
    )


def key_of_row(row: Line) -> ApiKey:
    """A row of `api_keys` as a value: the secret's hash stays behind."""
    return ApiKey(
        row.id, row.tenant, row.name, frozenset(row.scopes), instant(row.created_at), maybe_instant(row.revoked_at)
    )


def upload_of(row: Line) -> Upload:
    """A row of `uploads` as a value."""
    return Upload(
        id=row.id,
        tenant=row.tenant,
        method=UploadMethod(row.method),
        state=UploadState(row.state),
        key=row.key,
        name=row.name,
        declared_type=row.declared_type,
        size=row.size,
        declared_sha256=row.declared_sha256,
        offset=row.offset,
        progress=row.progress,
        details=row.details,
        version=row.version,
        batch_id=row.batch_id,
        correlation_id=row.correlation_id,
        created_at=instant(row.created_at),
        expires_at=instant(row.expires_at),
        lock_owner=row.lock_owner,
    )


def upload_part_columns(upload_id: UUID, part: UploadPart) -> Columns:
    """A piece of an upload as a row of `upload_parts`."""
    return {
        "upload_id": upload_id,
        "number": part.number,
        "size": part.size,
        "version": part.version,
        "sha256": part.sha256,
        "piece": part.piece,
    }


def upload_part_of(row: Line) -> UploadPart:
    """A row of `upload_parts` as a value."""
    return UploadPart(row.number, row.size, row.version, row.sha256, row.piece)
