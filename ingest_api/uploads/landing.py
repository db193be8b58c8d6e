"""One file on its way from the socket into quarantine: hashed and written off the event loop, in flat memory.

    feed() feed() feed() ... seal()      the object is there, whole and durable
                       \\... discard()    nothing is there

Up to PIECE bytes nothing leaves the event loop before `seal`, which then does all of it in one go, in the same thread
in which the caller goes on to write the row. Above that, whole pieces are hashed in one thread and written in another,
side by side, while the next one is received: at most two pieces are in memory, and the third waits in the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from uuid import UUID

import anyio

from ingest_api.uploads.digests import Checks
from ingest_api.web import Threads
from pipeline.errors import ObjectNotFound, TooLarge
from pipeline.storage.base import ObjectHeaders, ObjectStat, ObjectStore, ObjectWriter

PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Incoming:
    """What is known of a file before its bytes."""

    document_id: UUID
    key: str
    field: str  # the form's field; "" for a raw body
    name: str | None  # cleaned
    declared_type: str | None
    headers: ObjectHeaders
    size: int | None  # as announced: a hint


class Landing:
    """One file. Without a store the bytes are only counted and hashed, which is what a replay compares."""

    def __init__(
        self,
        incoming: Incoming,
        threads: Threads,
        store: ObjectStore | None,
        *,
        limit: int,
        checks: Checks,
        refusal: TooLarge | None = None,
    ) -> None:
        """`refusal` is raised past the limit, where it is another one than the policy's."""
        self.incoming = incoming
        self.size = 0
        self.stat: ObjectStat | None = None
        self._threads = threads
        self._store = store
        self._limit = limit
        self._refusal = refusal or too_large(limit)
        self._checks = checks
        self._sha256 = hashlib.sha256()
        self._writer: ObjectWriter | None = None
        self._piece: list[bytes] = []
        self._piece_size = 0
        self._flight: list[asyncio.Future[None]] = []

    @property
    def sealed(self) -> ObjectStat:
        """The object, once sealed."""
        if self.stat is None:
            raise ValueError("not sealed")
        return self.stat

    @property
    def sha256(self) -> str:
        """Lower-case hex over everything so far; final once sealed."""
        return self._sha256.hexdigest()

    async def feed(self, chunk: bytes) -> None:
        """Take some bytes. Raises TooLarge as soon as the limit is passed, StoreError."""
        self.size += len(chunk)
        if self.size > self._limit:
            raise self._refusal
        self._piece.append(chunk)
        self._piece_size += len(chunk)
        if self._piece_size >= PIECE:
            await self._landed()  # the piece before: bytes keep their order, and no more than two pieces pile up
            piece, self._piece, self._piece_size = self._piece, [], 0
            self._flight = [self._threads.hashing(self._hash, piece)]
            if self._store is not None:
                self._flight.append(self._threads.bytes(self._write, piece))

    async def settle(self) -> None:
        """Wait until no thread works on this file; `seal` must not start before."""
        await self._landed()

    def seal(self) -> None:
        """Hash and write the rest and make the object visible and durable. Blocks: call it in a thread, once.

        Raises:
            DigestMismatch: before anything is visible.
            StoreError: nothing is visible.
        """
        self._hash(self._piece)
        self._write(self._piece)
        self._piece = []
        self._checks.verify(self._sha256.digest())
        if self._writer is not None:
            self.stat = self._writer.commit(self.sha256)

    async def discard(self) -> None:
        """Leave nothing behind, whatever happened so far. Idempotent."""
        # A cancelled request still cleans up, and a writer is never aborted under the thread that uses it.
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*self._flight, return_exceptions=True)
            self._flight, self._piece = [], []
            if self._writer is not None:
                await self._threads.bytes(self._drop)

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.abort()  # after commit it does nothing
        if self._store is not None and self.stat is not None:
            with contextlib.suppress(ObjectNotFound):
                self._store.delete(self.stat.ref)

    async def _landed(self) -> None:
        flight, self._flight = self._flight, []
        if not flight:
            return
        try:
            # Not cancelled with us: a thread cannot be, and it must be known to be done before an abort.
            results = await asyncio.shield(asyncio.gather(*flight, return_exceptions=True))
        except asyncio.CancelledError:
            self._flight = flight
            raise
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _hash(self, piece: list[bytes]) -> None:
        for chunk in piece:
            self._sha256.update(chunk)
            self._checks.update(chunk)

    def _write(self, piece: list[bytes]) -> None:
        if self._store is None:
            return
        if self._writer is None:
            self._writer = self._store.create(self.incoming.key, self.incoming.headers, size=self.incoming.size)
        for chunk in piece:
            self._writer.write(chunk)


def too_large(limit: int, what: str = "bytes") -> TooLarge:
    """The refusal that names the limit."""
    unit = {
        "bytes": "bytes in one file",
        "files": "files in one request",
        "form_bytes": "bytes in one form",
        "body_bytes": "bytes in this body",
    }
    return TooLarge(f"The limit is {limit} {unit.get(what, what)}.", limit={"name": what, "value": limit})
