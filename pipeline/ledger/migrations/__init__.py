"""Alembic's folder: env.py runs on the connection that `schema.upgrade` holds; versions/ are the steps."""
