"""The only commit. A Ledger opens transactions, and says LedgerUnavailable when the database cannot be had."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator

from sqlalchemy import exc, text

from pipeline.errors import Conflict, LedgerUnavailable
from pipeline.ledger.connect import BEGIN, PATIENCE_S, open_engine
from pipeline.ledger.queries import Transaction
from pipeline.turns import USUAL, Window

# What a caller got wrong, not the database: these keep their own face.
OURS = (exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError)


class Ledger:
    """One database. Safe to use from several threads; a forked child gets connections of its own."""

    def __init__(self, url: str, *, echo: bool = False, window: Window = USUAL) -> None:
        """`url` is sqlite:///PATH, postgresql://..., mysql://... or mariadb://...; nothing is connected yet."""
        self._window = window
        self._engine = open_engine(url, echo=echo)
        # Two processes that talk over one inherited socket would read each other's answers.
        ledger = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _begin_anew(ledger()))
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def begin(self, *, durable: bool = True) -> Iterator[Transaction]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Not `durable`: what is written may be lost with the power (in SQLite, which then need not wait for the disk).
        For what only keeps work from being done twice: a lease, a tick. It is never lost to a killed process, nor out
        of order: whatever a later durable transaction has seen is as durable as that one.

        Raises LedgerUnavailable when the database cannot be reached, is locked for longer than 30 s, or broke a
        deadlock; then nothing was written, unless the connection was lost during the commit itself.
        """
        with (
            _translated(),
            self._in_turn(),
            self._engine.connect().execution_options(**BEGIN["write" if durable else "hint"]) as connection,
        ):
            transaction = Transaction(connection, window=self._window)
            yield transaction
            if transaction.broken is not None:
                raise Conflict("the transaction had failed: nothing of it was kept") from transaction.broken
            connection.commit()

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        # Writers of one SQLite file go one by one. Those of one process take turns here, where a free lock wakes the
        # next; in the database they could only ask again and again, all of them.
        if self._engine.dialect.name != "sqlite":
            yield
            return
        if not self._turn.acquire(timeout=PATIENCE_S):
            raise LedgerUnavailable
        turn = self._turn
        try:
            yield
        finally:
            turn.release()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """One consistent look: takes no write lock in SQLite, and refuses to write (ValueError)."""
        with _translated(), self._engine.connect().execution_options(**BEGIN["read"]) as connection:
            yield Transaction(connection, writable=False)

    def upgrade(self) -> None:
        """Bring the tables to the newest revision. Of several processes that start at once one does it, in turn."""
        from pipeline.ledger import schema  # with it comes alembic: ten MiB that a process at work never needs

        with _translated(), self._engine.connect().execution_options(**BEGIN["write"]) as connection:
            schema.upgrade(connection)

    def revision(self) -> tuple[str | None, str]:
        """The tables' revision (None: there are none) and the newest this code has."""
        from pipeline.ledger import schema

        with _translated(), self._engine.connect().execution_options(**BEGIN["read"]) as connection:
            return schema.current(connection), schema.newest()

    def ping(self) -> None:
        """Raises LedgerUnavailable unless the database answers."""
        with _translated(), self._engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def dispose(self) -> None:
        """Close the connections that are not in use."""
        self._engine.dispose()


def _begin_anew(ledger: Ledger | None) -> None:
    if ledger is not None:
        ledger._engine.dispose(close=False)  # closing them would end the parent's sessions
        ledger._turn = threading.Lock()  # whoever held the parent's does not exist here


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OURS:
        raise
    except (exc.DBAPIError, exc.TimeoutError) as error:  # TimeoutError: every connection of the pool is in use
        raise LedgerUnavailable(
            "The database cannot be reached, or is busy: see that it runs, and that AIRLOCK_DATABASE_URL is right."
        ) from error
