"""One request's stretch of an object that grows in S3: parts in flight, and what is left of them."""

from __future__ import annotations

import contextlib
import io
from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.errors import AirlockError
from pipeline.storage.abilities import Progress, SentPart
from pipeline.storage.s3_parts import LEAST
from pipeline.storage.s3_writer import GROW_EVERY, IN_FLIGHT, put_part

if TYPE_CHECKING:
    from pipeline.storage.s3_resumable import S3Resumable, State


class S3ResumableWriter:
    """See ResumableWriter. Keeps at most IN_FLIGHT parts and the one being filled."""

    def __init__(self, store: S3Resumable, key: str, state: State, rest: bytes) -> None:
        self._store, self._key = store, key
        # The ledger goes on from this state, so nobody needs the rests before its own any more.
        self._state, self._spent = replace(state, spent=()), state.spent
        self._buffer = io.BytesIO()
        self._buffer.write(rest)
        self._count = state.parts  # sent; in the state are those that have arrived
        self._pending: deque[tuple[int, Future[dict[str, Any]]]] = deque()
        self._open = True

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """See ResumableWriter."""
        self._check_open()
        rest = memoryview(chunk)
        while rest:
            room = (self._store._part_size << (self._count // GROW_EVERY)) - self._buffer.tell()
            if room <= 0:
                self._send_part()
                continue
            self._buffer.write(rest[:room])
            rest = rest[room:]

    def _send_part(self) -> None:
        if self._state.upload is None:
            upload = self._store.begin_upload(self._key, self._state.headers or {})
            self._state = replace(self._state, upload=upload, headers=None)
        while len(self._pending) >= IN_FLIGHT:
            self._collect()
        self._count += 1
        where, size = {"Bucket": self._store.bucket, "Key": self._key}, self._buffer.tell()
        sent = self._store._parts.send(
            put_part, self._store.client, where, self._state.upload, self._count, self._buffer
        )
        self._pending.append((size, sent))
        self._buffer = io.BytesIO()

    def _collect(self) -> None:
        """Wait for the oldest part in flight. If it did not arrive, the parts behind it are of no use either."""
        size, future = self._pending.popleft()
        try:
            sent = future.result()
        except BaseException:
            self.close()
            raise
        self._state = self._state.with_part(SentPart(sent["PartNumber"], size, sent["ETag"].strip('"')))

    def checkpoint(self, *, partial: bool = True) -> Progress:
        """See ResumableWriter."""
        self._check_open()
        forgotten = self._store._parts.send(self._store.forget, self._spent) if self._spent else None
        self._spent = ()
        while self._pending and (partial or self._pending[0][1].done()):
            self._collect()
        if partial:
            # Small parts grow as large ones do, or many small requests would use up the numbers.
            if self._buffer.tell() >= LEAST << (self._count // GROW_EVERY):
                self._send_part()
                self._collect()
            held = self._state.rest.size if self._state.rest else 0
            if self._buffer.tell() != held:
                rest = self._store.put_rest(self._key, self._state.mark, self._buffer.getvalue())
                self._state = self._state.with_rest(rest)
        if forgotten is not None:  # beside the others, so it costs no time of its own
            forgotten.result()
        return self._state.progress

    def close(self) -> None:
        """See ResumableWriter. Waits for parts in flight: one that came late would take the place of the next
        writer's."""
        self._open = False
        while self._pending:
            with contextlib.suppress(AirlockError):
                self._pending.popleft()[1].result()
        self._buffer = io.BytesIO()

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("the writer is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
