"""Runs the migrations on the connection that it is given, inside its transaction. There is no alembic.ini."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from pipeline.ledger.models import metadata

connection = context.config.attributes.get("connection")
if not isinstance(connection, Connection):
    raise TypeError("migrations run through Ledger.upgrade(), which brings the connection and the lock")

context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",  # it cannot alter a column: the table is copied
)
with context.begin_transaction():
    context.run_migrations()
