"""Messages about objects that nobody can read, or that cannot be taken.

Revision 0003, after 0002. It can be run again where it broke off half-way: MariaDB commits each table by itself.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

IN_MARIADB: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("reason", sa.String(255), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **IN_MARIADB,
    )
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("dead_letters")}
    for name, columns in (("ix_dead_letters_last", ["last_at"]), ("ix_dead_letters_source", ["source"])):
        if name not in there:
            op.create_index(name, "dead_letters", columns)


def downgrade() -> None:
    op.drop_table("dead_letters")
