"""Batches as requests see them: written down, shown, asked to stop or to try again; and the events of their ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, and_, bindparam, delete, func, insert, or_, select, update

from pipeline.batches import ALIVE, Batch, BatchEvent, BatchState, ItemState, NewItem
from pipeline.errors import Conflict, NotFound
from pipeline.ledger.batch_rows import batch_event_of, batch_of, counts_kept, item_columns
from pipeline.ledger.clock import now_ms, span_ms
from pipeline.ledger.models import batch_events, batch_items, batches, documents
from pipeline.ledger.queries.base import Statements, chunks, locking, updated
from pipeline.ledger.queries.documents import cursor_of, open_cursor
from pipeline.ledger.rows import Columns, Line

ONE = select(batches).where(batches.c.id == bindparam("batch_id"))
LOCK = locking(ONE, batches)
THIS = updated(batches).where(batches.c.id == bindparam("its_id"))
LOADING = THIS.where(batches.c.state == BatchState.LOADING)
ALIVE_ONES = (
    select(batches.c.id)
    .where(batches.c.tenant == bindparam("tenant"), batches.c.state.in_(sorted(ALIVE)))
    .limit(bindparam("at_most"))
)
RESULTS = (
    select(
        batch_items,
        documents.c.state.label("now"),
        documents.c.reason,
        documents.c.detail,
        documents.c.size,
        documents.c.sha256,
        documents.c.detected_type,
        documents.c.name.label("document_name"),
    )
    .select_from(
        batch_items.outerjoin(
            documents, and_(documents.c.id == batch_items.c.document_id, documents.c.tenant == bindparam("tenant"))
        )
    )
    .where(batch_items.c.batch_id == bindparam("batch_id"), batch_items.c.seq > bindparam("after"))
    .order_by(batch_items.c.seq)
    .limit(bindparam("at_most"))
)
STALE = (
    select(batches.c.id)
    .where(batches.c.due_at <= now_ms() - bindparam("older_than"), batches.c.state == BatchState.LOADING)
    .limit(10)
)
UNRELAYED = (
    select(batch_events)
    .where(batch_events.c.relayed_at.is_(None))
    .order_by(batch_events.c.id)
    .limit(bindparam("at_most"))
)


class BatchQueries(Statements):
    """Every write names what it expects to find."""

    def new_batch(self, batch: Batch) -> None:
        """Record a batch whose request is being read; nobody sees it before `start_batch`."""
        now = self._now()
        row: Columns = {
            "id": batch.id,
            "tenant": batch.tenant,
            "name": batch.name,
            "state": BatchState.LOADING,
            "source": batch.source,
            "correlation_id": batch.correlation_id,
            "prefix": batch.prefix,
            "last_key": batch.last_key,
            "listed_at": now if batch.listed else None,
            "counts": {},
            "revision": 0,
            "run": batch.run,
            "due_at": now,  # should its request never end, it is found by this
            "created_at": now,
            "updated_at": now,
        }
        self._write(insert(batches), row)

    def add_items(self, batch_id: UUID, items: Sequence[NewItem], *, first: int) -> None:
        """Record items, numbered from `first` on."""
        for some in chunks(list(enumerate(items, start=first))):
            self._write(insert(batch_items), [item_columns(batch_id, seq, item) for seq, item in some])

    def keep_loading(self, batch_id: UUID) -> bool:
        """Its request is still being read. False: it was given up meanwhile."""
        return self._write(LOADING.values(due_at=now_ms()), {"its_id": batch_id}).rowcount == 1

    def start_batch(self, batch_id: UUID, counts: Mapping[ItemState, int]) -> Batch:
        """All that its request names is written down. Conflict: it was given up meanwhile."""
        values: Columns = {
            "state": BatchState.RUNNING,
            "counts": counts_kept(counts),
            "revision": 1,
            "due_at": now_ms(),
        }
        if self._write(LOADING.values(**values), {"its_id": batch_id}).rowcount != 1:
            raise Conflict("The batch took too long to send. Send it again.")
        return self.batch(batch_id)

    def drop_batch(self, batch_id: UUID) -> bool:
        """Forget a batch that was never started, with its items. False: it was, or is not there."""
        found = self._write(LOCK, {"batch_id": batch_id}).one_or_none()
        if found is None or found.state != BatchState.LOADING:
            return False
        self._write(delete(batch_items).where(batch_items.c.batch_id == batch_id))
        self._write(delete(batches).where(batches.c.id == batch_id))
        return True

    def stale_batches(self, *, older_than: timedelta) -> list[UUID]:
        """Batches whose request ended so long ago without starting them."""
        return list(self._read(STALE, {"older_than": span_ms(older_than)}).scalars())

    def batch(self, batch_id: UUID, *, tenant: str | None = None) -> Batch:
        """One batch. NotFound also for another tenant's, and for one whose request is still being read."""
        row = self._read(ONE, {"batch_id": batch_id}).one_or_none()
        if row is None or (tenant is not None and row.tenant != tenant) or row.state == BatchState.LOADING:
            raise NotFound("there is no such batch")
        return batch_of(row)

    def batches(self, tenant: str, *, limit: int, cursor: str | None = None) -> tuple[list[Batch], str | None]:
        """A page of the tenant's batches, newest first, and the cursor of the next. BadRequest: not our cursor."""
        query: Select[Any] = select(batches).where(batches.c.tenant == tenant, batches.c.state != BatchState.LOADING)
        if cursor is not None:
            at, batch_id = open_cursor(cursor)
            earlier = and_(batches.c.created_at == at, batches.c.id < batch_id)
            query = query.where(batches.c.created_at <= at, or_(batches.c.created_at < at, earlier))
        rows = self._read(query.order_by(batches.c.created_at.desc(), batches.c.id.desc()).limit(limit + 1)).all()
        following = cursor_of(rows[limit - 1]) if len(rows) > limit else None
        return [batch_of(row) for row in rows[:limit]], following

    def batches_by_id(self, ids: Collection[UUID]) -> list[Batch]:
        """Those that are there."""
        found: list[Batch] = []
        for some in chunks(ids):
            found += [batch_of(row) for row in self._read(select(batches).where(batches.c.id.in_(some)))]
        return found

    def alive_batches(self, tenant: str, *, at_most: int) -> int:
        """How many of the tenant's batches have not ended; counted no further than `at_most`."""
        return len(self._read(ALIVE_ONES, {"tenant": tenant, "at_most": at_most}).all())

    def ask_batch(self, batch_id: UUID, *, tenant: str, to: BatchState, start: Collection[BatchState]) -> Batch:
        """Have a batch cancelled, or tried again. Asked twice it is asked once.

        NotFound (also another tenant's); Conflict: it is in another state than one of `start`.
        """
        row = self._write(LOCK, {"batch_id": batch_id}).one_or_none()
        if row is None or row.tenant != tenant or row.state == BatchState.LOADING:
            raise NotFound("there is no such batch")
        if row.state == to:
            return batch_of(row)
        if row.state not in start:
            raise Conflict(f"A batch that is {row.state} cannot be asked for that.", state=row.state)
        values: Columns = {"state": to, "due_at": now_ms(), "updated_at": now_ms(), "revision": batches.c.revision + 1}
        if row.ended_at is not None:
            values |= {"ended_at": None, "run": batches.c.run + 1}
        self._write(THIS.values(**values), {"its_id": batch_id})
        return self.batch(batch_id)

    def results(self, batch: Batch, *, after: int, limit: int) -> list[Line]:
        """A page of items by number, each with its document as it is now."""
        values = {"batch_id": batch.id, "tenant": batch.tenant, "after": after, "at_most": limit}
        return list(self._read(RESULTS, values))

    def counted(self, batch_id: UUID) -> dict[ItemState, int]:
        """Items by state, counted one by one: what the batch's own counts must come to (for tests)."""
        query = select(batch_items.c.state, func.count()).where(batch_items.c.batch_id == batch_id)
        return {ItemState(row[0]): row[1] for row in self._read(query.group_by(batch_items.c.state))}

    def unrelayed_batch_events(self, limit: int) -> list[BatchEvent]:
        """Events that nobody was told of, oldest first."""
        return [batch_event_of(row) for row in self._read(UNRELAYED, {"at_most": limit})]

    def mark_batch_events(self, ids: Collection[int]) -> None:
        """Tick events off."""
        for some in chunks(sorted(ids)):
            self._write(update(batch_events).where(batch_events.c.id.in_(some)).values(relayed_at=now_ms()))

    def batch_events(self, batch_id: UUID) -> list[BatchEvent]:
        """All of one batch's, in order."""
        query = select(batch_events).where(batch_events.c.batch_id == batch_id).order_by(batch_events.c.id)
        return [batch_event_of(row) for row in self._read(query)]
