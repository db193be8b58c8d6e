"""One file on its way into a local bucket."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pipeline.errors import Misconfigured, ObjectExists, ObjectNotFound, StoreError
from pipeline.storage import local_files as files
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat
from pipeline.storage.streams import PIECE

_PLAIN = ObjectHeaders()
MOST_HEADERS = 64 << 10  # bytes


class LocalWriter:
    """See ObjectWriter. Nothing is hashed here: whoever writes has hashed already, and twice would halve the speed.

    A kill or a power cut between any two lines of `commit` leaves one of three things: files in .incoming; those and
    headers under a name that nothing reads (both swept, see `LocalStore.abort_stale_uploads`); or the whole object,
    which a retry finds.
    """

    def __init__(self, root: Path, bucket: str, key: str, headers: ObjectHeaders, mark: str | None = None) -> None:
        self._root, self._bucket, self._key, self._headers, self._mark = root, bucket, key, headers, mark
        self._temp = root / files.INCOMING / secrets.token_hex(16)
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
        target = Target(self._root, self._bucket, self._key, self._headers, self._mark)
        return publish(self._temp, self._descriptor, target, stamp=time.time_ns())

    def copy_in(self, source: int, size: int) -> None:
        """Append the first `size` bytes of another file, by the kernel. Raises StoreError if it is shorter."""
        if not self._open:
            raise ValueError("the writer is closed")
        with files.translated():
            if files.copy_range(source, self._descriptor, size) != size:
                raise StoreError("The local store: a file became shorter while it was copied.")

    def abort(self) -> None:
        """See ObjectWriter."""
        if self._open:
            self._open = False
            os.close(self._descriptor)
            # Not synced: a leftover that comes back after a power cut is swept.
            with contextlib.suppress(OSError):
                self._temp.unlink(missing_ok=True)
                if self._headers != _PLAIN or self._mark:
                    note_path(self._temp).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self.abort()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a finished file goes, and what is kept beside it. `mark`: what made it, so that a second run knows it."""

    root: Path
    bucket: str
    key: str
    headers: ObjectHeaders
    mark: str | None = None

    @property
    def path(self) -> Path:
        """The object's own name."""
        return self.root / self.key


def publish(temp: Path, descriptor: int, target: Target, *, stamp: int, again: bool = False) -> ObjectStat:
    """Give a whole file its name, durably: what every way of writing ends with. `temp` keeps its own name.

    `stamp`, in nanoseconds, becomes the modification time and so the version. With `again` it is this upload's alone:
    what is found under that very version was made by an earlier run, and is used. Raises ObjectExists.
    """
    os.utime(descriptor, ns=(stamp, stamp))
    found = os.fstat(descriptor)
    version = files.version_of(found)
    os.fsync(descriptor)  # the bytes before the name: a name never leads to half a file
    plain = target.headers == _PLAIN and target.mark is None
    beside = None if plain else _link_headers(temp, target, version, again=again)
    try:
        files.link_new(temp, target.path, target.root)  # visible from here on; atomic, and fails if taken
    except BaseException as error:
        ours = again and files.has_version(target.path, version)
        if beside is not None and not ours:
            beside.unlink(missing_ok=True)
            files.prune(beside.parent, target.root)
        if not isinstance(error, FileExistsError):
            raise
        if not ours:
            raise ObjectExists from None
    files.sync_up(target.path.parent, target.root)
    ref = ObjectRef(target.bucket, target.key, version)
    return ObjectStat(ref, found.st_size, files.modified(found), target.headers, etag=version)


def _link_headers(temp: Path, target: Target, version: str, *, again: bool) -> Path:
    # The headers before the bytes, and on disk before them: bytes are never seen without their headers. The note stays
    # in .incoming until all is done, so that the sweeper can tell where a lost one went.
    note, path = note_path(temp), headers_path(target.path, version)
    if again:
        note.unlink(missing_ok=True)  # a run that was killed may have written half of it
    files.write_file(note, encode(target.headers, target.key, version, target.mark))
    try:
        files.link_new(note, path, target.root)
    except FileExistsError:
        if not again:  # another writer of this key, in the same nanosecond
            raise ObjectExists from None
    files.sync_folder(path.parent)
    return path


def note_path(temp: Path) -> Path:
    """Where the headers wait that the file will have."""
    return temp.with_name(temp.name + files.HEADERS)


def drop_note(note: Path, root: Path) -> None:
    """Remove such headers, and their second name too if the bytes never got theirs."""
    with contextlib.suppress(ValueError, KeyError, OSError):
        kept = json.loads(note.read_bytes())
        if files.is_key(kept["key"]):
            path = root / kept["key"]
            if not files.has_version(path, kept["version"]):
                headers_path(path, kept["version"]).unlink(missing_ok=True)
                files.prune(path.parent, root)
        note.unlink()


def headers_path(target: Path, version: str) -> Path:
    """Where the headers of that version lie."""
    return target.with_name(f".{target.name}.{version}")


def encode(headers: ObjectHeaders, key: str, version: str, mark: str | None = None) -> bytes:
    """Headers as they are kept, with what the sweeper needs to find them by."""
    kept = {
        "key": key,
        "version": version,
        "content_type": headers.content_type,
        "content_disposition": headers.content_disposition,
        "metadata": dict(headers.metadata),
    }
    return json.dumps(kept | ({"mark": mark} if mark else {})).encode()


def kept_with(folder: int, name: str, version: str) -> dict[str, Any]:
    """What `encode` kept of that version, in an open folder; nothing where there is none.

    A file that other programs put there may have such a neighbour, too: it is bounded, and believed only if it reads as
    one of ours, which is all that their own headers would be on another store.
    """
    try:
        descriptor = os.open(
            f".{name}.{version}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder
        )
    except OSError as error:
        # Closed to us, or a socket: then it is not ours, and must not keep anybody from the files around it.
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.ENXIO):
            return {}
        raise
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return {}
        try:
            kept = json.loads(file.read(MOST_HEADERS))
        except (ValueError, RecursionError):
            return {}
    return kept if isinstance(kept, dict) else {}


def decode(kept: dict[str, Any]) -> ObjectHeaders:
    """The headers again."""
    kind, disposition, metadata = (kept.get(name) for name in ("content_type", "content_disposition", "metadata"))
    if not isinstance(kind, str) or not isinstance(disposition, str | None) or not isinstance(metadata, dict):
        return _PLAIN
    return ObjectHeaders(kind, disposition, {str(name): str(value) for name, value in metadata.items()})


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
