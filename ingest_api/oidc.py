"""Who pushes: `Authorization: Bearer` with an OpenID Connect token, as Pub/Sub, Eventarc and Cloud Tasks send it.

Give a route `Pusher` as a parameter, and it is only reached by a service account that AIRLOCK_PUSH_ACCOUNTS names, with
a token that was made for one of AIRLOCK_PUSH_AUDIENCES. Such a route takes no API key.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ingest_api.web import Threads, web_of
from pipeline.errors import NotFound, Unauthorized
from pipeline.oidc import Caller, SigningKeys, caller, key_id, unknown_keys
from pipeline.settings import Settings
from pipeline.telemetry import contextvars

_bearer = HTTPBearer(
    auto_error=False,
    bearerFormat="JWT",
    scheme_name="Push token",
    description="An OpenID Connect token of Google for a service account (Pub/Sub push, Eventarc, Cloud Tasks).",
)


class PushTokens:
    """Verifies tokens in the event loop; only for keys that it does not know yet it asks, once for all who wait."""

    def __init__(self, settings: Settings, threads: Threads) -> None:
        self._audiences = settings.push_audiences
        self._accounts = settings.push_accounts
        self._keys = SigningKeys(settings.push_keys_url)
        self._threads = threads
        self._asking: asyncio.Future[None] | None = None

    @property
    def configured(self) -> bool:
        """Whether anybody may push at all."""
        return bool(self._audiences and self._accounts)

    async def verify(self, token: str) -> Caller:
        """Who sent it. Raises Unauthorized, Forbidden, Unavailable (the signer's keys cannot be had)."""
        kid = key_id(token)
        if self._keys.due(kid) and self._asking is None:
            self._asking = self._threads.bytes(self._keys.refresh)
            self._asking.add_done_callback(self._asked)
        if self._asking is not None and self._keys.kept(kid) is None:
            await asyncio.shield(self._asking)
        if not self._keys.usable:
            raise unknown_keys()
        return caller(token, self._keys.kept(kid), audiences=self._audiences, accounts=self._accounts)

    def _asked(self, _: asyncio.Future[None]) -> None:
        self._asking = None


async def verify_push(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Caller:
    """The account that pushes. Raises Unauthorized, Forbidden, Unavailable; NotFound where nobody may push."""
    tokens = web_of(request).push_tokens
    if not tokens.configured:
        raise NotFound("Nobody may push here: AIRLOCK_PUSH_AUDIENCES and AIRLOCK_PUSH_ACCOUNTS are not set.")
    if credentials is None:
        raise Unauthorized("Send an OpenID Connect token: Authorization: Bearer ...")
    who = await tokens.verify(credentials.credentials)
    contextvars.bind_contextvars(caller=who.email)
    return who


Pusher = Annotated[Caller, Depends(verify_push)]
