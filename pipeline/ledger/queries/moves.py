"""How a document comes in, and how it moves when no worker moves it: a person, the retention, the sweeper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import bindparam, delete, insert, select

from pipeline.documents import Document, Event, Json, NewDocument
from pipeline.errors import Conflict, NotFound, ObjectExists
from pipeline.ledger.clock import now_ms
from pipeline.ledger.models import documents, events, parts
from pipeline.ledger.queries.base import locking, updated
from pipeline.ledger.queries.turns import NEVER
from pipeline.ledger.queries.writing import Head, Move, WritingQueries, entering, learnt, refuse_unstorable
from pipeline.ledger.rows import Columns, Line, new_document_columns
from pipeline.states import WORKING, Reason, State, may_move
from pipeline.turns import Turn

ADD = insert(documents)
LOCK = locking(
    select(
        documents.c.tenant,
        documents.c.state,
        documents.c.attempt,
        documents.c.reason,
        documents.c.erased_at,
        documents.c.batch_id,
        documents.c.last_seq,
        documents.c.last_hash,
        now_ms().label("now"),
    ).where(documents.c.id == bindparam("document_id")),
    documents,
)
MOVE = updated(documents).where(documents.c.id == bindparam("its_id"))
DROP_ALL_PARTS = delete(parts).where(parts.c.document_id == bindparam("its_id"))
FAILED_IN = select(events.c.start).where(
    events.c.document_id == bindparam("document_id"), events.c.seq == bindparam("last")
)


class MoveQueries(WritingQueries):
    """Moves that need no lease. They drop any lease: its holder is fenced off, and finds out when it settles."""

    def insert(self, new: NewDocument, *, actor: str = "upload") -> Event:
        """Record a document whose bytes lie in quarantine, with its first event. ObjectExists: the id is taken.

        The event's `turn` says whether to ring for it, and where. BadRequest: a text of the client's that cannot be
        kept as it is.
        """
        columns = new_document_columns(new)
        refuse_unstorable(columns)
        now, turn = self._entering(new.tenant, item=new.batch_id is not None)
        head = Head(new.id, new.tenant, -1, "", now)
        columns |= entering(new.state, now) | {"created_at": now, "attempt": 0} | _with(turn)
        # The row first (the event refers to it), already with the head that its first event will have.
        first = Move(None, new.state, None, {"via": new.via})
        return replace(self._insert_with(columns, head, first, actor), turn=turn)

    def _insert_with(self, columns: Columns, head: Head, first: Move, actor: str) -> Event:
        row, ends = self._sealed(head, first, attempt=0, actor=actor)
        taken = ObjectExists("there is a document with this id already")
        self._write_once(ADD, columns | ends, taken)
        return self._appended(head, first, row)

    def move(
        self,
        document_id: UUID,
        *,
        tenant: str | None,
        to: State,
        actor: str,
        reason: Reason | None = None,
        detail: str | None = None,
        facts: Mapping[str, Json] | None = None,
        expires_in: timedelta | None = None,
        erase_in: timedelta | None = None,
    ) -> Event:
        """Move the document, whoever holds it. NotFound (also another tenant's), Conflict: the graph has no such edge.

        A failed document goes back to work by `replay` only, which knows where it failed.
        """
        row = self._locked(document_id, tenant)
        start = State(row.state)
        if not may_move(start, to) or (start is State.FAILED and to in WORKING):
            raise Conflict(f"a document that is {start} cannot become {to}", state=str(start))
        columns = entering(to, row.now, reason=reason, detail=detail)
        columns |= learnt(row.now, expires_in=expires_in, erase_in=erase_in)
        if start not in WORKING and to in WORKING:
            columns |= self._anew(row)
        return self._move(document_id, row, Move(start, to, reason, facts or {}), columns, actor)

    def replay(self, document_id: UUID, *, tenant: str | None = None, actor: str = "api") -> Document:
        """Send a FAILED document back to the state it failed in, with all its tries before it.

        What trying again does not mend (PROCESSING_ERROR: the policy has come to ask for another scanner, a derived
        part is gone) begins anew, with nothing derived from it.

        NotFound (also another tenant's); Conflict: it is not FAILED, or its bytes are erased.
        """
        row = self._locked(document_id, tenant)
        if row.state != State.FAILED:
            raise Conflict(f"only a failed document can be replayed; this one is {row.state}", state=row.state)
        if row.erased_at is not None:
            raise Conflict("the document's bytes are erased: it cannot be replayed", state=row.state)
        failed_in = self._read(FAILED_IN, {"document_id": document_id, "last": row.last_seq}).scalar_one()
        to = State(failed_in)
        if row.reason == Reason.PROCESSING_ERROR and to is not State.RECEIVED:
            to = State.QUARANTINED
            self._write(DROP_ALL_PARTS, {"its_id": document_id})
        # Its bytes are needed again: an erasure that was due for the failed document is off.
        columns = entering(to, row.now) | {"erase_at": None} | self._anew(row)
        self._move(document_id, row, Move(State.FAILED, to, None, {}), columns, actor)
        return self.document(document_id)

    def _anew(self, row: Line) -> Columns:
        """A document that was at rest takes its place among the tenant's others."""
        return _with(self._entering(row.tenant, item=row.batch_id is not None)[1])

    def _locked(self, document_id: UUID, tenant: str | None) -> Line:
        row = self._write(LOCK, {"document_id": document_id}).one_or_none()
        if row is None or (tenant is not None and row.tenant != tenant):
            raise NotFound("there is no such document")
        return row

    def _move(self, document_id: UUID, row: Line, move: Move, columns: Columns, actor: str) -> Event:
        head = Head(document_id, row.tenant, row.last_seq, row.last_hash, row.now)
        sealed, ends = self._sealed(head, move, attempt=row.attempt, actor=actor)
        self._write(MOVE.values(**columns, **ends), {"its_id": document_id})
        return replace(self._appended(head, move, sealed), turn=columns.get("turn"))


def _with(turn: Turn) -> Columns:
    return {"turn": turn} | ({"nudged_at": NEVER} if turn.held else {})
