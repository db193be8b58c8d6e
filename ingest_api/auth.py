"""Who is asking: `Authorization: Bearer alk_...` -> Principal. A key belongs to one tenant and carries scopes."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ingest_api.web import web_of
from pipeline.api_keys import hash_key
from pipeline.documents import ApiKey
from pipeline.errors import Forbidden, Unauthorized
from pipeline.services import Services
from pipeline.telemetry import contextvars

READ = "documents:read"
WRITE = "documents:write"
ADMIN = "admin"  # may do everything, within its tenant

KNOWN_FOR = 5.0  # seconds: how long a revoked key may still work
UNKNOWN_FOR = 2.0  # seconds: how long a new key may not work yet, if it was tried before it was made
AT_MOST = 10_000  # keys remembered; whoever tries keys at random fills it, so the oldest go

_SECRET = re.compile(r"alk_[A-Za-z0-9_-]{16,128}")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking, and what they may do."""

    tenant: str
    scopes: frozenset[str]
    key_id: UUID

    def may(self, scope: str) -> bool:
        """Whether the scope was granted."""
        return scope in self.scopes or ADMIN in self.scopes


class KeyCache:
    """Looks keys up by the hash of their secret, and remembers the answer for a few seconds."""

    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._kept: dict[str, tuple[float, ApiKey | None]] = {}

    def kept(self, secret_sha256: str) -> tuple[bool, ApiKey | None]:
        """(whether the answer is known, the answer)."""
        until, key = self._kept.get(secret_sha256, (0.0, None))
        return self._clock() < until, key

    def look_up(self, secret_sha256: str) -> ApiKey | None:
        """Ask the ledger; blocks."""
        with self._services.ledger.reading() as tx:
            key = tx.key_by_secret(secret_sha256)
        if key is not None and key.revoked_at is not None:
            key = None
        return key

    def keep(self, secret_sha256: str, key: ApiKey | None) -> None:
        """Remember an answer; call it in the event loop only."""
        self._kept.pop(secret_sha256, None)
        while len(self._kept) >= AT_MOST:
            del self._kept[next(iter(self._kept))]
        self._kept[secret_sha256] = (self._clock() + (UNKNOWN_FOR if key is None else KNOWN_FOR), key)


# auto_error off: a missing header is our problem document to write. This also puts the scheme into OpenAPI.
_bearer = HTTPBearer(auto_error=False, scheme_name="API key", description="An API key: `Authorization: Bearer alk_...`")


async def principal(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Principal:
    """The request's principal. Raises Unauthorized."""
    if credentials is None:
        raise Unauthorized("Send an API key: Authorization: Bearer alk_...")
    if not _SECRET.fullmatch(credentials.credentials):
        raise _unknown()
    web = web_of(request)
    secret_sha256 = hash_key(credentials.credentials)
    known, key = web.keys.kept(secret_sha256)
    if not known:
        key = await web.threads.rows(web.keys.look_up, secret_sha256)
        web.keys.keep(secret_sha256, key)
    if key is None:
        raise _unknown()
    contextvars.bind_contextvars(tenant=key.tenant, key_id=str(key.id))
    return Principal(key.tenant, key.scopes, key.id)


def _unknown() -> Unauthorized:
    return Unauthorized(
        "This API key is not known here, or was revoked.",
        _challenge='Bearer realm="airlock", error="invalid_token"',
    )


def _with(scope: str) -> Callable[[Principal], Awaitable[Principal]]:
    async def check(who: Annotated[Principal, Depends(principal)]) -> Principal:
        if not who.may(scope):
            raise Forbidden(
                f"This API key lacks the scope {scope}.",
                scope=scope,
                _challenge=f'Bearer realm="airlock", error="insufficient_scope", scope="{scope}"',
            )
        return who

    return check


Reader = Annotated[Principal, Depends(_with(READ))]
Writer = Annotated[Principal, Depends(_with(WRITE))]
