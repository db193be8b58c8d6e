"""How a change of state is written: the row, its event, and what was learnt on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, insert, update

from pipeline.documents import Advance, Document, Event, Json, Part
from pipeline.errors import BadRequest
from pipeline.ledger.chain import plain, seal
from pipeline.ledger.clock import instant, span_ms
from pipeline.ledger.models import documents, events, parts, receipts, verdicts
from pipeline.ledger.queries.documents import DocumentQueries
from pipeline.ledger.queries.turns import TurnQueries
from pipeline.ledger.rows import Columns, part_columns, served_columns, source_columns, storable, verdict_columns
from pipeline.states import WORKING, Reason, State

ADD_EVENT = insert(events)
ADD_PART = insert(parts)
ADD_VERDICT = insert(verdicts)
ADD_RECEIPT = insert(receipts)
NEW_RECEIPT = update(receipts).where(receipts.c.document_id == bindparam("its_id"))
DROP_PARTS = delete(parts).where(
    parts.c.document_id == bindparam("its_id"), parts.c.name.in_(bindparam("names", expanding=True))
)
INSTANTS = frozenset({"lease_until", "available_at", "updated_at", "expires_at", "erase_at"})
FIELDS = frozenset(field.name for field in fields(Document))


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a document's chain, read under its lock; `now` is the database's clock in milliseconds."""

    document_id: UUID
    tenant: str
    seq: int
    hash: str
    now: int


@dataclass(frozen=True, slots=True)
class Move:
    """One change of state that is about to be written."""

    start: State | None
    to: State
    reason: Reason | None
    facts: Mapping[str, Json]


class WritingQueries(DocumentQueries, TurnQueries):
    """Used by flow.py and moves.py, which hold the row's lock."""

    def _learn(self, document_id: UUID, advances: Iterable[Advance], now: int) -> list[Part]:
        """Write verdicts, parts and receipt; returns the parts, the last of each name."""
        found: dict[str, Part] = {}
        judged: list[Columns] = []
        receipt: str | None = None
        for advance in advances:
            judged += [verdict_columns(document_id, record, now) for record in advance.verdicts]
            found |= {part.name: part for part in advance.parts}
            receipt = advance.receipt or receipt
        if judged:
            self._write(ADD_VERDICT, judged)
        if found:
            self._write(DROP_PARTS, {"its_id": document_id, "names": sorted(found)})
            self._write(ADD_PART, [part_columns(document_id, found[name]) for name in sorted(found)])
        if receipt is not None:
            changed = self._write(NEW_RECEIPT, {"its_id": document_id, "receipt": receipt, "at": now})
            if changed.rowcount == 0:
                self._write(ADD_RECEIPT, {"document_id": document_id, "receipt": receipt, "at": now})
        return list(found.values())

    def _sealed(self, head: Head, move: Move, *, attempt: int, actor: str) -> tuple[Columns, Columns]:
        [event], ends = links(head, [move], attempt=attempt, actor=actor)
        return event, ends

    def _appended(self, head: Head, move: Move, columns: Columns) -> Event:
        [number] = self._write(ADD_EVENT, columns).inserted_primary_key or [0]
        return Event(
            id=number,
            document_id=head.document_id,
            tenant=head.tenant,
            seq=columns["seq"],
            at=instant(head.now),
            start=move.start,
            to=move.to,
            reason=move.reason,
            attempt=columns["attempt"],
            actor=columns["actor"],
            facts=columns["facts"],
            previous=columns["previous"],
            hash=columns["hash"],
        )


def links(head: Head, moves: Sequence[Move], *, attempt: int, actor: str) -> tuple[list[Columns], Columns]:
    """The event rows that follow `head`, each sealed over the one before, and the row's columns for the new head."""
    rows: list[Columns] = []
    seq, previous = head.seq, head.hash
    for move in moves:
        seq += 1
        event: Columns = {
            "document_id": head.document_id,
            "tenant": head.tenant,
            "seq": seq,
            "start": move.start,
            "to": move.to,
            "reason": move.reason,
            "attempt": attempt,
            "actor": actor,
            "facts": plain(move.facts),
            "previous": previous,
        }
        previous = seal(at_ms=head.now, **event)
        rows.append(event | {"at": head.now, "hash": previous})
    return rows, {"last_seq": seq, "last_hash": previous}


def entering(to: State, now: int, *, reason: Reason | None = None, detail: str | None = None) -> Columns:
    """What every change of state does to the row: nobody holds it, nothing is counted against it, it may be claimed.

    At the end of its way it has no turn any more; on its way it keeps the one it has.
    """
    over: Columns = {} if to in WORKING else {"turn": None}
    return over | {
        "state": to,
        "reason": reason,
        "detail": storable(detail),
        "tries": 0,
        "lease_owner": None,
        "lease_until": None,
        "available_at": now,
        "nudged_at": now,
        "updated_at": now,
        "waiting_for": None,
    }


def learnt(
    now: int,
    *,
    detected_type: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    text_length: int | None = None,
    pages: int | None = None,
    expires_in: timedelta | None = None,
    erase_in: timedelta | None = None,
) -> Columns:
    """Columns for what is known now; what is not known (None) stays as it was."""
    known = {
        "detected_type": detected_type,
        "sha256": sha256,
        "size": size,
        "text_length": text_length,
        "pages": pages,
        "expires_at": None if expires_in is None else now + span_ms(expires_in),
        "erase_at": None if erase_in is None else now + span_ms(erase_in),
    }
    return {name: value for name, value in known.items() if value is not None}


def advanced(advances: Sequence[Advance], now: int) -> Columns:
    """The row after all of them: a later advance wins where both say something."""
    columns: Columns = {}
    for step in advances:
        columns |= entering(step.to, now, reason=step.reason, detail=step.detail) | learnt(
            now,
            detected_type=step.detected_type,
            sha256=step.sha256,
            size=step.size,
            text_length=step.text_length,
            pages=step.pages,
            expires_in=step.expires_in,
            erase_in=step.erase_in,
        )
        if step.served is not None:
            columns |= served_columns(step.served)
        if step.source is not None:
            columns |= source_columns(step.source)
    return columns


def changed(document: Document, columns: Columns, new_parts: Iterable[Part], advances: Iterable[Advance]) -> Document:
    """The value after `columns` were written, without asking the database: we hold its lock and wrote it ourselves."""
    values: dict[str, Any] = {
        name: instant(value) if name in INSTANTS and value is not None else value
        for name, value in columns.items()
        if name in FIELDS
    }
    for step in advances:
        values["served"] = step.served or values.get("served", document.served)
        values["source"] = step.source or values.get("source", document.source)
    by_name = {part.name: part for part in (*document.parts, *new_parts)}
    values["parts"] = tuple(by_name[name] for name in sorted(by_name))
    return replace(document, **values)


def refuse_unstorable(columns: Columns) -> None:
    """BadRequest for a client's text that some database could not keep as it is: the same on all of them."""
    for name, value in columns.items():
        if not isinstance(value, str):
            continue
        length = getattr(documents.c[name].type, "length", None)
        if (length is not None and len(value) > length) or storable(value) != value:
            raise BadRequest(f"{name} is too long or holds characters that cannot be kept")
