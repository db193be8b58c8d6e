"""What the tables have in common: one metadata, and the kinds of columns.

Times are UTC milliseconds since 1970; states and reasons are their words, so a new one is no migration. Names of
constraints are fixed by a convention, so that a migration can name them on every database.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Integer, MetaData, SmallInteger, String
from sqlalchemy.types import TypeDecorator

from pipeline.turns import Turn

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

# MariaDB's own default compares without case, and would take tenant `A` for tenant `a`: compare by code point.
IN_MARIADB: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}

Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only an INTEGER primary key by itself
Sha256 = String(64)
Tenant = String(63)
Word = String(32)  # a state, a reason, a verdict
MediaType = String(255)
FileName = String(1024)  # code points


class TurnNumber(TypeDecorator[Turn]):
    """A Turn as its number."""

    impl = SmallInteger
    cache_ok = True

    def process_bind_param(self, value: Turn | None, _: object) -> int | None:
        """To the database: drivers do not all know what an enumeration is."""
        return None if value is None else int(value)

    def process_result_value(self, value: int | None, _: object) -> Turn | None:
        """From the database."""
        return None if value is None else Turn(value)
