"""The outbox: events that nobody was told of yet. They are the same rows as the audit trail."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import bindparam, select

from pipeline.documents import Event
from pipeline.ledger.clock import now_ms, span_ms
from pipeline.ledger.models import events
from pipeline.ledger.queries.base import Statements, chunks, updated
from pipeline.ledger.rows import event_of

UNRELAYED = (
    select(events)
    .where(events.c.relayed_at.is_(None), events.c.at <= now_ms() - bindparam("older_than"))
    .order_by(events.c.id)
    .limit(bindparam("at_most"))
)
RELAYED = (
    updated(events)
    .where(events.c.id.in_(bindparam("ids", expanding=True)), events.c.relayed_at.is_(None))
    .values(relayed_at=now_ms())
)


class OutboxQueries(Statements):
    """Publish first, mark after: an event may be relayed twice, never not at all."""

    def unrelayed(self, *, older_than: timedelta, limit: int) -> list[Event]:
        """The oldest events that are not marked, in the order they were written, so in order for each document.

        It asks for the mark and remembers no highest id: a transaction that commits late, with a lower id than what
        was relayed already, is still found.
        """
        values = {"older_than": span_ms(older_than), "at_most": limit}
        return [event_of(row) for row in self._read(UNRELAYED, values)]

    def mark_relayed(self, ids: Collection[int]) -> None:
        """Mark events as told; those that are marked already stay as they are."""
        for some in chunks(sorted(ids)):  # sorted: two relays that mark the same events lock them in one order
            self._write(RELAYED, {"ids": some})
