"""What every group of queries stands on: one connection inside one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import Connection, CursorResult, Executable, Select, Table, Update, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from pipeline.documents import Document, Part
from pipeline.ledger.clock import now_ms
from pipeline.ledger.models import parts
from pipeline.ledger.rows import document_of, part_of

T = TypeVar("T")
Answer: TypeAlias = CursorResult[*tuple[Any, ...]]

AT_ONCE = 400  # ids in one statement: below every database's limit of variables and of depth
NOW = select(now_ms().label("now"))
BY_KEY = "FORCE INDEX (PRIMARY)"


def updated(table: Table) -> Update:
    """An UPDATE of rows that are named by their key.

    MySQL and MariaDB choose an index by what seems cheap, and lock every row that they look at on the way: of two
    transactions about different documents, each then waits for the other's. Told to go by the key, they lock no more.
    """
    return update(table).with_hint(BY_KEY, dialect_name="mysql")


def locking(statement: Select[Any], table: Table) -> Select[Any]:
    """A SELECT ... FOR UPDATE of rows that are named by their key; see `updated`."""
    return statement.with_for_update().with_hint(table, BY_KEY, dialect_name="mysql")


class Statements:
    """Runs statements on one connection, and knows when the transaction can no longer be committed."""

    def __init__(self, connection: Connection, *, writable: bool = True) -> None:
        self._connection = connection
        self._writable = writable
        self.broken: Exception | None = None

    def _read(self, statement: Executable, values: Mapping[str, Any] | None = None) -> Answer:
        return self._run(statement, values)

    def _write(
        self, statement: Executable, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> Answer:
        if not self._writable:
            raise ValueError("this transaction only reads: use Ledger.begin()")
        return self._run(statement, values)

    def _write_once(self, statement: Executable, values: Mapping[str, Any], taken: Exception) -> Answer:
        """Write a row whose key may be taken: then raise `taken`, and this transaction is over."""
        try:
            return self._write(statement, values)
        except IntegrityError as error:
            raise taken from error

    def _run(self, statement: Executable, values: Any) -> Answer:
        try:
            return self._connection.execute(statement, values)
        except DBAPIError as error:
            # PostgreSQL answers the COMMIT of a failed transaction with a silent ROLLBACK: begin() must not try.
            self.broken = error
            raise

    def _now(self) -> int:
        return int(self._read(NOW).scalar_one())

    def _parts_of(self, ids: Collection[UUID]) -> dict[UUID, list[Part]]:
        found: dict[UUID, list[Part]] = {}
        for some in chunks(ids):
            rows = self._read(
                select(parts).where(parts.c.document_id.in_(some)).order_by(parts.c.document_id, parts.c.name)
            )
            for row in rows:
                found.setdefault(row.document_id, []).append(part_of(row))
        return found

    def _with_parts(self, rows: Sequence[Any]) -> list[Document]:
        found = self._parts_of([row.id for row in rows])
        return [document_of(row, found.get(row.id, ())) for row in rows]


def chunks(items: Collection[T], size: int = AT_ONCE) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
