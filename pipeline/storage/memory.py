"""A bucket in this process's memory, for tests and for trying things: the same contract, nothing is kept."""

from __future__ import annotations

import hashlib
import io
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from pipeline.errors import Misconfigured, ObjectExists, ObjectNotFound
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat, ObjectStore, SignedPut
from pipeline.storage.local_signing import LocalSigner
from pipeline.storage.memory_resumable import MemoryResumable
from pipeline.storage.streams import Body, bound, compare, window

_PLAIN = ObjectHeaders()


@dataclass(frozen=True, slots=True)
class _Held:
    body: bytes
    stat: ObjectStat


class MemoryStore(MemoryResumable):
    """`sources`: the stores that copies may come from."""

    def __init__(self, bucket: str, *, signer: LocalSigner | None = None, sources: Sequence[ObjectStore] = ()) -> None:
        super().__init__()
        self.bucket = bucket
        self._signer = signer
        self._sources = {store.bucket: store for store in sources if isinstance(store, MemoryStore)}
        self._objects: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._serial = itertools.count(1)

    def create(self, key: str, headers: ObjectHeaders = _PLAIN, *, size: int | None = None) -> MemoryWriter:
        """See ObjectStore."""
        if key in self._objects:
            raise ObjectExists
        return MemoryWriter(self, key, headers)

    def put(self, key: str, body: bytes, headers: ObjectHeaders, *, sha256: str | None, overwrite: bool) -> ObjectStat:
        """Place the bytes. `overwrite` is what a foreign hand does; this service never does it."""
        found = hashlib.sha256(body).hexdigest()
        compare(found, sha256 or found)
        with self._lock:
            if key in self._objects and not overwrite:
                raise ObjectExists
            version = str(next(self._serial))
            ref = ObjectRef(self.bucket, key, version)
            stat = ObjectStat(ref, len(body), datetime.now(UTC), headers, found, version)
            self._objects[key] = _Held(body, stat)
        return stat

    def get(self, ref: ObjectRef, start: int = 0, end: int | None = None) -> Body:
        """See ObjectStore."""
        body = self._held(ref.key, ref.version).body
        at, end = window(len(body), start, end)
        stream = io.BytesIO(body)
        stream.seek(at)
        return Body(stream.read, stream.close, end - at)

    def head(self, key: str, version: str | None = None) -> ObjectStat:
        """See ObjectStore."""
        return self._held(key, version).stat

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectStat]:
        """See ObjectStore."""
        with self._lock:
            held = sorted(self._objects.items())
        return (each.stat for key, each in held if key.startswith(prefix) and key > after)

    def delete(self, ref: ObjectRef) -> bool:
        """See ObjectStore."""
        with self._lock:
            held = self._objects.get(ref.key)
            if held is None or held.stat.ref.version != ref.version:
                return False
            del self._objects[ref.key]
        return True

    def copy(self, source: ObjectRef, key: str, headers: ObjectHeaders | None = None, *, sha256: str) -> ObjectStat:
        """See ObjectStore. Raises Misconfigured where the source's bucket is not one of `sources`."""
        origin = self if source.bucket == self.bucket else self._sources.get(source.bucket)
        if origin is None:
            raise Misconfigured(f"The bucket {source.bucket!r} is not one that copies may come from.")
        there = self._objects.get(key)
        if there is not None and there.stat.sha256 == sha256:
            return there.stat
        held = origin._held(source.key, source.version)
        try:
            return self.put(key, held.body, headers or held.stat.headers, sha256=sha256, overwrite=False)
        except ObjectExists:
            there = self._objects.get(key)
            if there is not None and there.stat.sha256 == sha256:
                return there.stat
            raise

    def sign_get(self, ref: ObjectRef, expires: timedelta) -> str:
        """See ObjectStore. The API serves it."""
        return self._signing().get_url(ref, bound(expires))

    def sign_put(self, key: str, headers: ObjectHeaders, expires: timedelta, *, size: int | None = None) -> SignedPut:
        """See ObjectStore. The API takes it."""
        return self._signing().put_url(self.bucket, key, headers, bound(expires), size=size)

    def ping(self) -> None:
        """Memory is always there."""

    def ensure_bucket(self) -> None:
        """See Provisionable: there is nothing to make."""

    def _held(self, key: str, version: str | None) -> _Held:
        held = self._objects.get(key)
        if held is None or version not in (None, held.stat.ref.version):
            raise ObjectNotFound
        return held

    def _signing(self) -> LocalSigner:
        if self._signer is None:
            raise Misconfigured("This store has no secret to sign URLs with.")
        return self._signer


class MemoryWriter:
    """See ObjectWriter; the one writer whose memory is not bounded."""

    def __init__(self, store: MemoryStore, key: str, headers: ObjectHeaders) -> None:
        self._store, self._key, self._headers = store, key, headers
        self._body: io.BytesIO | None = io.BytesIO()

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """See ObjectWriter."""
        self._written().write(chunk)

    def commit(self, sha256: str | None = None) -> ObjectStat:
        """See ObjectWriter."""
        body, self._body = self._written().getvalue(), None
        return self._store.put(self._key, body, self._headers, sha256=sha256, overwrite=False)

    def abort(self) -> None:
        """See ObjectWriter."""
        self._body = None

    def _written(self) -> io.BytesIO:
        if self._body is None:
            raise ValueError("the writer is closed")
        return self._body

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
