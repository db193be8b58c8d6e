"""Uploads that take several requests, and what a document remembers of its way in.

Revision 0002, after 0001. It can be run again where it broke off half-way: MariaDB commits each table by itself. The
table that 0001 made for uploads was never written to.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

IN_MARIADB: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
Sha256 = sa.String(64)
Tenant = sa.String(63)
Word = sa.String(32)


def upgrade() -> None:
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("documents")}
    for column in (sa.Column("declared_sha256", Sha256), sa.Column("batch_id", sa.Uuid)):
        if column.name not in there:
            op.add_column("documents", column)
    op.drop_table("upload_parts", if_exists=True)
    op.drop_table("uploads", if_exists=True)
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant", Tenant, nullable=False),
        sa.Column("method", Word, nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("name", sa.String(1024)),
        sa.Column("declared_type", sa.String(255)),
        sa.Column("size", sa.BigInteger),
        sa.Column("declared_sha256", Sha256),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("version", sa.String(1024)),
        sa.Column("batch_id", sa.Uuid),
        sa.Column("correlation_id", sa.String(128), nullable=False),
        sa.Column("lock_owner", sa.String(255)),
        sa.Column("lock_until", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("cleaned_at", sa.BigInteger),
        **IN_MARIADB,
    )
    op.create_index("ix_uploads_expiry", "uploads", ["state", "expires_at"])
    op.create_index("ix_uploads_cleaning", "uploads", ["cleaned_at", "state"])
    op.create_index("ix_uploads_tenant", "uploads", ["tenant", "state"])
    op.create_table(
        "upload_parts",
        sa.Column("upload_id", sa.Uuid, sa.ForeignKey("uploads.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("version", sa.String(1024), nullable=False),
        sa.Column("sha256", Sha256),
        sa.Column("piece", Word),
        **IN_MARIADB,
    )


def downgrade() -> None:
    op.drop_table("upload_parts")
    op.drop_table("uploads")
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant", Tenant, nullable=False),
        sa.Column("method", Word, nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("name", sa.String(1024)),
        sa.Column("declared_type", sa.String(255)),
        sa.Column("declared_size", sa.BigInteger),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        **IN_MARIADB,
    )
    op.create_index("ix_uploads_expiry", "uploads", ["state", "expires_at"])
    op.drop_column("documents", "batch_id")
    op.drop_column("documents", "declared_sha256")
