"""What the sweeper and the metrics ask: what stands still, what is due, what is there."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from sqlalchemy import bindparam, func, select

from pipeline.documents import Document, Stranded
from pipeline.ledger.clock import now_ms, span_ms
from pipeline.ledger.models import documents
from pipeline.ledger.queries.base import Statements, chunks, updated
from pipeline.ledger.queries.flow import FREE
from pipeline.ledger.queries.turns import NEVER
from pipeline.ledger.rows import Line
from pipeline.states import WORKING, State
from pipeline.storage.base import ObjectRef
from pipeline.turns import Turn

FOUND = (documents.c.id, documents.c.state, documents.c.detected_type, documents.c.turn, documents.c.nudged_at)
IDLE = (
    select(*FOUND)
    .where(
        documents.c.state == bindparam("state"),
        documents.c.nudged_at <= now_ms() - bindparam("idle"),
        FREE,
        documents.c.available_at <= now_ms(),
    )
    .order_by(documents.c.nudged_at)
    .limit(bindparam("at_most"))
    .with_for_update(skip_locked=True)  # two sweepers share the work, and neither waits for a worker
)
# A holder that is gone is not waited for: its document is rung for once as soon as the lease is over.
LAPSED = (
    select(*FOUND)
    .where(documents.c.lease_until < now_ms(), documents.c.nudged_at <= documents.c.lease_until)
    .order_by(documents.c.lease_until)
    .limit(bindparam("at_most"))
    .with_for_update(skip_locked=True)
)
NUDGED = updated(documents).where(documents.c.id.in_(bindparam("ids", expanding=True))).values(nudged_at=now_ms())
TO_ERASE = (
    select(documents).where(documents.c.erase_at <= now_ms()).order_by(documents.c.erase_at).limit(bindparam("at_most"))
)
ERASED = updated(documents).where(documents.c.id == bindparam("its_id")).values(erase_at=None, erased_at=now_ms())
ERASED_IN = ERASED.where(documents.c.state == bindparam("its_state"))
TO_EXPIRE = (
    select(documents.c.id)
    .where(documents.c.state == State.AVAILABLE, documents.c.expires_at <= now_ms())
    .order_by(documents.c.expires_at)
    .limit(bindparam("at_most"))
)
SOURCES = select(documents.c.id, documents.c.source_bucket, documents.c.source_key, documents.c.source_version).where(
    documents.c.erased_at.is_(None)
)
COUNTS = select(documents.c.state, func.count()).group_by(documents.c.state)
OLDEST = (
    select(documents.c.state, now_ms() - func.min(documents.c.updated_at))
    .where(documents.c.state.in_(sorted(WORKING)), documents.c.nudged_at < NEVER)
    .group_by(documents.c.state)
)
HELD = select(func.count()).where(documents.c.turn.in_([Turn.HELD_ITEM, Turn.HELD]))
WAITING = (
    select(documents.c.waiting_for, func.count())
    .where(documents.c.waiting_for.is_not(None))
    .group_by(documents.c.waiting_for)
)


class SweepQueries(Statements):
    """Each list is bounded, oldest first, and read along an index."""

    def stranded(self, *, states: Collection[State], idle: timedelta, limit: int) -> list[Stranded]:
        """Documents whose holder is gone, and those that nobody was told of since `idle` although their time has come.
        Those that are held back wait for their turn, not for a message.

        They count as nudged from now on: send the messages after this commits, or lose one round of nudging.
        """
        found: list[Line] = [row for row in self._write(LAPSED, {"at_most": limit}) if row.state in states]
        for state in sorted(states):  # one search of the index for each: over several states it would have to sort
            values = {"state": state, "idle": span_ms(idle), "at_most": limit}
            found += self._write(IDLE, values).all()
        once = {row.id: row for row in found}
        chosen = sorted(once.values(), key=lambda row: row.nudged_at)[:limit]
        for some in chunks([row.id for row in chosen]):
            self._write(NUDGED, {"ids": some})
        return [_stranded(row) for row in chosen]

    def due_for_erasure(self, limit: int) -> list[Document]:
        """Documents whose objects are to be removed by now; `Document.state` says which of them."""
        return self._with_parts(self._read(TO_ERASE, {"at_most": limit}).all())

    def erased(self, document_id: UUID, *, state: State | None = None) -> bool:
        """Record that the objects are gone.

        Give the `state` that the removal was decided in: if the document has moved since (its owner deleted it
        while only the quarantine copy was being removed), then nothing is recorded, the answer is False, and it
        stays due.
        """
        if state is None:
            return self._write(ERASED, {"its_id": document_id}).rowcount == 1
        return self._write(ERASED_IN, {"its_id": document_id, "its_state": state}).rowcount == 1

    def due_for_expiry(self, limit: int) -> list[UUID]:
        """Available documents whose time is up."""
        return list(self._read(TO_EXPIRE, {"at_most": limit}).scalars())

    def states(self, ids: Collection[UUID]) -> dict[UUID, State]:
        """Where each of these documents is; one that has no row is not named."""
        found: dict[UUID, State] = {}
        for some in chunks(ids):
            query = select(documents.c.id, documents.c.state).where(documents.c.id.in_(some))
            found |= {row.id: State(row.state) for row in self._read(query)}
        return found

    def known(self, ids: Collection[UUID]) -> set[UUID]:
        """Which of the ids have a row."""
        return set(self.states(ids))

    def pinned(self, ids: Collection[UUID]) -> dict[UUID, ObjectRef]:
        """What each of these documents has in quarantine; one whose objects are erased is not named."""
        found: dict[UUID, ObjectRef] = {}
        for some in chunks(ids):
            rows = self._read(SOURCES.where(documents.c.id.in_(some)))
            found |= {row.id: ObjectRef(row.source_bucket, row.source_key, row.source_version) for row in rows}
        return found

    def waiting(self, ids: Collection[UUID]) -> list[Stranded]:
        """Which of these documents a worker could take on right now, also those whose turn has not come."""
        found: list[Stranded] = []
        for some in chunks(ids):
            query = select(*FOUND).where(
                documents.c.id.in_(some),
                documents.c.state.in_(sorted(WORKING)),
                FREE,
                documents.c.available_at <= now_ms(),
            )
            found += [_stranded(row) for row in self._read(query)]
        return found

    def tenants(self) -> list[str]:
        """Everybody who has a document. Reads a whole index: for `doctor --deep` and tests."""
        return list(self._read(select(documents.c.tenant).distinct().order_by(documents.c.tenant)).scalars())

    def counts(self) -> dict[State, int]:
        """How many documents are in each state; a state that none is in is not named."""
        return {State(state): count for state, count in self._read(COUNTS)}

    def oldest_waiting(self) -> dict[State, float]:
        """For each working state that a document is in: for how many seconds the oldest has been in it. Those that are
        held back wait for others of their tenant's, not for a worker: they do not count."""
        return {State(state): max(age, 0) / 1000 for state, age in self._read(OLDEST)}

    def held(self) -> int:
        """How many documents are held back: their tenant has so many in the queue."""
        return int(self._read(HELD).scalar_one())

    def waiting_for(self) -> dict[str, int]:
        """How many documents wait for what: the code of the error that made each wait, e.g. "engine-unavailable"."""
        return {row[0]: row[1] for row in self._read(WAITING)}


def _stranded(row: Line) -> Stranded:
    return Stranded(row.id, State(row.state), row.detected_type, row.turn)
