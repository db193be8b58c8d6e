"""The HTTP/1.1 protocol of uvicorn with bounds that it lacks: on the size of a head, and on the time it may take.

Without them one connection could fill the memory with a header that never ends. Give it to uvicorn as `http=`.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ingest_api.problems import MEDIA_TYPE, HeadTooLarge, HeadTooSlow, render
from pipeline.errors import AirlockError, BadRequest
from pipeline.telemetry import logger

log = logger(__name__)

HEAD_BYTES = 64 << 10  # request line and headers; a header counts 32 bytes more than it has, as in HTTP/2
HEAD_SECONDS = 30.0
# Between one piece of a body and the next there is a line of a few bytes. What has no end there (a trailer, above all)
# the parser keeps until it has one, and copies each time it grows.
BETWEEN_BYTES = 64 << 10


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False  # uvicorn's line has the query in it, and with it a signature or a file name
        self._application = self.app
        self._in_head = True
        self._head = 0
        self._between = 0  # bytes of an open body that were none of its content, since its last content
        self._idle = True  # no request is open: the next byte begins a head
        self._begun = 0  # heads that began in the packet that is being parsed
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Also start the clock: a connection that says nothing is not kept for ever."""
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Also stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, then see whether a head, or what is between two pieces of a body, is open and has grown too large."""
        at_start, self._begun = self._idle, 0
        self._between += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        # A head that began somewhere inside this packet, behind other requests, is counted from the next packet on.
        if self._in_head and (self._begun == 0 or (at_start and self._begun == 1)):
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._refuse(_head_too_large())
        elif not self._in_head and not self._idle and self._between > BETWEEN_BYTES:
            self._refuse(
                HeadTooLarge(
                    f"Trailers and chunk extensions may have {BETWEEN_BYTES} bytes.",
                    limit={"name": "trailer_bytes", "value": BETWEEN_BYTES},
                )
            )

    def on_message_begin(self) -> None:
        """A new head."""
        super().on_message_begin()
        self._in_head, self._head, self._idle = True, 0, False
        self._begun += 1
        self._start_clock()

    def on_headers_complete(self) -> None:
        """The head is whole; one that came at once, in one packet, is measured here."""
        self._in_head, self._between = False, 0
        self._stop_clock()
        size = len(self.url) + sum(len(name) + len(value) + 32 for name, value in self.headers)
        self.app = self._application if size <= HEAD_BYTES else _too_large
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.__class__ = _Cycle  # its class is named inside uvicorn; it has not begun to run yet

    def on_body(self, body: bytes) -> None:
        """Content came."""
        self._between = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._idle = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP gets a problem document too."""
        self._refuse(BadRequest("This is not an HTTP/1.1 request that can be read."))

    def _start_clock(self) -> None:
        self._stop_clock()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._refuse(HeadTooSlow(f"The head of a request is to be whole within {HEAD_SECONDS:.0f} seconds."))

    def _refuse(self, error: AirlockError) -> None:
        self._stop_clock()
        log.info("refused before routing", code=error.code, status=error.status)
        cycle = self.cycle
        under_way = cycle is not None and not cycle.response_complete
        if not (under_way and cycle.response_started):
            body = bytes(render(error, uuid.uuid4().hex).body)
            self.transport.write(
                STATUS_LINE[error.status]
                + f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
                + body
            )
        # Else an answer is half way out on this connection: nothing can be said in between.
        if under_way:
            # The application hears that its client is gone, and cleans up; what it still says is dropped.
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()


class _Cycle(RequestResponseCycle):
    """One request and its answer."""

    async def receive(self) -> ASGIReceiveEvent:
        """All that came, and only then that the client is gone: uvicorn drops what was not asked for by then."""
        message = await super().receive()
        if message["type"] == "http.disconnect" and self.body and not self.response_complete:
            body, self.body = bytes(self.body), bytearray()
            return {"type": "http.request", "body": body, "more_body": self.more_body}
        return message


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"Request line and headers together may have {HEAD_BYTES} bytes.",
        limit={"name": "head_bytes", "value": HEAD_BYTES},
    )


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    response = render(_head_too_large(), uuid.uuid4().hex)
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
