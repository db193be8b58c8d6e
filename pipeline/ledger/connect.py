"""An engine for each kind of database, set so that what is acknowledged is durable and nothing hangs for ever."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url

from pipeline.errors import Misconfigured
from pipeline.ledger.chain import canonical

PATIENCE_S = 30  # for a lock, for a free connection
POLL_S = 0.001  # between two looks whether SQLite's lock is free
SILENCE_S = 60  # a server that says nothing for so long is gone

DRIVERS: Mapping[str, str] = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}

# Execution options of a connection: what its transaction is for (read by _begin, for SQLite).
BEGIN: Mapping[str, dict[str, str]] = {kind: {"ledger_begin": kind} for kind in ("write", "hint", "read")}


def open_engine(url: str, *, echo: bool = False) -> Engine:
    """An engine for the URL; connects to nothing yet. Raises Misconfigured for a URL that names no database we know."""
    target = _target(url)
    common: dict[str, Any] = {
        "echo": echo,
        "hide_parameters": True,  # no client's file name in an error or a log line
        "json_serializer": canonical,
        "pool_size": 5,
        "max_overflow": 25,
        "pool_timeout": PATIENCE_S,
        "pool_use_lifo": True,
    }
    match target.get_backend_name():
        case "sqlite":
            return _sqlite(target, common)
        case "postgresql":
            arguments: dict[str, Any] = {
                "connect_timeout": 10,
                "tcp_user_timeout": SILENCE_S * 1000,
                "keepalives_idle": 20,
                "options": f"-c lock_timeout={PATIENCE_S}s",
            }
        case _:
            arguments = {
                "charset": "utf8mb4",
                "connect_timeout": 10,
                "read_timeout": SILENCE_S,
                "write_timeout": SILENCE_S,
                # UTC, or an hour would come twice in autumn; strict, or what is too long would be cut in silence.
                "init_command": "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', "
                f"innodb_lock_wait_timeout = {PATIENCE_S}",
            }
    return create_engine(target, isolation_level="READ COMMITTED", pool_pre_ping=True, connect_args=arguments, **common)


def _target(url: str) -> URL:
    try:
        target = make_url(url)
        target = target.set(drivername=DRIVERS[target.drivername])
    except (exc.ArgumentError, KeyError, ValueError):
        # The URL itself may hold a password: it is not repeated here, nor is the error that quotes it.
        raise Misconfigured(
            "AIRLOCK_DATABASE_URL must begin with sqlite://, postgresql://, mysql:// or mariadb://."
        ) from None
    if target.get_backend_name() == "sqlite" and target.database in (None, "", ":memory:"):
        raise Misconfigured("SQLite needs a file: in memory each connection would have a database of its own.")
    return target


def _sqlite(target: URL, common: dict[str, Any]) -> Engine:
    engine = create_engine(target, connect_args={"timeout": PATIENCE_S}, **common)
    event.listen(engine, "connect", _set_sqlite)
    event.listen(engine, "begin", _begin)
    return engine


def _set_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # The driver's own idea of when a transaction begins is off: it would begin only at the first write, and read
    # before that outside of any. _begin says it instead.
    connection.isolation_level = None
    # Setting WAL needs the file to itself, and does not wait for its turn; once set it stays set in the file. Whoever
    # finds it taken just now finds WAL set by the other when it comes to write.
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    kind = connection.get_execution_options().get("ledger_begin", "read")
    if kind == "read":
        connection.exec_driver_sql("BEGIN")
        return
    driver: Any = connection.connection.driver_connection
    # FULL: a commit survives the power. With NORMAL the last ones would be lost, which is all the same to a hint; the
    # next FULL commit takes those before it to the disk too.
    driver.execute(f"PRAGMA synchronous = {'NORMAL' if kind == 'hint' else 'FULL'}")
    # SQLite itself asks less and less often, up to ten times a second: whoever waits longest would wait on, and the
    # file be free meanwhile.
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        # IMMEDIATE takes the write lock at once, and waits for it. A transaction that reads first and then wants to
        # write cannot wait: what it has read may be stale, and SQLite fails it.
        deadline = time.monotonic() + PATIENCE_S
        while not _taken(driver):
            if time.monotonic() > deadline:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # fails once more, with SQLAlchemy's face
                return
            time.sleep(POLL_S)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {int(PATIENCE_S * 1000)}")


def _taken(driver: sqlite3.Connection) -> bool:
    try:
        driver.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    return True
