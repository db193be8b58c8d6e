"""Turns: which of a tenant's documents are given to the queue, and which wait in the ledger.

Each question is bounded: it looks at no more rows than the window has places, whatever waits. They count rows as they
are, so there is no counter to drift; two transactions that decide at once may overfill a window by one each.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Connection, ScalarSelect, bindparam, exists, literal, select

from pipeline.documents import Stranded
from pipeline.ledger.clock import now_ms
from pipeline.ledger.models import TurnNumber, documents
from pipeline.ledger.queries.base import Statements, updated
from pipeline.states import State
from pipeline.turns import USUAL, Turn, Window

NEVER = 1 << 62  # in nudged_at: nobody was told, so the sweeper's search for those that were does not meet it

others = documents.alias("others")
ALONG = "FORCE INDEX (ix_documents_turn)"
GIVEN = others.c.turn.in_([Turn.BULK_ITEM, Turn.BULK])
WAITING = others.c.turn.in_([Turn.HELD_ITEM, Turn.HELD])
OWN = others.c.turn.in_([Turn.BULK, Turn.SINGLE])  # not items of a batch
OF_TENANT = others.c.tenant == bindparam("of_tenant")


def _one_at(kind: ColumnElement[bool], offset: str) -> ScalarSelect[int]:
    """1 if more than `offset` documents of the tenant are such, else NULL: as a column of another question."""
    found = select(literal(1)).where(kind, OF_TENANT).limit(1).offset(bindparam(offset, type_=BigInteger))
    return found.with_hint(others, ALONG, dialect_name="mysql").scalar_subquery()


# Columns for a statement that is sent anyway, so that the answer costs no way of its own.
FULL = _one_at(GIVEN, "room").label("full")
MANY = _one_at(OWN, "few").label("many")
HELD_BACK = exists(select(literal(1)).where(WAITING, OF_TENANT).with_hint(others, ALONG, dialect_name="mysql")).label(
    "held_back"
)

ENTERING = select(now_ms().label("now"), FULL, MANY)
ASKED = select(FULL, HELD_BACK)
NEXT = (
    select(documents.c.id, documents.c.state, documents.c.detected_type)
    .where(
        documents.c.turn == bindparam("its_turn"),
        documents.c.tenant == bindparam("of_tenant"),
        documents.c.available_at <= now_ms(),
    )
    .order_by(documents.c.available_at)
    .limit(bindparam("at_most"))
    # Whoever else gives turns takes the ones behind; and a document that somebody changes right now can wait.
    .with_for_update(skip_locked=True)
    .with_hint(documents, ALONG, dialect_name="mysql")
)
NEW_TURN = bindparam("new_turn", type_=TurnNumber)
GIVE = (
    updated(documents)
    .where(documents.c.id.in_(bindparam("ids", expanding=True)))
    .values(turn=NEW_TURN, nudged_at=now_ms())
)
TAKE_BACK = updated(documents).where(documents.c.id == bindparam("its_id")).values(turn=NEW_TURN, nudged_at=NEVER)
HOLDING = (
    select(documents.c.tenant)
    .where(documents.c.turn == bindparam("its_turn"), documents.c.tenant > bindparam("after"))
    .order_by(documents.c.tenant)
    .limit(1)
    .with_hint(documents, ALONG, dialect_name="mysql")
)
PLACES = (
    select(literal(1))
    .select_from(others)
    .where(GIVEN, OF_TENANT)
    .limit(bindparam("at_most"))
    .with_hint(others, ALONG, dialect_name="mysql")
)


class TurnQueries(Statements):
    """Decides inside the transactions that change a document's state."""

    def __init__(self, connection: Connection, *, writable: bool = True, window: Window = USUAL) -> None:
        super().__init__(connection, writable=writable)
        self._window = window
        self.turned: list[Stranded] = []  # whose turn has come: ring for them once this is committed

    def _entering(self, tenant: str, *, item: bool) -> tuple[int, Turn]:
        """(now, the turn of a document that comes to be on its way): one statement, in place of asking for the time."""
        if self._window.off:
            return self._now(), Turn.SINGLE
        row = self._read(ENTERING, self._places(tenant)).one()
        if not item and row.many is None:
            return row.now, Turn.SINGLE
        if row.full is None:
            return row.now, Turn.BULK_ITEM if item else Turn.BULK
        return row.now, Turn.HELD_ITEM if item else Turn.HELD

    def _places(self, tenant: str, *, without: Turn | None = None) -> dict[str, object]:
        """What FULL and MANY ask with; `without`: as it will be once a document that has this turn is gone."""
        gone = without in (Turn.BULK_ITEM, Turn.BULK)
        window = self._window
        bulk = NEVER if window.off else window.bulk - 1 + gone
        return {"of_tenant": tenant, "room": bulk, "few": max(window.singles - 1, 0)}

    def _pass_on(self, tenant: str, at_most: int = 1) -> int:
        """Give turns to held-back documents of the tenant, the longest waiting first; how many there were."""
        given = 0
        for turn in (Turn.HELD, Turn.HELD_ITEM):
            if given == at_most:
                break
            rows = self._write(NEXT, {"its_turn": turn, "of_tenant": tenant, "at_most": at_most - given}).all()
            if rows:
                self._write(GIVE, {"ids": [row.id for row in rows], "new_turn": turn.given})
            self.turned += [Stranded(row.id, State(row.state), row.detected_type, turn.given) for row in rows]
            given += len(rows)
        return given

    def _give_away(self, document_id: UUID, tenant: str, turn: Turn) -> bool:
        """Let another one of the tenant have the turn of a document that cannot use it now. False: none waits."""
        asked = self._read(ASKED, self._places(tenant, without=turn)).one()
        if not asked.held_back or asked.full is not None or self._pass_on(tenant) == 0:
            return False
        self._write(TAKE_BACK, {"its_id": document_id, "new_turn": turn.taken_back})
        return True

    def holding(self, after: str = "") -> str | None:
        """The next tenant, by name, that has documents held back: one search of the index, however many it has."""
        found = [
            self._read(HOLDING, {"its_turn": turn, "after": after}).scalar_one_or_none()
            for turn in (Turn.HELD, Turn.HELD_ITEM)
        ]
        return min((tenant for tenant in found if tenant is not None), default=None)

    def give_turns(self, tenant: str, *, limit: int) -> list[Stranded]:
        """Fill the tenant's window up with its held-back documents: ring for these once it is committed."""
        places = limit
        if not self._window.off:
            taken = len(self._read(PLACES, {"of_tenant": tenant, "at_most": self._window.bulk}).all())
            places = min(limit, self._window.bulk - taken)
        if places > 0:
            self._pass_on(tenant, places)
        return self.turned
