"""Turns: whose message may be in the broker; and batches.

Revision 0004, after 0003. It can be run again where it broke off half-way: MariaDB commits each table by itself.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IN_MARIADB: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
Sha256 = sa.String(64)
Tenant = sa.String(63)
Word = sa.String(32)
Serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")

ON_ITS_WAY = ("received", "quarantined", "clean", "recognized", "approved")


def upgrade() -> None:
    inspected = sa.inspect(op.get_bind())
    if "turn" not in {column["name"] for column in inspected.get_columns("documents")}:
        op.add_column("documents", sa.Column("turn", sa.SmallInteger))
    if "ix_documents_turn" not in {index["name"] for index in inspected.get_indexes("documents")}:
        there = sa.text("turn IS NOT NULL")
        op.create_index(
            "ix_documents_turn",
            "documents",
            ["turn", "tenant", "available_at"],
            sqlite_where=there,
            postgresql_where=there,
        )
    # Whatever is on its way was rung for: it counts as given to the queue, among many.
    documents = sa.table("documents", sa.column("turn"), sa.column("state"))
    op.execute(documents.update().where(documents.c.state.in_(ON_ITS_WAY), documents.c.turn.is_(None)).values(turn=3))
    if "origin" not in {column["name"] for column in inspected.get_columns("uploads")}:
        op.add_column("uploads", sa.Column("origin", Sha256))
    if "ix_uploads_origin" not in {index["name"] for index in inspected.get_indexes("uploads")}:
        op.create_index("ix_uploads_origin", "uploads", ["tenant", "origin", "created_at"])
    for name in ("batch_events", "batch_items", "batches"):
        op.drop_table(name, if_exists=True)
    _create_tables()


def _create_tables() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant", Tenant, nullable=False),
        sa.Column("name", sa.String(1024)),
        sa.Column("state", Word, nullable=False),
        sa.Column("source", Word, nullable=False),
        sa.Column("correlation_id", sa.String(128), nullable=False),
        sa.Column("prefix", sa.String(1024)),
        sa.Column("last_key", sa.String(1024), nullable=False),
        sa.Column("listed_at", sa.BigInteger),
        sa.Column("truncated_at", sa.BigInteger),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        **IN_MARIADB,
    )
    op.create_index("ix_batches_listing", "batches", ["tenant", "created_at", "id"])
    due = sa.text("due_at IS NOT NULL")
    op.create_index("ix_batches_due", "batches", ["due_at"], sqlite_where=due, postgresql_where=due)
    op.create_table(
        "batch_items",
        sa.Column("batch_id", sa.Uuid, sa.ForeignKey("batches.id"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("line", sa.Integer),
        sa.Column("key", sa.String(1024)),
        sa.Column("version", sa.String(1024)),
        sa.Column("name", sa.String(1024)),
        sa.Column("declared_type", sa.String(255)),
        sa.Column("declared_sha256", Sha256),
        sa.Column("document_id", sa.Uuid),
        sa.Column("error", sa.String(64)),
        sa.Column("problem", sa.String(255)),
        **IN_MARIADB,
    )
    op.create_index("ix_batch_items_state", "batch_items", ["batch_id", "state", "seq"])
    op.create_table(
        "batch_events",
        sa.Column("id", Serial, primary_key=True),
        sa.Column("batch_id", sa.Uuid, sa.ForeignKey("batches.id"), nullable=False),
        sa.Column("tenant", Tenant, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("relayed_at", sa.BigInteger),
        sa.UniqueConstraint("batch_id", "run", name="uq_batch_events_batch_id"),
        **IN_MARIADB,
    )
    unrelayed = sa.text("relayed_at IS NULL")
    op.create_index(
        "ix_batch_events_unrelayed",
        "batch_events",
        ["relayed_at", "id"],
        sqlite_where=unrelayed,
        postgresql_where=unrelayed,
    )


def downgrade() -> None:
    for name in ("batch_events", "batch_items", "batches"):
        op.drop_table(name)
    op.drop_index("ix_uploads_origin", "uploads")
    op.drop_column("uploads", "origin")
    # Held back, a document was never rung for: the sweeper of the older version finds it by this.
    op.execute(sa.text("UPDATE documents SET nudged_at = 0 WHERE turn < 2"))
    op.drop_index("ix_documents_turn", "documents")
    op.drop_column("documents", "turn")
