"""`GET /v1/documents/{id}/events`: server-sent events until the document is settled.

One task a process asks the ledger for the news of all documents that anybody watches, in one query, and only while
somebody does: a thousand watchers cost what one costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from ingest_api.auth import Reader
from ingest_api.problems import documented
from ingest_api.schemas import event_shown
from ingest_api.web import Threads, web_of
from pipeline.documents import Event
from pipeline.errors import AirlockError, Forbidden, NotFound, Unauthorized
from pipeline.services import Services
from pipeline.states import ENDS, SETTLED
from pipeline.telemetry import logger

log = logger(__name__)

EVERY = 0.2  # seconds between two looks into the ledger
KEEP_ALIVE = 15.0  # seconds after which a comment goes out, so that no proxy takes the silence for death
_SEQ = re.compile(r"[0-9]{1,9}")
RETRY_MS = 1000  # what a client waits before it connects again

router = APIRouter(tags=["documents"])


class Watcher:
    """Tells subscribers of new events."""

    def __init__(self, services: Services, threads: Threads) -> None:
        self._services = services
        self._threads = threads
        self._seen: dict[UUID, int] = {}
        self._queues: dict[UUID, set[asyncio.Queue[Event]]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watching(self, document_id: UUID, after: int) -> Iterator[asyncio.Queue[Event]]:
        """A queue that gets the document's events with seq > `after`, perhaps also earlier ones, in order."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._queues.setdefault(document_id, set()).add(queue)
        self._seen[document_id] = min(after, self._seen.get(document_id, after))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="event-watcher")
        try:
            yield queue
        finally:
            waiting = self._queues[document_id]
            waiting.discard(queue)
            if not waiting:
                del self._queues[document_id], self._seen[document_id]

    async def _watch(self) -> None:
        while self._seen:
            try:
                asked = dict(self._seen)
                for event in await self._threads.rows(self._news, asked):
                    for queue in self._queues.get(event.document_id, ()):
                        queue.put_nowait(event)
                    # Unless somebody came meanwhile who wants to hear it from further back.
                    if self._seen.get(event.document_id) in range(asked[event.document_id], event.seq):
                        self._seen[event.document_id] = event.seq
            except AirlockError as exc:
                log.warning("events cannot be read, trying again", code=exc.code)
            await asyncio.sleep(EVERY)

    def _news(self, after: dict[UUID, int]) -> list[Event]:
        with self._services.ledger.reading() as tx:
            return tx.histories(after)

    async def close(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


@router.get(
    "/v1/documents/{document_id}/events",
    summary="Follow a document until it is settled",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One `state` event a state change; `id` is its seq. It ends when the pipeline is done.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'retry: 1000\n\nid: 0\nevent: state\ndata: {"seq":0,"to":"quarantined",...}\n\n',
                }
            },
        },
        **documented(Unauthorized, Forbidden, NotFound),
    },
)
async def follow(
    request: Request,
    who: Reader,
    document_id: UUID,
    last_event_id: Annotated[str | None, Header(description="Resume after this seq.")] = None,
) -> StreamingResponse:
    """Server-sent events. A client that reconnects with `Last-Event-ID` misses nothing and hears nothing twice."""
    web = web_of(request)

    # What is not one of our ids is passed over: the stream starts from the beginning.
    wanted = int(last_event_id) if last_event_id is not None and _SEQ.fullmatch(last_event_id) else -1

    def look() -> int:
        with web.services.ledger.reading() as tx:
            tx.document(document_id, tenant=who.tenant)
            return max((event.seq for event in tx.history(document_id)), default=-1)

    # Nobody has heard what has not happened: such a stream would never say anything, nor end.
    after = min(wanted, await web.threads.rows(look))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    limit = web.services.settings.stream_limit
    stream = _stream(web.watcher, document_id, after, limit)
    return StreamingResponse(stream, headers=headers, media_type="text/event-stream")


async def _stream(watcher: Watcher, document_id: UUID, after: int, limit: float | None) -> AsyncIterator[str]:
    yield f"retry: {RETRY_MS}\n\n"
    told = after
    over = math.inf if limit is None else time.monotonic() + limit
    # From one before: a client that has already heard the last event must still be told that there is no more to come.
    with watcher.watching(document_id, max(after - 1, -1)) as news:
        while (left := over - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(KEEP_ALIVE, left)):
                    event = await news.get()
            except TimeoutError:
                yield ": still here\n\n"
                continue
            if event.seq > told:
                told = event.seq
                data = event_shown(event).model_dump_json(exclude_none=True, by_alias=True)
                yield f"id: {event.seq}\nevent: state\ndata: {data}\n\n"
            # More may be on its way behind a settled state that can be left (a review, a replay).
            if event.to in ENDS or (event.to in SETTLED and news.empty() and event.seq >= told):
                return
