"""The flow: a worker claims a document, renews its lease, settles what it found, or gives the document back.

The fence: what a worker writes later names the claim it stems from (state, attempt, owner). A worker that was taken
for dead and replaced finds that its claim is gone, and changes nothing.

Each write first locks the document's one row (SQLite: the file), then adds rows that belong to it. All statements
take locks in that order, so no two transactions about one document wait for each other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, bindparam, or_, select

from pipeline.documents import Advance, Job
from pipeline.errors import LeaseLost
from pipeline.ledger.clock import now_ms, span_ms
from pipeline.ledger.models import documents
from pipeline.ledger.queries.base import locking, updated
from pipeline.ledger.queries.documents import ONE
from pipeline.ledger.queries.turns import FULL, HELD_BACK
from pipeline.ledger.queries.writing import ADD_EVENT, Head, Move, WritingQueries, advanced, changed, links
from pipeline.ledger.rows import Columns, Line, document_of
from pipeline.states import WORKING, State, may_move

FREE = or_(documents.c.lease_until.is_(None), documents.c.lease_until < now_ms())
CLAIM = (
    updated(documents)
    .where(
        documents.c.id == bindparam("document_id"),
        documents.c.state.in_(bindparam("ready", expanding=True)),
        FREE,
        documents.c.available_at <= now_ms(),
    )
    .values(
        lease_owner=bindparam("owner"),
        lease_until=now_ms() + bindparam("lease"),
        attempt=documents.c.attempt + 1,
        tries=documents.c.tries + 1,
    )
)
CLAIM_RETURNING = CLAIM.returning(*documents.c)
MINE = and_(
    documents.c.id == bindparam("its_id"),
    documents.c.state == bindparam("its_state"),
    documents.c.attempt == bindparam("its_attempt"),
    documents.c.lease_owner == bindparam("its_owner"),
)
LOCK_MINE = locking(
    select(documents.c.last_seq, documents.c.last_hash, now_ms().label("now"), FULL, HELD_BACK).where(MINE), documents
)
SETTLE = updated(documents).where(MINE)
RENEW = SETTLE.values(lease_until=now_ms() + bindparam("lease"))
RELEASE = SETTLE.values(
    lease_owner=None,
    lease_until=None,
    available_at=now_ms() + bindparam("delay"),
    tries=documents.c.tries - bindparam("uncounted"),
    waiting_for=bindparam("why"),
)


class FlowQueries(WritingQueries):
    """What a worker does with one document. The work itself happens with no transaction open."""

    def claim(self, document_id: Any, *, ready: Collection[State], owner: str, lease: timedelta) -> Job | None:
        """Take the document for `lease`, if it is in a `ready` state, nobody holds it and its time has come.

        One statement by primary key: it costs the same however many wait, and of any number that try at once the
        database lets one through.
        """
        values = {"document_id": document_id, "ready": list(ready), "owner": owner, "lease": span_ms(lease)}
        row = self._claimed(values)
        if row is None:
            return None
        document = document_of(row, self._document_parts(document_id))
        return Job(document, owner, document.attempt, document.state)

    def _claimed(self, values: Columns) -> Line | None:
        if self._connection.dialect.update_returning:
            return self._write(CLAIM_RETURNING, values).one_or_none()
        if self._write(CLAIM, values).rowcount == 0:
            return None
        return self._read(ONE, {"document_id": values["document_id"]}).one()

    def renew(self, job: Job, lease: timedelta) -> bool:
        """Hold on for `lease` from now. False: superseded, stop working."""
        return self._write(RENEW, _fence(job) | {"lease": span_ms(lease)}).rowcount == 1

    def settle(
        self, job: Job, advances: Sequence[Advance], *, keep: timedelta | None = None, actor: str = "worker"
    ) -> Job | None:
        """Write what was decided, all or nothing: the states in order, an event each, verdicts, parts, receipt.

        With `keep`, and if a step can take the document on from where it came to, the lease is held for that long as
        a new claim, which is returned. Raises LeaseLost (nothing is written), ValueError for a move that the graph
        does not have. At the end of its way the document passes its turn on (`turned`).
        """
        moves = _road(job.state, advances)
        tenant, turn = job.document.tenant, job.document.turn
        row = self._write(LOCK_MINE, _fence(job) | self._places(tenant, without=turn)).one_or_none()
        if row is None:
            raise LeaseLost
        head = Head(job.document.id, job.document.tenant, row.last_seq, row.last_hash, row.now)
        rows, ends = links(head, moves, attempt=job.attempt, actor=actor)
        columns = advanced(advances, head.now)
        to: State = columns["state"]
        if keep is not None and to in WORKING:
            columns |= {"lease_owner": job.owner, "lease_until": head.now + span_ms(keep)}
            columns |= {"attempt": job.attempt + 1, "tries": 1}
        if self._write(SETTLE, columns | ends | _fence(job)).rowcount != 1:
            raise LeaseLost
        self._write(ADD_EVENT, rows)
        learnt_parts = self._learn(head.document_id, advances, head.now)
        if to not in WORKING and row.held_back and row.full is None:
            self._pass_on(tenant)
        if keep is None or to not in WORKING:
            return None
        document = changed(job.document, columns, learnt_parts, advances)
        return replace(job, document=document, attempt=document.attempt, state=to)

    def release(self, job: Job, *, delay: timedelta, counted: bool, waiting_for: str | None) -> bool:
        """Give the document back in the state it is in, to be claimed again after `delay`. Raises LeaseLost.

        Not `counted`: the fault lies outside the document, so this attempt is not held against it. If it is, and
        others of the tenant's are held back, then the turn is theirs (`turned`): False, and this one waits for another.
        """
        values = {"delay": span_ms(delay), "uncounted": 0 if counted else 1, "why": waiting_for}
        if self._write(RELEASE, _fence(job) | values).rowcount != 1:
            raise LeaseLost
        turn = job.document.turn
        if turn is None or turn.held or not counted or not delay:
            return True
        return not self._give_away(job.document.id, job.document.tenant, turn)


def _fence(job: Job) -> Columns:
    return {
        "its_id": job.document.id,
        "its_state": job.state,
        "its_attempt": job.attempt,
        "its_owner": job.owner,
    }


def _road(start: State, advances: Sequence[Advance]) -> list[Move]:
    if not advances:
        raise ValueError("nothing was decided: release() gives a document back unchanged")
    moves: list[Move] = []
    for advance in advances:
        if not may_move(start, advance.to):
            raise ValueError(f"{start} never moves to {advance.to}")
        moves.append(Move(start, advance.to, advance.reason, advance.facts))
        start = advance.to
    return moves
