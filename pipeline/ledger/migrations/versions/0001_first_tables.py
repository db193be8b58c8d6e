"""The first tables.

Revision 0001, after nothing. It can be run again where it broke off half-way: MariaDB commits each table by itself.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

IN_MARIADB: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
Serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Sha256 = sa.String(64)
Tenant = sa.String(63)
Word = sa.String(32)
MediaType = sa.String(255)
FileName = sa.String(1024)


def _index(name: str, table: str, columns: list[str], where: str | None = None) -> None:
    """An index, over part of the rows where the database has that."""
    partial: dict[str, Any] = (
        {} if where is None else {"sqlite_where": sa.text(where), "postgresql_where": sa.text(where)}
    )
    op.create_index(name, table, columns, if_not_exists=True, **partial)


def upgrade() -> None:
    op.create_table(
        "documents",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant", Tenant, nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("reason", Word),
        sa.Column("detail", sa.Text),
        sa.Column("name", FileName),
        sa.Column("declared_type", MediaType),
        sa.Column("detected_type", MediaType),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", Sha256),
        sa.Column("source_bucket", sa.String(255), nullable=False),
        sa.Column("source_key", sa.String(255), nullable=False),
        sa.Column("source_version", sa.String(1024), nullable=False),
        sa.Column("served_bucket", sa.String(255)),
        sa.Column("served_key", sa.String(255)),
        sa.Column("served_version", sa.String(1024)),
        sa.Column("retention", Tenant, nullable=False),
        sa.Column("policy_digest", sa.String(128), nullable=False),
        sa.Column("correlation_id", sa.String(128), nullable=False),
        sa.Column("via", Word, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("available_at", sa.BigInteger, nullable=False),
        sa.Column("waiting_for", sa.String(64)),
        sa.Column("nudged_at", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("erase_at", sa.BigInteger),
        sa.Column("erased_at", sa.BigInteger),
        sa.Column("text_length", sa.BigInteger),
        sa.Column("pages", sa.Integer),
        sa.Column("last_seq", sa.Integer, nullable=False),
        sa.Column("last_hash", Sha256, nullable=False),
        if_not_exists=True,
        **IN_MARIADB,
    )
    _index("ix_documents_listing", "documents", ["tenant", "created_at", "id"])
    _index("ix_documents_in_state", "documents", ["tenant", "state", "created_at", "id"])
    _index("ix_documents_sha256", "documents", ["tenant", "sha256"])
    _index("ix_documents_idle", "documents", ["state", "nudged_at", "updated_at"])
    _index("ix_documents_expiry", "documents", ["state", "expires_at"])
    _index("ix_documents_erasure", "documents", ["erase_at"], where="erase_at IS NOT NULL")
    _index("ix_documents_leased", "documents", ["lease_until"], where="lease_until IS NOT NULL")
    _index("ix_documents_waiting", "documents", ["waiting_for"], where="waiting_for IS NOT NULL")
    op.create_table(
        "parts",
        sa.Column("document_id", sa.Uuid, sa.ForeignKey("documents.id"), primary_key=True),
        sa.Column("name", Word, primary_key=True),
        sa.Column("source_bucket", sa.String(255), nullable=False),
        sa.Column("source_key", sa.String(255), nullable=False),
        sa.Column("source_version", sa.String(1024), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", Sha256, nullable=False),
        sa.Column("media_type", MediaType, nullable=False),
        sa.Column("served_bucket", sa.String(255)),
        sa.Column("served_key", sa.String(255)),
        sa.Column("served_version", sa.String(1024)),
        if_not_exists=True,
        **IN_MARIADB,
    )
    op.create_table(
        "verdicts",
        sa.Column("id", Serial, primary_key=True),
        sa.Column("document_id", sa.Uuid, sa.ForeignKey("documents.id"), nullable=False),
        sa.Column("part", Word, nullable=False),
        sa.Column("sha256", Sha256, nullable=False),
        sa.Column("scanner", sa.String(64), nullable=False),
        sa.Column("verdict", Word, nullable=False),
        sa.Column("finding", Word),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("engine", sa.String(64)),
        sa.Column("engine_version", sa.String(255)),
        sa.Column("signatures", sa.String(255)),
        sa.Column("signatures_at", sa.BigInteger),
        sa.Column("coverage", sa.JSON, nullable=False),
        sa.Column("media_type", MediaType),
        sa.Column("duration_ms", sa.Double, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **IN_MARIADB,
    )
    _index("ix_verdicts_document", "verdicts", ["document_id"])
    op.create_table(
        "events",
        sa.Column("id", Serial, primary_key=True),
        sa.Column("document_id", sa.Uuid, sa.ForeignKey("documents.id"), nullable=False),
        sa.Column("tenant", Tenant, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("start", Word),
        sa.Column("to", Word, nullable=False),
        sa.Column("reason", Word),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("previous", Sha256, nullable=False),
        sa.Column("hash", Sha256, nullable=False),
        sa.Column("relayed_at", sa.BigInteger),
        sa.UniqueConstraint("document_id", "seq"),
        if_not_exists=True,
        **IN_MARIADB,
    )
    _index("ix_events_unrelayed", "events", ["relayed_at", "id"], where="relayed_at IS NULL")
    op.create_table(
        "receipts",
        sa.Column("document_id", sa.Uuid, sa.ForeignKey("documents.id"), primary_key=True),
        sa.Column("receipt", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **IN_MARIADB,
    )
    op.create_table(
        "idempotency",
        sa.Column("tenant", Tenant, primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(128), nullable=False),
        sa.Column("document_ids", sa.JSON, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **IN_MARIADB,
    )
    _index("ix_idempotency_at", "idempotency", ["at"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant", Tenant, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("secret_sha256", Sha256, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.UniqueConstraint("secret_sha256"),
        if_not_exists=True,
        **IN_MARIADB,
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant", Tenant, nullable=False),
        sa.Column("method", Word, nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("name", FileName),
        sa.Column("declared_type", MediaType),
        sa.Column("declared_size", sa.BigInteger),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        if_not_exists=True,
        **IN_MARIADB,
    )
    _index("ix_uploads_expiry", "uploads", ["state", "expires_at"])


def downgrade() -> None:
    for table in ("uploads", "api_keys", "idempotency", "receipts", "events", "verdicts", "parts", "documents"):
        op.drop_table(table)
