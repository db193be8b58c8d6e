"""The hash chain of one document's events: each event's hash covers its own fields and the hash before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from uuid import UUID

from pipeline.documents import Event, Json
from pipeline.ledger.clock import epoch_ms
from pipeline.states import Reason, State, may_move


def canonical(value: object) -> str:
    """JSON with one spelling for one value: sorted keys, no blanks, ASCII, no NaN (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def plain(value: Mapping[str, object]) -> dict[str, Json]:
    """The value as JSON gives it back, with "?" for half a surrogate pair, which MariaDB refuses."""
    text = json.dumps(dict(value), ensure_ascii=False, allow_nan=False)
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    restored: dict[str, Json] = json.loads(text)
    return restored


def seal(
    *,
    document_id: UUID,
    tenant: str,
    seq: int,
    at_ms: int,
    start: State | None,
    to: State,
    reason: Reason | None,
    attempt: int,
    actor: str,
    facts: Mapping[str, Json],
    previous: str,
) -> str:
    """The event's hash: SHA-256 in lower-case hex. The row's `id` is not covered: the database chooses it later."""
    text = canonical(
        {
            "document_id": str(document_id),
            "tenant": tenant,
            "seq": seq,
            "at": at_ms,
            "start": start,
            "to": to,
            "reason": reason,
            "attempt": attempt,
            "actor": actor,
            "facts": dict(facts),
            "previous": previous,
        }
    )
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def verify_chain(events: Sequence[Event]) -> list[str]:
    """What is wrong with a document's whole history, in seq order, one sentence each; nothing is wrong: empty."""
    problems: list[str] = []
    if not events:
        return ["there are no events"]
    before: Event | None = None
    for index, event in enumerate(events):
        where = f"event {event.seq}"
        if event.seq != index:
            problems.append(f"{where}: expected number {index}")
        if event.document_id != events[0].document_id:
            problems.append(f"{where}: belongs to another document")
        if event.start != (before.to if before else None):
            problems.append(f"{where}: does not start where the one before ended")
        if event.start is not None and not may_move(event.start, event.to):
            problems.append(f"{where}: {event.start} never moves to {event.to}")
        if event.previous != (before.hash if before else ""):
            problems.append(f"{where}: does not name the hash of the one before")
        if event.hash != _resealed(event):
            problems.append(f"{where}: its fields are not the ones that were hashed")
        before = event
    return problems


def _resealed(event: Event) -> str:
    return seal(
        document_id=event.document_id,
        tenant=event.tenant,
        seq=event.seq,
        at_ms=epoch_ms(event.at),
        start=event.start,
        to=event.to,
        reason=event.reason,
        attempt=event.attempt,
        actor=event.actor,
        facts=event.facts,
        previous=event.previous,
    )
