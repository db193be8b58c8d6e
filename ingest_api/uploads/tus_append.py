"""The bytes of one tus request on their way from the socket into an upload, in flat memory.

Pieces of about a mebibyte are written in a thread while the next one is received; at most two are in memory. Whatever
ends the request (its last byte, a client that is gone or silent, this process that is told to stop), what was received
is kept and acknowledged; unless a checksum was to be compared and cannot be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from fastapi import Request
from starlette.requests import ClientDisconnect

from ingest_api.problems import Stalled
from ingest_api.uploads.landing import PIECE, too_large
from ingest_api.uploads.stream import PATIENCE
from ingest_api.uploads.tus_headers import Checksum, number_in
from ingest_api.web import Threads, Web
from pipeline.appending import NOTE_SECONDS, Stretch, take
from pipeline.documents import Upload, UploadMethod, UploadState
from pipeline.errors import AirlockError, Draining, TooLarge, UploadLocked
from pipeline.services import Services

T = TypeVar("T")

QUIET = 1.0  # seconds without a byte after which a newcomer for the same upload is believed rather than put off
LOOK = 0.5  # seconds between two looks whether this process was told to end
HANDOVER = 5.0  # seconds that the newcomer gives the one before to keep what it has


@dataclass(eq=False)
class Holding:
    """A request of this process that holds an upload."""

    tenant: str
    quiet_since: float | None = None  # by the loop's clock, while it waits for the client
    why: AirlockError | None = None  # it is to end although there may be more to come
    ending: bool = False  # it takes no more bytes
    patience: asyncio.Timeout | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def let_go(self, why: AirlockError) -> None:
        """Have it keep what it has, and end: at once where it only waits, else with the next bytes."""
        self.why = self.why or why
        self.ending = True
        if self.patience is not None and self.quiet_since is not None:
            self.patience.reschedule(asyncio.get_running_loop().time())


class Holdings:
    """The uploads that requests of this process hold. The lock itself is in the ledger: this only makes a client wait
    less that lost its connection, and comes back before anybody here has noticed."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._held: dict[UUID, Holding] = {}
        self._ending: set[asyncio.Task[Any]] = set()
        self._looking = False  # whether there is a timer

    @contextmanager
    def holding(self, upload_id: UUID, tenant: str) -> Iterator[Holding]:
        """Enter one, which the ledger has just let hold the upload."""
        mine = self._held[upload_id] = Holding(tenant)
        if not self._looking:
            self._look()
        try:
            yield mine
        finally:
            mine.over.set()
            if self._held.get(upload_id) is mine:
                del self._held[upload_id]

    async def ended(self, end: Coroutine[None, None, T]) -> T:
        """Run the end of a request, which goes on even if the request is cancelled meanwhile."""
        task = asyncio.ensure_future(end)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return await asyncio.shield(task)

    async def make_way(self, upload_id: UUID, tenant: str) -> None:
        """If a request of this tenant's holds the upload and hears nothing from its client, or is about to end, wait
        until it has let go."""
        found = self._held.get(upload_id)
        if found is None or found.tenant != tenant:
            return
        if found.quiet_since is not None and asyncio.get_running_loop().time() - found.quiet_since >= QUIET:
            found.let_go(UploadLocked("Another request goes on with this upload. What was received is kept."))
        if found.ending:
            await asyncio.wait([asyncio.ensure_future(found.over.wait())], timeout=HANDOVER)

    async def close(self) -> None:
        """Have all of them keep what they have."""
        held = list(self._held.values())
        self._let_all_go()
        ends = [*(asyncio.ensure_future(one.over.wait()) for one in held), *self._ending]
        if ends:
            await asyncio.wait(ends, timeout=HANDOVER)

    def _let_all_go(self) -> None:
        for one in self._held.values():
            one.let_go(Draining("This process is about to end. What was received is kept."))

    def _look(self) -> None:
        """Whether this process was told to end, as long as anything is held: clients find another one the sooner."""
        if self._services.drain.begun:
            self._let_all_go()
        self._looking = bool(self._held)
        if self._looking:
            asyncio.get_running_loop().call_later(LOOK, self._look)


async def append_to(
    request: Request,
    web: Web,
    upload_id: UUID,
    tenant: str,
    *,
    offset: int,
    size: int | None,
    checksum: Checksum | None,
) -> Upload:
    """Append the request's body at `offset`; the upload as it is then. `size` is the length of one that had none.

    Raises, besides what `take` raises:
        ChunkMismatch, TooLarge: nothing of it, or nothing beyond what is announced, was kept.
        Stalled, Draining: all of it was.
        UploadLocked, UploadGone, Conflict: somebody else goes on, or ended it.
        StoreError, LedgerUnavailable: what was noted before was kept.
        ClientDisconnect: all of it was kept, and nobody is there to be told.
    """
    length = number_in(request.headers, "Content-Length")
    stretch = await web.threads.rows(
        take, upload_id, tenant, web.services, offset=offset, size=size, checked=checksum is not None
    )
    upload = stretch.upload
    most = web.services.policy.limits.bytes if upload.size is None else upload.size
    if length is not None and offset + length > most:
        await web.threads.rows(stretch.drop)
        raise too_long(upload, most)
    upload = await _append(request, web, stretch, _Feed(web.threads, stretch, checksum, most))
    if upload.state is UploadState.COMPLETED and upload.method is UploadMethod.TUS:
        web.metrics.accepted(1, upload.offset)
    return upload


async def _append(request: Request, web: Web, stretch: Stretch, feed: _Feed) -> Upload:
    upload = stretch.upload
    with web.holdings.holding(upload.id, upload.tenant) as mine:
        try:
            await _receive(request, web, feed, mine)
        except BaseException as exc:
            mine.ending = True
            await web.holdings.ended(feed.end(keep=_is_kept(exc)))
            raise
        mine.ending = True
        return await web.holdings.ended(feed.finish())


def _is_kept(exc: BaseException) -> bool:
    """Whether what came before it counts: not where a store or the ledger is what failed."""
    if isinstance(exc, AirlockError):
        return isinstance(exc, Stalled | UploadLocked | Draining | TooLarge)
    return isinstance(exc, ClientDisconnect | asyncio.CancelledError)


async def _receive(request: Request, web: Web, feed: _Feed, mine: Holding) -> None:
    clock = asyncio.get_running_loop().time
    stream = request.stream()
    try:
        async with asyncio.timeout(None) as patience:
            mine.patience = patience
            while not mine.ending:
                mine.quiet_since = clock()
                patience.reschedule(mine.quiet_since + PATIENCE)
                chunk = await anext(stream, None)
                patience.reschedule(None)  # while a store is slow, the client is not to blame
                mine.quiet_since = None
                if chunk is None:
                    return
                web.metrics.received(len(chunk))
                await feed.take(chunk)
    except TimeoutError:
        mine.why = mine.why or Stalled(f"No byte came for {PATIENCE:.0f} seconds. What was received is kept.")
    if mine.why is not None:
        raise mine.why


class _Feed:
    """Pieces on their way to the store: one in flight, the next one gathering."""

    def __init__(self, threads: Threads, stretch: Stretch, checksum: Checksum | None, most: int) -> None:
        self._threads = threads
        self._stretch = stretch
        self._checksum = checksum
        self._most = most
        self._room = most - stretch.upload.offset
        self._clock = asyncio.get_running_loop().time
        self._piece: list[bytes] = []
        self._piece_size = 0
        self._sent_at = self._clock()
        self._flight: list[asyncio.Future[None]] = []

    async def take(self, chunk: bytes) -> None:
        """Take some bytes. Raises TooLarge where there are more than belong to the upload; StoreError."""
        self._room -= len(chunk)
        if self._room < 0:
            self._piece = []  # what goes beyond, and what came along with it
            raise too_long(self._stretch.upload, self._most)
        if not chunk:
            return
        self._piece.append(chunk)
        self._piece_size += len(chunk)
        # The last piece waits for the end of the body: more may follow than was announced, and an upload that has all
        # its bytes can no more be mended.
        if self._room and (self._piece_size >= PIECE or self._clock() > self._sent_at + NOTE_SECONDS):
            await self._landed()
            piece, self._piece, self._piece_size = self._piece, [], 0
            self._sent_at = self._clock()
            self._flight = [self._threads.bytes(self._stretch.write, piece)]
            if self._checksum is not None:
                self._flight.append(self._threads.hashing(self._checksum.update, piece))

    async def finish(self) -> Upload:
        """The body has ended. Raises ChunkMismatch, and then nothing is kept; StoreError."""
        try:
            await self._landed()
        except BaseException:
            await self._threads.bytes(self._stretch.drop)
            raise
        return await self._threads.bytes(self._finish)

    def _finish(self) -> Upload:
        try:
            if self._checksum is not None:
                self._checksum.update(self._piece)
                self._checksum.verify()
            return self._keep()
        finally:
            self._stretch.drop()  # does nothing where all went well

    def _keep(self) -> Upload:
        if self._piece:
            self._stretch.write(self._piece)
        return self._stretch.settle()

    async def end(self, *, keep: bool) -> None:
        """The body broke off: keep what came, if it may be kept. What fails here was not acknowledged either."""
        landed = await asyncio.gather(*self._flight, return_exceptions=True)
        whole = keep and self._checksum is None and not any(isinstance(one, BaseException) for one in landed)
        await asyncio.gather(self._threads.bytes(self._end, whole), return_exceptions=True)

    def _end(self, whole: bool) -> None:
        try:
            if whole:
                self._keep()
        finally:
            self._stretch.drop()

    async def _landed(self) -> None:
        flight, self._flight = self._flight, []
        if not flight:
            return
        try:
            # Not cancelled with us: a thread cannot be, and a writer is one thread's at a time.
            results = await asyncio.shield(asyncio.gather(*flight, return_exceptions=True))
        except asyncio.CancelledError:
            self._flight = flight
            raise
        for result in results:
            if isinstance(result, BaseException):
                raise result


def too_long(upload: Upload, most: int) -> TooLarge:
    """The refusal of more than was announced, or than the policy takes where nothing was."""
    if upload.size is None:
        return too_large(most)
    return TooLarge(f"The upload has {most} bytes in all.", limit={"name": "upload_length", "value": most})
