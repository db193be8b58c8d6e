"""The ObjectStore port and its contract. tests/contract/test_object_store.py holds every backend to it.

A store knows keys and bytes, never documents. Vendor errors are translated where they are met:
ObjectExists, ObjectNotFound, PreconditionFailed, ChecksumMismatch, StoreUnavailable (down, slow, throttled),
StoreError (anything else).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import BinaryIO, Protocol, Self, runtime_checkable

MAX_SIGNED = timedelta(hours=2)  # no signed URL lives longer


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """Exactly one set of bytes: `version` is a version id, a generation, or an ETag where there are no versions."""

    bucket: str
    key: str
    version: str


@dataclass(frozen=True, slots=True)
class ObjectHeaders:
    """What is stored with the bytes and given back when they are served."""

    content_type: str = "application/octet-stream"
    content_disposition: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)  # keys [a-z0-9-], values printable ASCII


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What the store says of one object. `sha256` is lower-case hex, and only set where the store itself vouches for
    it (it computed or checked it over exactly these bytes); `etag` is without quotes."""

    ref: ObjectRef
    size: int
    modified: datetime
    headers: ObjectHeaders = ObjectHeaders()
    sha256: str | None = None
    etag: str | None = None


class ObjectWriter(Protocol):
    """One object being written from a stream of unknown length. Nothing is visible under the key until `commit`.

    Memory is bounded (a few parts) whatever the length. Leaving the `with` block without commit aborts, and then
    nothing is left behind, not even an unfinished multipart upload. Methods may block; not safe for two threads.
    """

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append. The chunk's memory may be reused as soon as this returns."""
        ...

    def commit(self, sha256: str | None = None) -> ObjectStat:
        """Make the object visible, whole and durable, or not at all.

        `sha256` (lower-case hex), where given, is what the caller hashed: the store's own checksum is compared with
        it where the store has one. Raises ObjectExists if the key was taken meanwhile (never overwrites),
        ChecksumMismatch.
        """
        ...

    def abort(self) -> None:
        """Drop everything. Idempotent; after commit it does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ObjectStore(Protocol):
    """One bucket. Safe to use from several threads."""

    bucket: str

    def create(self, key: str, headers: ObjectHeaders = ..., *, size: int | None = None) -> ObjectWriter:
        """Start an object. `size` is a hint for choosing part sizes, never trusted. Raises ObjectExists early where
        the store can tell, and at commit in every case."""
        ...

    def get(self, ref: ObjectRef, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes [start, end) of exactly this version, in pieces of at most 1 MiB.

        Raises ObjectNotFound if that version is gone or replaced; a body that ends early raises StoreUnavailable.
        The iterator must be exhausted or closed.
        """
        ...

    def head(self, key: str, version: str | None = None) -> ObjectStat:
        """Raises ObjectNotFound. Without a version: the current one, and its version is in the answer."""
        ...

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectStat]:
        """Current objects in key order, keys > `after`; pages are fetched as needed. Headers may be left empty."""
        ...

    def delete(self, ref: ObjectRef) -> bool:
        """Delete exactly this version; False if it was not there (any more). Never deletes another version's bytes."""
        ...

    def copy(self, source: ObjectRef, key: str, headers: ObjectHeaders | None = None, *, sha256: str) -> ObjectStat:
        """Copy that version from its bucket (of the same kind) to `key` here, on the server's side, create-only.

        Keeps content type, disposition and metadata at every size, or replaces all three by `headers`. The new
        object's bytes are verified against `sha256` (the store's checksum, else by reading back), and removed again
        on ChecksumMismatch. If the key already holds exactly these bytes (same sha256) that is success (idempotent);
        other bytes: ObjectExists. Raises ObjectNotFound or PreconditionFailed if the source version is gone.
        """
        ...

    def sign_get(self, ref: ObjectRef, expires: timedelta) -> str:
        """An absolute URL that gives exactly these bytes with their stored headers until it expires (<= MAX_SIGNED,
        else ValueError). Works with Range. Where the store cannot bind a version into a URL the caller must make sure
        that the key is never overwritten (serving keys are create-only)."""
        ...

    def sign_put(self, key: str, headers: ObjectHeaders, expires: timedelta, *, size: int | None = None) -> SignedPut:
        """A URL for one PUT of this key, create-only where the store can sign that."""
        ...

    def ping(self) -> None:
        """Raises StoreUnavailable or Misconfigured (no such bucket, wrong credentials): one sentence, no secret."""
        ...


@dataclass(frozen=True, slots=True)
class SignedPut:
    """What a client must send: this method, this URL, exactly these headers."""

    url: str
    headers: Mapping[str, str]
    expires_at: datetime
    method: str = "PUT"


@runtime_checkable
class LocalFiles(Protocol):
    """Optional: the bytes are files on this machine, so a reader needs no copy."""

    def open_local(self, ref: ObjectRef) -> BinaryIO:
        """A read-only handle of exactly this version's file. Raises ObjectNotFound."""
        ...


@runtime_checkable
class Sweepable(Protocol):
    """Optional: unfinished uploads can be seen and dropped."""

    def abort_stale_uploads(self, older_than: timedelta, *, spare: Container[str] = ()) -> int:
        """Abort unfinished multipart uploads and temporary files older than that; returns how many.

        `spare` are those that somebody still goes on with: what `abilities.token_of` says of each open upload's state.
        """
        ...


@runtime_checkable
class Provisionable(Protocol):
    """Optional: the bucket can be made (used by `airlock run`, tests and compose, never by the API)."""

    def ensure_bucket(self) -> None:
        """Create the bucket if it is not there. Idempotent."""
        ...
