"""Turns: whose message may be in the broker; and batches.

Revision 0004, after 0003. It can be run again where it broke off half-way: MariaDB commits each table by itself.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

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


def downgrade() -> None:
    # Held back, a document was never rung for: the sweeper of the older version finds it by this.
    op.execute(sa.text("UPDATE documents SET nudged_at = 0 WHERE turn < 2"))
    op.drop_index("ix_documents_turn", "documents")
    op.drop_column("documents", "turn")
