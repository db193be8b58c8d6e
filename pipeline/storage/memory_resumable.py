"""Objects of a memory bucket that grow over many requests, or are joined. See Resumable and Composable."""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.errors import ObjectExists, ObjectNotFound
from pipeline.storage.abilities import Progress, mark_of
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat

if TYPE_CHECKING:
    from pipeline.storage.streams import Body

_PLAIN = ObjectHeaders()


@dataclass
class _Growing:
    """What one writer after the other appends to. `writer` is the one that has it now."""

    body: bytearray = field(default_factory=bytearray)
    writer: weakref.ref[MemoryResumableWriter] | None = None

    def is_held(self) -> bool:
        writer = self.writer() if self.writer else None
        return writer is not None and writer.is_open


class MemoryResumable:
    """The part of MemoryStore that is Resumable and Composable. A state is `{token}~{n}`: a writer that finds another
    one still open goes on in a copy, as in a local bucket."""

    bucket: str

    def __init__(self) -> None:
        self._growing: dict[str, dict[int, _Growing]] = {}
        self._marks: dict[ObjectRef, str] = {}
        self._turn = threading.Lock()

    if TYPE_CHECKING:  # what MemoryStore brings

        def head(self, key: str, version: str | None = None) -> ObjectStat: ...

        def get(self, ref: ObjectRef, start: int = 0, end: int | None = None) -> Body: ...

        def put(
            self, key: str, body: bytes, headers: ObjectHeaders, *, sha256: str | None, overwrite: bool
        ) -> ObjectStat: ...

    def begin(self, key: str, headers: ObjectHeaders = _PLAIN, *, size: int | None = None) -> Progress:
        """See Resumable."""
        if self._there(key) is not None:
            raise ObjectExists
        token = secrets.token_hex(8)
        self._growing[token] = {0: _Growing()}
        return Progress(0, f"{token}~0")

    def resume(self, key: str, progress: Progress) -> MemoryResumableWriter:
        """See Resumable."""
        with self._turn:
            token, number, growing = self._found(progress)
            if growing.is_held():
                number = max(self._growing[token]) + 1
                growing = self._growing[token][number] = _Growing(growing.body[: progress.offset])
            del growing.body[progress.offset :]
            writer = MemoryResumableWriter(growing.body, f"{token}~{number}")
            growing.writer = weakref.ref(writer)
        return writer

    def finish(self, key: str, progress: Progress, headers: ObjectHeaders = _PLAIN) -> ObjectStat:
        """See Resumable."""
        mark = f"{progress.offset}~{progress.state}"
        with self._turn:
            if (done := self._made(key, mark)) is not None:
                return done
            token, _, growing = self._found(progress)
            body = bytes(growing.body[: progress.offset])
            made = self.put(key, body, headers, sha256=None, overwrite=False)
            self._marks[made.ref] = mark
            del self._growing[token]
        return made

    def drop(self, key: str, progress: Progress) -> None:
        """See Resumable."""
        self._growing.pop(progress.state.partition("~")[0], None)

    def compose(self, sources: Sequence[ObjectRef], key: str, headers: ObjectHeaders = _PLAIN) -> ObjectStat:
        """See Composable. Not in bounded memory."""
        mark = mark_of(sources, self.bucket)
        with self._turn:
            if (done := self._made(key, mark)) is not None:
                return done
            body = b"".join(piece for source in sources for piece in self.get(source))
            made = self.put(key, body, headers, sha256=None, overwrite=False)
            self._marks[made.ref] = mark
        return made

    def unfinished(self) -> int:
        """How many uploads have begun and are not done with."""
        return len(self._growing)

    def _found(self, progress: Progress) -> tuple[str, int, _Growing]:
        token, _, number = progress.state.partition("~")
        growing = self._growing.get(token, {}).get(int(number))
        if growing is None or len(growing.body) < progress.offset:
            raise ObjectNotFound
        return token, int(number), growing

    def _made(self, key: str, mark: str) -> ObjectStat | None:
        there = self._there(key)
        if there is not None and self._marks.get(there.ref) != mark:
            raise ObjectExists
        return there

    def _there(self, key: str) -> ObjectStat | None:
        try:
            return self.head(key)
        except ObjectNotFound:
            return None


class MemoryResumableWriter:
    """See ResumableWriter."""

    def __init__(self, body: bytearray, state: str) -> None:
        self._body, self._state = body, state
        self.is_open = True

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """See ResumableWriter."""
        self._check_open()
        self._body += chunk

    def checkpoint(self, *, partial: bool = True) -> Progress:
        """See ResumableWriter."""
        self._check_open()
        return Progress(len(self._body), self._state)

    def close(self) -> None:
        """See ResumableWriter."""
        self.is_open = False

    def _check_open(self) -> None:
        if not self.is_open:
            raise ValueError("the writer is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
