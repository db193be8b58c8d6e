"""The outermost ring, pure ASGI: correlation id, one log line and one measurement a request, and no error untold.

It sees the route's template, never the path or the query: those may hold a signature or a client's file name.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest_api.problems import render
from pipeline.errors import AirlockError
from pipeline.telemetry import contextvars, logger

if TYPE_CHECKING:
    from ingest_api.metrics import Metrics

log = logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLIENT_LEFT = 499  # only in logs and metrics: nobody is there to be answered

# What of a body nobody wanted is still taken, so that the client gets to read why: without it the kernel would answer
# its next packet with a reset, which can overtake our words.
LINGER_BYTES = 64 << 20
LINGER_SECONDS = 5.0


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        correlation_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["correlation_id"] = correlation_id
        contextvars.clear_contextvars()
        contextvars.bind_contextvars(correlation_id=correlation_id)
        metrics: Metrics = scope["app"].state.web.metrics
        exchange = _Exchange(receive, send, correlation_id, has_body=_has_body(headers))
        started = time.perf_counter()
        with metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, exchange.receive, exchange.send)
            except ClientDisconnect:
                exchange.status = _CLIENT_LEFT
            except Exception as exc:
                if exchange.started:
                    # Half an answer cannot be taken back; cutting the connection shows that it is half.
                    log.exception("the answer broke off")
                    exchange.status = 500
                    raise
                log.exception("unhandled", error=type(exc).__name__)
                await render(AirlockError(), correlation_id)(scope, exchange.receive, exchange.send)
            finally:
                took = time.perf_counter() - started
                self._tell(metrics, scope, exchange.status, took)

    def _tell(self, metrics: Metrics, scope: MutableMapping[str, Any], status: int, took: float) -> None:
        route = getattr(scope.get("route"), "path", "-")
        metrics.request(scope["method"], route, status, took)
        if route not in {"/livez", "/readyz", "/metrics"} or status >= 500:
            log.info("request", method=scope["method"], route=route, status=status, ms=round(took * 1000, 1))


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


class _Exchange:
    """One request and its answer, with what has been seen of both."""

    def __init__(self, receive: Receive, send: Send, correlation_id: str, *, has_body: bool) -> None:
        self.started = False
        self.status = 0
        self._receive = receive
        self._send = send
        self._correlation_id = correlation_id
        self._unread = has_body  # some of the body is still to come
        self._lingers = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._correlation_id
            headers.setdefault("X-Content-Type-Options", "nosniff")
            headers.setdefault("Cache-Control", "no-store")
            if self._unread:
                self._lingers = True
                headers["Connection"] = "close"
        elif message["type"] == "http.response.body" and self._lingers and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _linger(self) -> None:
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return
