"""The tables: those of documents and uploads here, those of batches in batch_models.py."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)

from pipeline.ledger.batch_models import batch_events, batch_items, batches
from pipeline.ledger.columns import (
    IN_MARIADB,
    FileName,
    MediaType,
    Serial,
    Sha256,
    Tenant,
    TurnNumber,
    Word,
    metadata,
)

__all__ = [
    "TurnNumber",
    "api_keys",
    "batch_events",
    "batch_items",
    "batches",
    "dead_letters",
    "documents",
    "events",
    "idempotency",
    "metadata",
    "parts",
    "receipts",
    "upload_parts",
    "uploads",
    "verdicts",
]

documents = Table(
    "documents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Tenant, nullable=False),
    Column("state", Word, nullable=False),
    Column("reason", Word),
    Column("detail", Text),
    Column("name", FileName),
    Column("declared_type", MediaType),
    Column("detected_type", MediaType),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Sha256),
    Column("source_bucket", String(255), nullable=False),
    Column("source_key", String(255), nullable=False),
    Column("source_version", String(1024), nullable=False),
    Column("served_bucket", String(255)),
    Column("served_key", String(255)),
    Column("served_version", String(1024)),
    Column("retention", Tenant, nullable=False),
    Column("policy_digest", String(128), nullable=False),
    Column("correlation_id", String(128), nullable=False),
    Column("via", Word, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("lease_owner", String(255)),
    Column("lease_until", BigInteger),
    Column("available_at", BigInteger, nullable=False),
    Column("waiting_for", String(64)),
    # A message was last sent, or is about to be (the outbox); NEVER while the document is held back.
    Column("nudged_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),  # the state last changed
    Column("expires_at", BigInteger),
    Column("erase_at", BigInteger),  # NULL again once that is done
    Column("erased_at", BigInteger),
    Column("text_length", BigInteger),
    Column("pages", Integer),
    Column("last_seq", Integer, nullable=False),  # the head of the event chain: a settle reads one row, not two
    Column("last_hash", Sha256, nullable=False),
    Column("declared_sha256", Sha256),
    Column("batch_id", Uuid),
    Column("turn", TurnNumber),  # while the document is on its way
    **IN_MARIADB,
)
Index("ix_documents_listing", documents.c.tenant, documents.c.created_at, documents.c.id)
Index("ix_documents_in_state", documents.c.tenant, documents.c.state, documents.c.created_at, documents.c.id)
Index("ix_documents_sha256", documents.c.tenant, documents.c.sha256)
Index("ix_documents_idle", documents.c.state, documents.c.nudged_at, documents.c.updated_at)
Index("ix_documents_expiry", documents.c.state, documents.c.expires_at)
Index(
    "ix_documents_erasure",
    documents.c.erase_at,
    sqlite_where=documents.c.erase_at.is_not(None),
    postgresql_where=documents.c.erase_at.is_not(None),
)
Index(
    "ix_documents_leased",
    documents.c.lease_until,
    sqlite_where=documents.c.lease_until.is_not(None),
    postgresql_where=documents.c.lease_until.is_not(None),
)
Index(
    "ix_documents_waiting",
    documents.c.waiting_for,
    sqlite_where=documents.c.waiting_for.is_not(None),
    postgresql_where=documents.c.waiting_for.is_not(None),
)
Index(
    "ix_documents_turn",
    documents.c.turn,
    documents.c.tenant,
    documents.c.available_at,
    sqlite_where=documents.c.turn.is_not(None),
    postgresql_where=documents.c.turn.is_not(None),
)

parts = Table(
    "parts",
    metadata,
    Column("document_id", Uuid, ForeignKey("documents.id"), primary_key=True),
    Column("name", Word, primary_key=True),
    Column("source_bucket", String(255), nullable=False),
    Column("source_key", String(255), nullable=False),
    Column("source_version", String(1024), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Sha256, nullable=False),
    Column("media_type", MediaType, nullable=False),
    Column("served_bucket", String(255)),
    Column("served_key", String(255)),
    Column("served_version", String(1024)),
    **IN_MARIADB,
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("document_id", Uuid, ForeignKey("documents.id"), nullable=False),
    Column("part", Word, nullable=False),
    Column("sha256", Sha256, nullable=False),
    Column("scanner", String(64), nullable=False),
    Column("verdict", Word, nullable=False),
    Column("finding", Word),
    Column("detail", Text, nullable=False),
    Column("engine", String(64)),
    Column("engine_version", String(255)),
    Column("signatures", String(255)),
    Column("signatures_at", BigInteger),
    Column("coverage", JSON, nullable=False),
    Column("media_type", MediaType),
    Column("duration_ms", Double, nullable=False),
    Column("at", BigInteger, nullable=False),
    **IN_MARIADB,
)
Index("ix_verdicts_document", verdicts.c.document_id)

events = Table(
    "events",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("document_id", Uuid, ForeignKey("documents.id"), nullable=False),
    Column("tenant", Tenant, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("start", Word),
    Column("to", Word, nullable=False),
    Column("reason", Word),
    Column("attempt", Integer, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("facts", JSON, nullable=False),
    Column("previous", Sha256, nullable=False),
    Column("hash", Sha256, nullable=False),
    Column("relayed_at", BigInteger),
    UniqueConstraint("document_id", "seq"),
    **IN_MARIADB,
)
Index(
    "ix_events_unrelayed",
    events.c.relayed_at,
    events.c.id,
    sqlite_where=events.c.relayed_at.is_(None),
    postgresql_where=events.c.relayed_at.is_(None),
)

receipts = Table(
    "receipts",
    metadata,
    Column("document_id", Uuid, ForeignKey("documents.id"), primary_key=True),
    Column("receipt", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    **IN_MARIADB,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", Tenant, primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(128), nullable=False),
    Column("document_ids", JSON, nullable=False),
    Column("at", BigInteger, nullable=False),
    **IN_MARIADB,
)
Index("ix_idempotency_at", idempotency.c.at)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Tenant, nullable=False),
    Column("name", String(255), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("secret_sha256", Sha256, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    UniqueConstraint("secret_sha256"),
    **IN_MARIADB,
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Tenant, nullable=False),
    Column("method", Word, nullable=False),
    Column("state", Word, nullable=False),
    Column("key", String(255), nullable=False),
    Column("name", FileName),
    Column("declared_type", MediaType),
    Column("size", BigInteger),
    Column("declared_sha256", Sha256),
    Column("offset", BigInteger, nullable=False),
    Column("progress", Text, nullable=False),
    Column("details", JSON, nullable=False),
    Column("version", String(1024)),
    Column("batch_id", Uuid),
    Column("correlation_id", String(128), nullable=False),
    Column("lock_owner", String(255)),
    Column("lock_until", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("cleaned_at", BigInteger),  # nothing of it is left in the store but the document's own object
    Column("origin", Sha256),  # of a drop: SHA-256 of the key that it lay under
    **IN_MARIADB,
)
Index("ix_uploads_expiry", uploads.c.state, uploads.c.expires_at)
Index("ix_uploads_cleaning", uploads.c.cleaned_at, uploads.c.state)
Index("ix_uploads_tenant", uploads.c.tenant, uploads.c.state)
Index("ix_uploads_origin", uploads.c.tenant, uploads.c.origin, uploads.c.created_at)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("upload_id", Uuid, ForeignKey("uploads.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("version", String(1024), nullable=False),
    Column("sha256", Sha256),
    Column("piece", Word),
    **IN_MARIADB,
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", Sha256, primary_key=True),
    Column("source", String(255), nullable=False),
    Column("reason", String(255), nullable=False),
    Column("body", Text, nullable=False),  # MariaDB's holds 65,535 bytes
    Column("attributes", JSON, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    **IN_MARIADB,
)
Index("ix_dead_letters_last", dead_letters.c.last_at)
Index("ix_dead_letters_source", dead_letters.c.source)
