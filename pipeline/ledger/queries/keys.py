"""API keys, and the idempotency keys of clients."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import bindparam, delete, insert, select, update

from pipeline.documents import ApiKey, Replay
from pipeline.errors import NotFound, ObjectExists
from pipeline.ledger.clock import epoch_ms, instant, now_ms, span_ms
from pipeline.ledger.models import api_keys, idempotency
from pipeline.ledger.queries.base import Statements
from pipeline.ledger.rows import key_of_row

REPLAY_OF = select(idempotency).where(
    idempotency.c.tenant == bindparam("tenant"), idempotency.c.key == bindparam("key")
)
FORGET = delete(idempotency).where(idempotency.c.at < now_ms() - bindparam("older_than"))
BY_SECRET = select(api_keys).where(api_keys.c.secret_sha256 == bindparam("sha256"), api_keys.c.revoked_at.is_(None))
REVOKE = (update(api_keys).where(api_keys.c.id == bindparam("its_id"), api_keys.c.revoked_at.is_(None))).values(
    revoked_at=now_ms()
)


class KeyQueries(Statements):
    """Small tables, each looked up by its key."""

    def replay_of(self, tenant: str, key: str) -> Replay | None:
        """What this tenant's Idempotency-Key stood for, if it was used."""
        row = self._read(REPLAY_OF, {"tenant": tenant, "key": key}).one_or_none()
        if row is None:
            return None
        return Replay(row.fingerprint, tuple(UUID(text) for text in row.document_ids), instant(row.at))

    def remember(self, tenant: str, key: str, replay: Replay) -> None:
        """Record what the key stands for, in the transaction that makes it so. ObjectExists: somebody was faster.

        Then the transaction is over, and what it wrote is undone: ask `replay_of` in a new one.
        """
        row = {
            "tenant": tenant,
            "key": key,
            "fingerprint": replay.fingerprint,
            "document_ids": [str(document_id) for document_id in replay.document_ids],
            "at": self._now() if replay.at is None else epoch_ms(replay.at),
        }
        self._write_once(insert(idempotency), row, ObjectExists("this Idempotency-Key was used a moment ago"))

    def forget_replays(self, *, older_than: timedelta) -> int:
        """Drop idempotency keys that are older; returns how many."""
        return self._write(FORGET, {"older_than": span_ms(older_than)}).rowcount

    def add_key(self, key: ApiKey, secret_sha256: str) -> None:
        """Record an API key by the SHA-256 (hex) of its secret. ObjectExists: the id or the secret is taken."""
        row = {
            "id": key.id,
            "tenant": key.tenant,
            "name": key.name,
            "scopes": sorted(key.scopes),
            "secret_sha256": secret_sha256,
            "created_at": epoch_ms(key.created_at),
            "revoked_at": None if key.revoked_at is None else epoch_ms(key.revoked_at),
        }
        self._write_once(insert(api_keys), row, ObjectExists("there is such a key already"))

    def key_by_secret(self, sha256: str) -> ApiKey | None:
        """The key with this secret, unless it was revoked."""
        row = self._read(BY_SECRET, {"sha256": sha256}).one_or_none()
        return None if row is None else key_of_row(row)

    def keys(self) -> list[ApiKey]:
        """All keys, revoked ones too, oldest first."""
        rows = self._read(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id))
        return [key_of_row(row) for row in rows]

    def revoke_key(self, key_id: UUID) -> None:
        """End a key; ending it twice is fine. NotFound."""
        if self._write(REVOKE, {"its_id": key_id}).rowcount == 1:
            return
        if self._read(select(api_keys.c.id).where(api_keys.c.id == key_id)).one_or_none() is None:
            raise NotFound("there is no such key")
