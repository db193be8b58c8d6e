"""Documents as they are asked for: one, a page of them, and what is known about each."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Select, and_, bindparam, or_, select

from pipeline.documents import Document, Event, Filters, VerdictRecord
from pipeline.errors import BadRequest, NotFound
from pipeline.ledger.clock import epoch_ms
from pipeline.ledger.models import documents, events, parts, receipts, verdicts
from pipeline.ledger.queries.base import Statements, chunks
from pipeline.ledger.rows import document_of, event_of, part_of, verdict_of

ONE = select(documents).where(documents.c.id == bindparam("document_id"))
PARTS = select(parts).where(parts.c.document_id == bindparam("document_id")).order_by(parts.c.name)
VERDICTS = select(verdicts).where(verdicts.c.document_id == bindparam("document_id")).order_by(verdicts.c.id)
HISTORY = (
    select(events)
    .where(events.c.document_id == bindparam("document_id"), events.c.seq > bindparam("after"))
    .order_by(events.c.seq)
)
RECEIPT = select(receipts.c.receipt).where(receipts.c.document_id == bindparam("document_id"))


class DocumentQueries(Statements):
    """Reads only."""

    def document(self, document_id: UUID, *, tenant: str | None = None) -> Document:
        """One document with its parts. NotFound also for another tenant's: nobody is told that it is there."""
        row = self._read(ONE, {"document_id": document_id}).one_or_none()
        if row is None or (tenant is not None and row.tenant != tenant):
            raise NotFound("there is no such document")
        return document_of(row, self._document_parts(document_id))

    def _document_parts(self, document_id: UUID) -> list[Any]:
        return [part_of(row) for row in self._read(PARTS, {"document_id": document_id})]

    def documents(
        self, filters: Filters, *, limit: int, cursor: str | None = None
    ) -> tuple[list[Document], str | None]:
        """A page of a tenant's documents, newest first, and the cursor of the next (None: that was all).

        Documents that arrive meanwhile are newer than the cursor, so they shift nothing. BadRequest: not our cursor.
        """
        if limit < 1:
            raise BadRequest("a page has at least one document")
        query = _filtered(filters)
        if cursor is not None:
            at, document_id = open_cursor(cursor)
            earlier = and_(documents.c.created_at == at, documents.c.id < document_id)
            # The first condition follows from the second, but only the first can bound a search of the index.
            query = query.where(documents.c.created_at <= at, or_(documents.c.created_at < at, earlier))
        rows = self._read(query.limit(limit + 1)).all()
        following = cursor_of(rows[limit - 1]) if len(rows) > limit else None
        return self._with_parts(rows[:limit]), following

    def verdicts(self, document_id: UUID) -> list[VerdictRecord]:
        """Every verdict ever given on the document's parts, in the order they were recorded."""
        return [verdict_of(row) for row in self._read(VERDICTS, {"document_id": document_id})]

    def history(self, document_id: UUID, *, after: int = -1) -> list[Event]:
        """The document's events with seq > `after`, in seq order."""
        return [event_of(row) for row in self._read(HISTORY, {"document_id": document_id, "after": after})]

    def histories(self, after: Mapping[UUID, int]) -> list[Event]:
        """The events of many documents, each after its own seq, in the order they were written."""
        found: list[Event] = []
        for some in chunks(after.items()):
            newer = [and_(events.c.document_id == key, events.c.seq > seq) for key, seq in some]
            found += [event_of(row) for row in self._read(select(events).where(or_(*newer)))]
        return sorted(found, key=lambda event: event.id)

    def receipt(self, document_id: UUID) -> str | None:
        """The signed clearance, where the document has one."""
        found: str | None = self._read(RECEIPT, {"document_id": document_id}).scalar_one_or_none()
        return found


def _filtered(filters: Filters) -> Select[Any]:
    query = select(documents).where(documents.c.tenant == filters.tenant)
    if filters.states:
        query = query.where(documents.c.state.in_(sorted(filters.states)))
    if filters.sha256 is not None:
        query = query.where(documents.c.sha256 == filters.sha256)
    if filters.created_after is not None:
        query = query.where(documents.c.created_at > epoch_ms(filters.created_after))
    if filters.created_before is not None:
        query = query.where(documents.c.created_at < epoch_ms(filters.created_before))
    return query.order_by(documents.c.created_at.desc(), documents.c.id.desc())


def cursor_of(row: Any) -> str:
    """Where a page ends: a row's time and id."""
    return base64.urlsafe_b64encode(row.created_at.to_bytes(8, "big") + row.id.bytes).decode("ascii")


def open_cursor(cursor: str) -> tuple[int, UUID]:
    """Time (ms) and id in a cursor. BadRequest: it is not ours."""
    try:
        raw = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise BadRequest("the cursor is not one that was given out here") from error
    at = int.from_bytes(raw[:8], "big")
    if len(raw) != 24 or at >= 1 << 62:
        raise BadRequest("the cursor is not one that was given out here")
    return at, UUID(bytes=raw[8:])
