"""Requests that are larger than the platform lets through: refused by their head, in words that say how to send more.

A platform refuses what is above its own limit before we are called, in words of its own; so ours is a little below,
and `GET /v1/policy` names it beforehand. Whoever has more sends it straight to the bucket: `POST /v1/uploads`.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest_api.problems import correlation_of, render
from pipeline.errors import PlatformLimit

LARGER = "/v1/uploads"


class BodyLimit:
    """Wraps the application; looks at nothing but Content-Length, since platforms take no body without one."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            length = Headers(scope=scope).get("content-length", "")
            if length.isascii() and length.isdecimal() and int(length[:20]) > self.limit:
                await render(too_large(self.limit), correlation_of(scope))(scope, receive, send)
                return
        await self.app(scope, receive, send)


def too_large(limit: int) -> PlatformLimit:
    """The refusal."""
    return PlatformLimit(
        f"A request may have {limit} bytes here. Send larger files straight to the bucket: POST {LARGER} says how.",
        limit={"name": "request_bytes", "value": limit},
        links={"upload": LARGER, "policy": "/v1/policy"},
    )
