"""The tables of batches."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, String, Table, UniqueConstraint, Uuid

from pipeline.ledger.columns import IN_MARIADB, FileName, MediaType, Serial, Sha256, Tenant, Word, metadata

batches = Table(
    "batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Tenant, nullable=False),
    Column("name", FileName),
    Column("state", Word, nullable=False),
    Column("source", Word, nullable=False),
    Column("correlation_id", String(128), nullable=False),
    Column("prefix", String(1024)),
    Column("last_key", String(1024), nullable=False),
    Column("listed_at", BigInteger),  # NULL: there may be items that are not known yet
    Column("truncated_at", BigInteger),
    Column("counts", JSON, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("run", Integer, nullable=False),
    Column("lease_owner", String(255)),
    Column("lease_until", BigInteger),
    Column("due_at", BigInteger),  # when somebody is to look at it; NULL: never
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    **IN_MARIADB,
)
Index("ix_batches_listing", batches.c.tenant, batches.c.created_at, batches.c.id)
Index(
    "ix_batches_due",
    batches.c.due_at,
    sqlite_where=batches.c.due_at.is_not(None),
    postgresql_where=batches.c.due_at.is_not(None),
)

batch_items = Table(
    "batch_items",
    metadata,
    Column("batch_id", Uuid, ForeignKey("batches.id"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("state", Word, nullable=False),
    Column("line", Integer),
    Column("key", String(1024)),
    Column("version", String(1024)),
    Column("name", FileName),
    Column("declared_type", MediaType),
    Column("declared_sha256", Sha256),
    Column("document_id", Uuid),
    Column("error", String(64)),
    Column("problem", String(255)),
    **IN_MARIADB,
)
Index("ix_batch_items_state", batch_items.c.batch_id, batch_items.c.state, batch_items.c.seq)

batch_events = Table(
    "batch_events",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("batch_id", Uuid, ForeignKey("batches.id"), nullable=False),
    Column("tenant", Tenant, nullable=False),
    Column("run", Integer, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("relayed_at", BigInteger),
    UniqueConstraint("batch_id", "run"),
    **IN_MARIADB,
)
Index(
    "ix_batch_events_unrelayed",
    batch_events.c.relayed_at,
    batch_events.c.id,
    sqlite_where=batch_events.c.relayed_at.is_(None),
    postgresql_where=batch_events.c.relayed_at.is_(None),
)
