"""What some stores can do beyond the ObjectStore port. Each is a small protocol: ask with isinstance, never try.

tests/contract/test_resumable.py, test_composable.py and test_signing_abilities.py hold every backend to them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat, SignedPut


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an object that comes in several requests has got: durable, whatever process dies.

    `offset`: bytes that are in the store for good. `state`: the store's own words (an upload id, a session, a pinned
    rest), opaque to whoever keeps it; at most a few KiB. It may hold a secret (a session's URL): it is kept in the
    ledger, and never logged or shown.
    """

    offset: int
    state: str


def token_of(state: str) -> str:
    """What the store itself calls the unfinished upload behind a state: the name that `Sweepable.abort_stale_uploads`
    knows it by. Every state, and what `SignsParts.begin_parts` returns, begins with it, and goes on after a tilde."""
    return state.partition("~")[0]


def mark_of(sources: Sequence[ObjectRef], bucket: str) -> str:
    """What a composed object is marked with: the same for the same versions in the same order, and for nothing else.
    Raises ValueError where one is of another bucket."""
    if any(source.bucket != bucket for source in sources):
        raise ValueError("objects are composed within one bucket")
    named = json.dumps([[source.key, source.version] for source in sources])
    return hashlib.sha256(named.encode()).hexdigest()[:32]


class ResumableWriter(Protocol):
    """A stretch of an object, appended in order. Memory is bounded by a few parts. Not safe for two threads."""

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append. The chunk's memory may be reused as soon as this returns. May wait for a part to be sent."""
        ...

    def checkpoint(self, *, partial: bool = True) -> Progress:
        """Make what was written so far durable and say how far that is.

        `partial` off: only what costs nothing extra (whole parts); the offset may then lie behind what was written,
        and writing goes on where it was. On (the end of a request): every byte.
        """
        ...

    def close(self) -> None:
        """Let go of buffers and connections. What was not in a checkpoint may be lost. Idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Resumable(Protocol):
    """One object written in order over many requests, each by any process that has the last Progress.

    Nothing is visible under the key until `finish`. Bytes go into the store's own unfinished upload, never to this
    machine's disk (unless the store is this machine's disk).
    """

    def begin(self, key: str, headers: ObjectHeaders = ..., *, size: int | None = None) -> Progress:
        """Start; the offset is 0. `size` is a hint: one that is known to be small costs fewer requests. Raises
        ObjectExists early where the store can tell."""
        ...

    def resume(self, key: str, progress: Progress) -> ResumableWriter:
        """Go on at exactly `progress.offset`: bytes that somebody wrote behind it without a checkpoint are dropped.

        Two writers of one object must be kept apart by the caller (a lock in the ledger); should they meet after all,
        nothing becomes visible that is not one of the two, and the bytes before the offset of the last checkpoint that
        the ledger kept are not changed, or (S3) `finish` refuses. Raises ObjectNotFound where the unfinished upload is
        gone, as far as the store can tell: it may show as late as at a checkpoint, and where nothing was written yet
        there may be nothing that could be gone.
        """
        ...

    def finish(self, key: str, progress: Progress, headers: ObjectHeaders = ...) -> ObjectStat:
        """Make the object visible: exactly the first `progress.offset` bytes, whole and durable, or not at all.

        Create-only (ObjectExists). Idempotent: a second run of the same upload, after a lost reply or a crash, finds
        the object that the first one made and gives the same answer. `headers` as given to `begin`.
        Raises ObjectNotFound where the upload is gone and the key is free, PreconditionFailed where what was
        acknowledged is there no more as it was.
        """
        ...

    def drop(self, key: str, progress: Progress) -> None:
        """Leave nothing of the unfinished upload. Idempotent; after `finish` the object itself stays."""
        ...


@runtime_checkable
class Composable(Protocol):
    """Objects of this bucket joined into one, by the store itself as far as it can."""

    def compose(self, sources: Sequence[ObjectRef], key: str, headers: ObjectHeaders = ...) -> ObjectStat:
        """Join exactly these versions, in this order, under `key`. The sources stay.

        Create-only, whole or not at all, in bounded memory, nothing unfinished left behind on failure. Idempotent: if
        `key` already holds what the same sources made (marked in its metadata), that is success; else ObjectExists.
        Raises ObjectNotFound or PreconditionFailed if a source's version is gone.
        """
        ...


@dataclass(frozen=True, slots=True)
class SentPart:
    """One part of a multipart upload as the store lists it. `tag` is its ETag without quotes."""

    number: int
    size: int
    tag: str


@runtime_checkable
class SignsParts(Protocol):
    """Multipart uploads whose parts clients send to the store themselves (S3).

    `upload` names the upload: opaque (`token_of` gives the store's own id), as good as a secret together with a signed
    URL, harmless alone.
    """

    least_part: int  # bytes of every part but the last: 5 MiB
    most_parts: int  # 10,000

    def begin_parts(self, key: str, headers: ObjectHeaders = ...) -> str:
        """Start a multipart upload; returns what it is called."""
        ...

    def sign_part(
        self, key: str, upload: str, number: int, expires: timedelta, *, size: int | None = None
    ) -> SignedPut:
        """A URL for one PUT of one part (1-based). `size`, where given, is signed."""
        ...

    def sent_parts(self, key: str, upload: str) -> Iterator[SentPart]:
        """The parts that are there, in order; pages are fetched as needed. ObjectNotFound: no such upload."""
        ...

    def finish_parts(self, key: str, upload: str, parts: Sequence[SentPart]) -> ObjectStat:
        """Complete, create-only, exactly these parts. Idempotent as `Resumable.finish` is. ObjectExists,
        PreconditionFailed (a part is missing, another one or too small), ObjectNotFound."""
        ...

    def drop_parts(self, key: str, upload: str) -> None:
        """Abort. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class SignedForm:
    """A form that a browser may POST to `url`: these fields first, the file last, under the name `file`."""

    url: str
    fields: Mapping[str, str]
    expires_at: datetime


@runtime_checkable
class SignsForms(Protocol):
    """POST policies (S3): the only presigned way that bounds the size of what is sent."""

    def sign_form(self, key: str, headers: ObjectHeaders, expires: timedelta, *, least: int, most: int) -> SignedForm:
        """A form for exactly this key and type, and `least` to `most` bytes (content-length-range). Not create-only:
        S3 cannot sign that for a form."""
        ...


@runtime_checkable
class OpensSessions(Protocol):
    """Resumable sessions that a client may be given (Cloud Storage)."""

    def open_session(self, key: str, headers: ObjectHeaders, *, size: int | None, origin: str | None) -> str:
        """The session's URL: whoever has it may send these bytes, once, create-only, for a week at most. `size` is
        announced, but what lands must be measured. `origin` is the web page's that will use it (CORS)."""
        ...

    def close_session(self, url: str) -> None:
        """End it. Idempotent."""
        ...
