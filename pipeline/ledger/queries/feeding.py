"""Batches as they are worked off: taken by a lease, their items moved on, ended.

Only the holder of the lease changes items and counts, so the counts are right without counting. What a request wants it
says by the batch's state, which the holder changes only from the state that it found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from uuid import UUID

from sqlalchemy import Uuid, bindparam, func, insert, or_, select

from pipeline.batches import Batch, BatchState, Change, Item, ItemState, NewItem, moved
from pipeline.errors import LeaseLost
from pipeline.ledger.batch_rows import batch_of, counts_kept, counts_of, item_of
from pipeline.ledger.chain import plain
from pipeline.ledger.clock import now_ms, span_ms
from pipeline.ledger.models import batch_events, batch_items, batches, documents, uploads
from pipeline.ledger.queries.base import chunks, locking, updated
from pipeline.ledger.queries.batches import ONE, THIS, BatchQueries
from pipeline.ledger.rows import Columns, Line
from pipeline.states import State

FREE = or_(batches.c.lease_until.is_(None), batches.c.lease_until < now_ms())
DUE = (
    select(batches.c.id)
    .where(batches.c.due_at <= now_ms(), FREE, batches.c.state != BatchState.LOADING)
    .order_by(batches.c.due_at)
    .limit(1)
    .with_for_update(skip_locked=True)
)
TAKE = THIS.where(FREE)
HELD = THIS.where(batches.c.lease_owner == bindparam("its_owner"))
LOCK_HELD = locking(
    select(batches.c.counts).where(
        batches.c.id == bindparam("batch_id"), batches.c.lease_owner == bindparam("its_owner")
    ),
    batches,
)
ITEMS = (
    select(batch_items)
    .where(
        batch_items.c.batch_id == bindparam("batch_id"),
        batch_items.c.state == bindparam("its_state"),
        batch_items.c.seq > bindparam("after"),
    )
    .order_by(batch_items.c.seq)
    .limit(bindparam("at_most"))
)
CHANGE = (
    updated(batch_items)
    .where(
        batch_items.c.batch_id == bindparam("its_batch"),
        batch_items.c.seq == bindparam("its_seq"),
    )
    .values(
        state=bindparam("new_state"),
        document_id=func.coalesce(bindparam("new_document", type_=Uuid), batch_items.c.document_id),
        error=bindparam("new_error"),
    )
)
SHIFT = batch_items.update().where(
    batch_items.c.batch_id == bindparam("its_batch"), batch_items.c.state == bindparam("its_state")
)
DROPPED = (
    select(uploads.c.id, uploads.c.details, uploads.c.created_at, uploads.c.declared_sha256, documents.c.sha256)
    .select_from(uploads.join(documents, documents.c.id == uploads.c.id))
    .where(uploads.c.tenant == bindparam("tenant"), uploads.c.origin == bindparam("origin"))
    .order_by(uploads.c.created_at.desc())
    .limit(10)
)


def origin_of(key: str) -> str:
    """What a drop is found by once its object is gone: keys are too long for an index."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Owned:
    """A document of the tenant's own: where it is, why, and what its bytes are."""

    state: State
    reason: str | None = None
    sha256: str | None = None


class FeedQueries(BatchQueries):
    """For whoever holds a batch."""

    def take_batch(self, *, owner: str, lease: timedelta) -> Batch | None:
        """A batch that is due and that nobody holds, for `lease`: the one that has waited longest."""
        found = self._write(DUE).scalar_one_or_none()
        if found is None:
            return None
        values: Columns = {"lease_owner": owner, "lease_until": now_ms() + span_ms(lease)}
        if self._write(TAKE.values(**values), {"its_id": found}).rowcount != 1:
            return None
        return self.batch(found)

    def release_batch(self, batch_id: UUID, *, owner: str, due_in: timedelta) -> None:
        """Let it go, to be looked at again after `due_in`. Nothing happens if it was lost."""
        values: Columns = {"lease_owner": None, "lease_until": None, "due_at": now_ms() + span_ms(due_in)}
        self._write(HELD.values(**values), {"its_id": batch_id, "its_owner": owner})

    def items_in(self, batch_id: UUID, state: ItemState, *, limit: int, after: int = -1) -> list[Item]:
        """Items of one state, by number."""
        values = {"batch_id": batch_id, "its_state": state, "after": after, "at_most": limit}
        return [item_of(row) for row in self._read(ITEMS, values)]

    def change_items(
        self,
        batch: Batch,
        changes: Sequence[Change] = (),
        *,
        owner: str,
        lease: timedelta,
        added: Sequence[NewItem] = (),
        last_key: str | None = None,
        listed: bool = False,
        truncated: bool = False,
    ) -> Batch:
        """Write what became of items, and what a listing found, with the counts, all or nothing; hold on for `lease`.

        LeaseLost: another one works on the batch; nothing is written.
        """
        counts = self._counts(batch, owner)
        counts = moved(counts, Counter((change.start, change.to) for change in changes))
        for some in chunks(changes):
            self._write(CHANGE, [_change(batch.id, change) for change in some])
        if added:
            self.add_items(batch.id, added, first=sum(counts.values()))
            counts[ItemState.WAITING] = counts.get(ItemState.WAITING, 0) + len(added)
        values: Columns = {} if last_key is None else {"last_key": last_key}
        values |= {"listed_at": now_ms()} if listed else {}
        values |= {"truncated_at": now_ms()} if truncated else {}
        return self._hold(batch, owner, lease, values | {"counts": counts_kept(counts)})

    def shift_items(
        self,
        batch: Batch,
        start: ItemState,
        to: ItemState,
        *,
        owner: str,
        lease: timedelta,
        begun: bool | None = None,
    ) -> Batch:
        """Move all items of one state to another; with `begun`, only those that have a document, or have none.

        LeaseLost, as above.
        """
        counts = self._counts(batch, owner)
        shift = SHIFT.values(state=to)
        if begun is not None:
            shift = shift.where(batch_items.c.document_id.is_not(None) == begun)
        many = self._write(shift, {"its_batch": batch.id, "its_state": start}).rowcount
        return self._hold(batch, owner, lease, {"counts": counts_kept(moved(counts, {(start, to): many}))})

    def _counts(self, batch: Batch, owner: str) -> dict[ItemState, int]:
        row = self._write(LOCK_HELD, {"batch_id": batch.id, "its_owner": owner}).one_or_none()
        if row is None:
            raise LeaseLost
        return counts_of(row.counts)

    def _hold(self, batch: Batch, owner: str, lease: timedelta, values: Columns) -> Batch:
        values |= {"lease_until": now_ms() + span_ms(lease), "updated_at": now_ms()}
        values["revision"] = batches.c.revision + 1
        self._write(HELD.values(**values), {"its_id": batch.id, "its_owner": owner})
        return batch_of(self._read(ONE, {"batch_id": batch.id}).one())

    def turn_batch(self, batch: Batch, *, owner: str, to: BatchState) -> bool:
        """Move the batch on from the state that it was found in. False: somebody has asked for something meanwhile."""
        values: Columns = {"state": to, "updated_at": now_ms(), "revision": batches.c.revision + 1}
        held = {"its_id": batch.id, "its_owner": owner, "its_state": batch.state}
        found = HELD.where(batches.c.state == bindparam("its_state"))
        return self._write(found.values(**values), held).rowcount == 1

    def end_batch(self, batch: Batch, *, owner: str, to: BatchState, kind: str) -> bool:
        """End the batch and write the event that says so, together and once. False: it is not as it was found."""
        now = self._now()
        values: Columns = {"state": to, "updated_at": now, "ended_at": now, "revision": batches.c.revision + 1}
        values |= {"lease_owner": None, "lease_until": None, "due_at": None}
        held = {"its_id": batch.id, "its_owner": owner, "its_state": batch.state, "its_revision": batch.revision}
        found = HELD.where(batches.c.state == bindparam("its_state"), batches.c.revision == bindparam("its_revision"))
        if self._write(found.values(**values), held).rowcount != 1:
            return False
        event: Columns = {"batch_id": batch.id, "tenant": batch.tenant, "run": batch.run, "kind": kind, "at": now}
        event["facts"] = plain({"state": to, "total": batch.total, "counts": counts_kept(batch.counts)})
        self._write(insert(batch_events), event)
        return True

    def owned(self, ids: Collection[UUID], *, tenant: str) -> dict[UUID, Owned]:
        """The tenant's own documents among these, as far as their items need to know."""
        found: dict[UUID, Owned] = {}
        for some in chunks(ids):
            query = select(documents.c.id, documents.c.state, documents.c.reason, documents.c.sha256)
            rows = self._read(query.where(documents.c.id.in_(some), documents.c.tenant == tenant))
            found |= {row.id: Owned(State(row.state), row.reason, row.sha256) for row in rows}
        return found

    def dropped(self, tenant: str, key: str) -> list[Line]:
        """The newest documents that came of what lay under this key of the tenant's drop folder, newest first."""
        return list(self._read(DROPPED, {"tenant": tenant, "origin": origin_of(key)}))


def _change(batch_id: UUID, change: Change) -> Columns:
    return {
        "its_batch": batch_id,
        "its_seq": change.seq,
        "new_state": change.to,
        "new_document": change.document_id,
        "new_error": change.error,
    }
