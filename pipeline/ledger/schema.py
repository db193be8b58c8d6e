"""The tables' revisions: run by `Ledger.upgrade()`, shipped inside the package."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import TimeoutError as NoTurn

from pipeline.errors import Misconfigured

LOCK = 0x41_49_52_4C_4F_43_4B  # "AIRLOCK": the number of the advisory lock in PostgreSQL
TURN_S = 300

_one_thread = threading.Lock()  # alembic keeps the migration that runs in module globals


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's settings, without a file; `connection` is what the migrations run on."""
    config = Config()
    config.set_main_option("script_location", "pipeline.ledger:migrations")
    config.attributes["connection"] = connection
    return config


def newest() -> str:
    """The newest revision that this code has."""
    head = ScriptDirectory.from_config(configuration()).get_current_head()
    if head is None:
        raise RuntimeError("the package holds no migrations")
    return head


def current(connection: Connection) -> str | None:
    """The revision that the tables are at. Raises Misconfigured for one that this code has never heard of."""
    found = MigrationContext.configure(connection).get_current_revision()
    script = ScriptDirectory.from_config(configuration())
    if found is not None and found not in {one.revision for one in script.walk_revisions()}:
        raise Misconfigured(
            f"The database is at revision {found:.32}, which this version does not know: a newer Airlock has upgraded "
            "it. Run that one, or restore the backup from before the upgrade."
        )
    return found


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run what is missing and commit it, one process at a time."""
    with _one_thread, _in_turn(connection):
        current(connection)
        command.upgrade(configuration(connection), to)
        connection.commit()


@contextlib.contextmanager
def _in_turn(connection: Connection) -> Iterator[None]:
    match connection.dialect.name:
        case "postgresql":
            connection.execute(text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": f"{TURN_S}s"})
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            yield
        case "mysql":
            # A change of tables commits by itself there, so the lock must be the session's, not the transaction's.
            lock = {"lock": "airlock-upgrade", "wait": TURN_S}
            if connection.execute(text("SELECT GET_LOCK(:lock, :wait)"), lock).scalar() != 1:
                raise NoTurn("another process is upgrading the tables")
            try:
                yield
            finally:
                connection.execute(text("SELECT RELEASE_LOCK(:lock)"), lock)
        case _:
            connection.execute(text("SELECT 1"))  # BEGIN IMMEDIATE: the file is ours until the commit
            yield
