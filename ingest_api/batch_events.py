"""`GET /v1/batches/{id}/events`: how far a batch is, whenever that changes, until it has ended.

As with documents, one task a process asks for all batches that anybody watches, in one query, while somebody does.
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
from ingest_api.batch_schemas import shown
from ingest_api.events import KEEP_ALIVE, RETRY_MS
from ingest_api.problems import documented
from ingest_api.web import Threads, web_of
from pipeline.batches import OVER, Batch
from pipeline.errors import AirlockError, Forbidden, NotFound, Unauthorized
from pipeline.services import Services
from pipeline.telemetry import logger

log = logger(__name__)

EVERY = 0.5  # seconds between two looks into the ledger
_REVISION = re.compile(r"[0-9]{1,9}")

router = APIRouter(tags=["batches"])


class BatchWatcher:
    """Tells subscribers how their batches stand. What was missed does not matter: the newest says all."""

    def __init__(self, services: Services, threads: Threads) -> None:
        self._services = services
        self._threads = threads
        self._queues: dict[UUID, set[asyncio.Queue[Batch]]] = {}
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watching(self, batch_id: UUID) -> Iterator[asyncio.Queue[Batch]]:
        """A queue of one place: the newest that is known."""
        queue: asyncio.Queue[Batch] = asyncio.Queue(1)
        self._queues.setdefault(batch_id, set()).add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="batch-watcher")
        try:
            yield queue
        finally:
            waiting = self._queues[batch_id]
            waiting.discard(queue)
            if not waiting:
                del self._queues[batch_id]

    async def _watch(self) -> None:
        while self._queues:
            try:
                for batch in await self._threads.rows(self._look, list(self._queues)):
                    for queue in self._queues.get(batch.id, ()):
                        if queue.full():
                            queue.get_nowait()
                        queue.put_nowait(batch)
            except AirlockError as exc:
                log.warning("batches cannot be read, trying again", code=exc.code)
            await asyncio.sleep(EVERY)

    def _look(self, ids: list[UUID]) -> list[Batch]:
        with self._services.ledger.reading() as tx:
            return tx.batches_by_id(ids)

    async def close(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


@router.get(
    "/v1/batches/{batch_id}/events",
    summary="Follow a batch until it has ended",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A `progress` event whenever something has changed: the batch as `GET` gives it. `id` is "
            "its revision. It ends with the batch.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'retry: 1000\n\nid: 3\nevent: progress\ndata: {"state":"running","total":100,...}\n\n',
                }
            },
        },
        **documented(Unauthorized, Forbidden, NotFound),
    },
)
async def follow(
    request: Request,
    who: Reader,
    batch_id: UUID,
    last_event_id: Annotated[str | None, Header(description="Resume after this revision.")] = None,
) -> StreamingResponse:
    """Server-sent events. Each tells everything, so a client that was away has missed nothing."""
    web = web_of(request)

    def look() -> None:
        with web.services.ledger.reading() as tx:
            tx.batch(batch_id, tenant=who.tenant)

    await web.threads.rows(look)
    told = int(last_event_id) if last_event_id is not None and _REVISION.fullmatch(last_event_id) else -1
    stream = _stream(web.batch_watcher, batch_id, told, web.services.settings.stream_limit)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, headers=headers, media_type="text/event-stream")


async def _stream(watcher: BatchWatcher, batch_id: UUID, told: int, limit: float | None) -> AsyncIterator[str]:
    yield f"retry: {RETRY_MS}\n\n"
    now = time.monotonic()
    over, silent = math.inf if limit is None else now + limit, now + KEEP_ALIVE
    with watcher.watching(batch_id) as news:
        while (now := time.monotonic()) < over:
            try:
                async with asyncio.timeout(min(silent, over) - now):
                    batch = await news.get()
            except TimeoutError:
                silent = time.monotonic() + KEEP_ALIVE
                yield ": still here\n\n"
                continue
            if batch.revision != told:
                told, silent = batch.revision, time.monotonic() + KEEP_ALIVE
                yield f"id: {told}\nevent: progress\ndata: {shown(batch).model_dump_json(exclude_none=True)}\n\n"
            if batch.state in OVER:
                return
