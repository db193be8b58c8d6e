"""The wire types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from pipeline.documents import Document, Event, NewDocument, VerdictRecord
from pipeline.states import Reason, State
from scanners.base import Finding, Verdict

EXAMPLE: dict[str, Any] = {
    "id": "0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55",
    "state": "quarantined",
    "name": "invoice.pdf",
    "size": 48213,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "declared_type": "application/pdf",
    "retention": "standard",
    "created_at": "2026-01-31T09:30:00.123Z",
    "updated_at": "2026-01-31T09:30:00.123Z",
    "links": {
        "self": "/v1/documents/0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55",
        "events": "/v1/documents/0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55/events",
    },
}


class DocumentOut(BaseModel):
    """One document and where it is. Members that have no value are left out."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: UUID
    state: State = Field(description="Where the document is. Its content can be fetched in `available` only.")
    reason: Reason | None = Field(None, description="Why it did not become available, or no longer is.")
    detail: str | None = Field(None, description="One sentence about the reason.")
    name: str | None = Field(None, description="The file name that was sent, cleaned.")
    size: int = Field(description="Bytes.")
    sha256: str | None = Field(None, description="Of the bytes as they arrived, lower-case hex.")
    declared_type: str | None = Field(None, description="The media type that the sender declared.")
    detected_type: str | None = Field(None, description="The media type that the content has.")
    retention: str = Field(description="The retention class.")
    policy_digest: str = Field(description="Which policy it is judged by, see `GET /v1/policy`.")
    via: str = Field(description="The way in.")
    correlation_id: str = Field(description="Follows the document through the service's logs.")
    waiting_for: str | None = Field(None, description="What it waits for, if a part of the service is away.")
    pages: int | None = Field(None, description="Pages that were read.")
    text_length: int | None = Field(None, description="Characters of recognized text.")
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = Field(None, description="When its content stops being served.")
    links: dict[str, str] = Field(description="Where to go from here; only what there is.")


class VerdictOut(BaseModel):
    """What one engine said of exactly these bytes."""

    part: str = Field(description="`original`, `text` or `pdf`.")
    sha256: str
    scanner: str
    verdict: Verdict
    finding: Finding | None = None
    detail: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    signatures: str | None = Field(None, description="Version of the signature database.")
    signatures_at: datetime | None = Field(None, description="When that database was built.")
    coverage: dict[str, int | float | str | bool] = Field(description="What was looked at.")
    duration_ms: float
    at: datetime | None = None


class EventOut(BaseModel):
    """One state change."""

    seq: int = Field(description="0, 1, 2... within the document, without gaps.")
    at: datetime
    start: State | None = Field(None, serialization_alias="from", description="Absent: the document came to be.")
    to: State
    reason: Reason | None = None
    actor: str
    attempt: int
    facts: dict[str, Any] = Field(description="What was learnt and how long it took.")
    hash: str = Field(description="SHA-256 over this event and the hash of the one before.")


class DocumentDetail(DocumentOut):
    """One document with everything that is known about it."""

    verdicts: list[VerdictOut]
    history: list[EventOut]
    timings: dict[str, float] = Field(description="Milliseconds spent in each state that was left, and in `total`.")


class DocumentList(BaseModel):
    """Several documents, in the order of the form's parts, or a page of a listing."""

    documents: list[DocumentOut]


class DocumentPage(DocumentList):
    """A page, newest first."""

    next_cursor: str | None = Field(None, description="Give it as `cursor` to get the next page; absent on the last.")


def links_of(document: Document) -> dict[str, str]:
    """Only what can be followed now."""
    base = f"/v1/documents/{document.id}"
    found = {"self": base, "events": f"{base}/events"}
    if document.state is State.AVAILABLE:
        parts = {part.name for part in document.parts if part.served is not None}
        found |= {"content": f"{base}/content", "receipt": f"{base}/receipt"}
        found |= {name: f"{base}/{name}" for name in ("text", "pdf") if name in parts}
    if document.state is State.FAILED:
        found["retry"] = f"{base}/retry"
    return found


def shown(document: Document) -> DocumentOut:
    """A document as its tenant sees it: nothing about keys, leases and buckets."""
    return DocumentOut.model_validate(_members(document))


def _members(document: Document) -> dict[str, Any]:
    taken = {name: getattr(document, name) for name in DocumentOut.model_fields if name != "links"}
    return {**taken, "links": links_of(document)}


def accepted(new: NewDocument, event: Event) -> DocumentOut:
    """A document that was just taken, without asking the ledger for it again."""
    base = f"/v1/documents/{new.id}"
    return DocumentOut(
        id=new.id,
        state=event.to,
        reason=event.reason,
        name=new.name,
        size=new.size,
        sha256=new.sha256,
        declared_type=new.declared_type,
        retention=new.retention,
        policy_digest=new.policy_digest,
        via=new.via,
        correlation_id=new.correlation_id,
        created_at=event.at,
        updated_at=event.at,
        links={"self": base, "events": f"{base}/events"},
    )


def detailed(document: Document, verdicts: Sequence[VerdictRecord], history: Sequence[Event]) -> DocumentDetail:
    """A document with its verdicts, history and timings."""
    return DocumentDetail.model_validate(
        {
            **_members(document),
            "verdicts": [verdict_shown(record) for record in verdicts],
            "history": [event_shown(event) for event in history],
            "timings": timings(history),
        }
    )


def verdict_shown(record: VerdictRecord) -> VerdictOut:
    """One verdict, with who gave it."""
    result, engine = record.result, record.result.engine
    return VerdictOut(
        part=record.part,
        sha256=record.sha256,
        scanner=result.scanner,
        verdict=result.verdict,
        finding=result.finding,
        detail=result.detail or None,
        engine=engine.name if engine else None,
        engine_version=(engine.version or None) if engine else None,
        signatures=(engine.signatures or None) if engine else None,
        signatures_at=engine.signatures_at if engine else None,
        coverage=dict(result.coverage),
        duration_ms=result.duration_ms,
        at=record.at,
    )


def event_shown(event: Event) -> EventOut:
    """One state change."""
    return EventOut(
        seq=event.seq,
        at=event.at,
        start=event.start,
        to=event.to,
        reason=event.reason,
        actor=event.actor,
        attempt=event.attempt,
        facts=dict(event.facts),
        hash=event.hash,
    )


def timings(history: Sequence[Event]) -> Mapping[str, float]:
    """Milliseconds in each state that was left; a state that was entered again after a retry adds up."""
    spent: dict[str, float] = {}
    for before, after in pairwise(history):
        spent[before.to] = spent.get(before.to, 0.0) + (after.at - before.at).total_seconds() * 1000
    if len(history) > 1:
        spent["total"] = (history[-1].at - history[0].at).total_seconds() * 1000
    return spent
