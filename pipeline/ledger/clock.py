"""The database's clock: the only one that leases and due times are measured by.

Workers' clocks differ, by an hour when something is wrong. If each compared `lease_until` with its own, two would
hold one document. So `now_ms()` is evaluated inside the statement, by the one machine that all of them talk to.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


class now_ms(FunctionElement[int]):  # noqa: N801 - it reads as the SQL function that it is
    """Milliseconds since 1970 in UTC when the statement began, by the database's clock."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms)
def _no_such_dialect(element: now_ms, compiler: SQLCompiler, **_: Any) -> str:
    raise NotImplementedError(f"now_ms() is not written for {compiler.dialect.name}")


@compiles(now_ms, "sqlite")
def _sqlite(element: now_ms, compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"


@compiles(now_ms, "postgresql")
def _postgresql(element: now_ms, compiler: SQLCompiler, **_: Any) -> str:
    # statement_timestamp() is stable, so an index can be searched by it; clock_timestamp() is not, and now() is the
    # time the transaction began.
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT)"


@compiles(now_ms, "mysql")
@compiles(now_ms, "mariadb")
def _mysql(element: now_ms, compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)"  # the session's time zone is UTC: no hour comes twice


def epoch_ms(at: datetime) -> int:
    """An aware datetime as milliseconds since 1970; a naive one is a TypeError."""
    return (at - EPOCH) // MILLISECOND


def instant(ms: int) -> datetime:
    """Milliseconds since 1970 as an aware datetime in UTC."""
    return EPOCH + timedelta(milliseconds=ms)


def maybe_instant(ms: int | None) -> datetime | None:
    """`instant`, where the column may be NULL."""
    return None if ms is None else instant(ms)


def span_ms(span: timedelta) -> int:
    """A duration in whole milliseconds."""
    return span // MILLISECOND
