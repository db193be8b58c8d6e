"""One file on its way into a local bucket."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pipeline.errors import Misconfigured, ObjectExists, ObjectNotFound, StoreError
from pipeline.storage import local_files as files
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat
from pipeline.storage.streams import PIECE

_PLAIN = ObjectHeaders()


class LocalWriter:
    """See ObjectWriter. Nothing is hashed here: whoever writes has hashed already, and twice would halve the speed.

    A kill or a power cut between any two lines of `commit` leaves one of three things: files in .incoming; those and
    headers under a name that nothing reads (both swept, see `LocalStore.abort_stale_uploads`); or the whole object,
    which a retry finds.
    """

    def __init__(self, root: Path, bucket: str, key: str, headers: ObjectHeaders) -> None:
        self._root, self._bucket, self._key, self._headers = root, bucket, key, headers
        self._temp = root / files.INCOMING / secrets.token_hex(16)
        self._note: Path | None = None
        try:
            with files.translated():
                self._descriptor = os.open(self._temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        except ObjectNotFound:
            raise Misconfigured(f"There is no bucket {bucket!r}.") from None
        self._open = True

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """See ObjectWriter."""
        if not self._open:
            raise ValueError("the writer is closed")
        with files.translated():
            files.write_all(self._descriptor, chunk)

    def commit(self, sha256: str | None = None) -> ObjectStat:
        """See ObjectWriter. A local store has no checksum of its own to compare with."""
        if not self._open:
            raise ValueError("the writer is closed")
        try:
            with files.translated():
                return self._commit()
        except ObjectNotFound:
            raise StoreError("The upload was swept away, or its key lies below another object.") from None
        finally:
            self.abort()

    def _commit(self) -> ObjectStat:
        # The kernel's own time stamps move in steps of milliseconds; versions need every nanosecond.
        os.utime(self._descriptor, ns=(now := time.time_ns(), now))
        found = os.fstat(self._descriptor)
        version = files.version_of(found)
        target = self._root / self._key
        os.fsync(self._descriptor)  # the bytes before the name: a name never leads to half a file
        beside = self._link_headers(target, version) if self._headers != _PLAIN else None
        try:
            files.link_new(self._temp, target, self._root)  # visible from here on; atomic, and fails if taken
        except BaseException as error:
            if beside is not None:
                beside.unlink(missing_ok=True)
                files.prune(beside.parent, self._root)
            if isinstance(error, FileExistsError):
                raise ObjectExists from None
            raise
        files.sync_up(target.parent, self._root)
        ref = ObjectRef(self._bucket, self._key, version)
        return ObjectStat(ref, found.st_size, files.modified(found), self._headers, etag=version)

    def _link_headers(self, target: Path, version: str) -> Path:
        # The headers before the bytes, and on disk before them: bytes are never seen without their headers. The note
        # stays in .incoming until all is done, so that the sweeper can tell where a lost one went.
        self._note = self._temp.with_name(self._temp.name + files.HEADERS)
        files.write_file(self._note, encode(self._headers, self._key, version))
        path = headers_path(target, version)
        try:
            files.link_new(self._note, path, self._root)
        except FileExistsError:  # another writer of this key, in the same nanosecond
            raise ObjectExists from None
        files.sync_folder(path.parent)
        return path

    def abort(self) -> None:
        """See ObjectWriter."""
        if self._open:
            self._open = False
            os.close(self._descriptor)
            # Not synced: a leftover that comes back after a power cut is swept.
            with contextlib.suppress(OSError):
                self._temp.unlink(missing_ok=True)
                if self._note is not None:
                    self._note.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self.abort()


def headers_path(target: Path, version: str) -> Path:
    """Where the headers of that version lie."""
    return target.with_name(f".{target.name}.{version}")


def encode(headers: ObjectHeaders, key: str, version: str) -> bytes:
    """Headers as they are kept, with what the sweeper needs to find them by."""
    return json.dumps(
        {
            "key": key,
            "version": version,
            "content_type": headers.content_type,
            "content_disposition": headers.content_disposition,
            "metadata": dict(headers.metadata),
        }
    ).encode()


def decode(raw: bytes) -> ObjectHeaders:
    """The headers again."""
    kept = json.loads(raw)
    return ObjectHeaders(kept["content_type"], kept["content_disposition"], kept["metadata"])


def hashed_copy(source: BinaryIO, writer: LocalWriter) -> str:
    """Write everything that `source` holds, and return its SHA-256.

    One piece is hashed while it is written: both let go of the interpreter's lock, so a large copy takes as long as
    the slower of the two.
    """
    digest = hashlib.sha256()
    piece = source.read(PIECE)
    if len(piece) < PIECE:  # a thread would cost more than it saves
        writer.write(piece)
        digest.update(piece)
        return digest.hexdigest()
    with ThreadPoolExecutor(1, "hash") as beside:
        while piece:
            hashing = beside.submit(digest.update, piece)
            writer.write(piece)
            hashing.result()
            piece = source.read(PIECE)
    return digest.hexdigest()
