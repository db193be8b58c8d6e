"""One file that grows over many requests: `.incoming/{token}-{n}`. See Resumable.

A writer holds the file's lock (flock), which ends with its process. Whoever finds it held leaves that file alone and
goes on in a copy, `n` one higher: so a writer that everybody took for dead, and that wakes up again, writes into a file
that nobody reads.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import secrets
import stat
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.errors import Misconfigured, ObjectExists, ObjectNotFound
from pipeline.storage import local_files as files
from pipeline.storage.abilities import Progress
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat
from pipeline.storage.local_writer import Target, drop_note, note_path, publish

_PLAIN = ObjectHeaders()
_STATE = re.compile(r"([0-9a-f]{32})~([0-9]{1,9})~([0-9]{1,20})")
WRITEBACK = 1 << 20  # bytes after which the disk is told to begin, so that a request of a few MiB ends without a wait


@dataclass(frozen=True, slots=True)
class _Growing:
    """Which file it is. `stamp`, in nanoseconds, is the time that the finished object will bear: by it, as part of the
    version, a second `finish` knows what the first one made. It is when the upload began, as on S3."""

    token: str
    number: int
    stamp: int

    @classmethod
    def of(cls, progress: Progress) -> _Growing:
        """From a state that this store gave out."""
        match = _STATE.fullmatch(progress.state)
        if match is None:
            raise ObjectNotFound
        return cls(match[1], int(match[2]), int(match[3]))

    def at(self, offset: int) -> Progress:
        return Progress(offset, f"{self.token}~{self.number}~{self.stamp}")

    def path(self, root: Path) -> Path:
        return root / files.INCOMING / f"{self.token}-{self.number}"

    def version(self, size: int) -> str:
        """The version of the finished object."""
        return files.version_at(self.stamp, size)


class LocalResumable:
    """The part of LocalStore that is Resumable and Sweepable."""

    root: Path
    bucket: str

    def begin(self, key: str, headers: ObjectHeaders = _PLAIN, *, size: int | None = None) -> Progress:
        """See Resumable. The name becomes durable with the first checkpoint. Raises ValueError for a key that is no
        relative path."""
        if not files.is_key(key):
            raise ValueError("not a key that this store can hold")
        growing = _Growing(secrets.token_hex(16), 0, time.time_ns())
        with files.translated():
            if os.path.lexists(self.root / key):
                raise ObjectExists
        try:
            with files.translated(), _closing(_create(growing.path(self.root))) as descriptor:
                os.utime(descriptor, ns=(growing.stamp, growing.stamp))
                stamp = os.fstat(descriptor).st_mtime_ns  # as exactly as the file system keeps it
        except ObjectNotFound:
            raise Misconfigured(f"There is no bucket {self.bucket!r}.") from None
        return replace(growing, stamp=stamp).at(0)

    def resume(self, key: str, progress: Progress) -> LocalResumableWriter:
        """See Resumable."""
        growing = _Growing.of(progress)
        with files.translated():
            descriptor = os.open(growing.path(self.root), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if not _locked(descriptor):  # another writer's: go on in a copy
                    growing, copy = self._copied(descriptor, growing, progress.offset)
                    os.close(descriptor)
                    return LocalResumableWriter(self.root, growing, copy, progress.offset, named=False)
                _check(descriptor, progress.offset, growing.path(self.root))
                os.ftruncate(descriptor, progress.offset)
            except BaseException:
                os.close(descriptor)
                raise
        return LocalResumableWriter(self.root, growing, descriptor, progress.offset, named=progress.offset > 0)

    def _copied(self, held: int, growing: _Growing, offset: int) -> tuple[_Growing, int]:
        """A new file with the first `offset` bytes of one that another writer holds."""
        _check(held, offset)
        for number in itertools.count(growing.number + 1):
            following = replace(growing, number=number)
            with contextlib.suppress(FileExistsError):
                descriptor = _create(following.path(self.root))
                break
        try:
            _locked(descriptor)
            files.copy_range(held, descriptor, offset)
            _check(descriptor, offset)
        except BaseException:
            os.close(descriptor)
            following.path(self.root).unlink(missing_ok=True)
            raise
        return following, descriptor

    def finish(self, key: str, progress: Progress, headers: ObjectHeaders = _PLAIN) -> ObjectStat:
        """See Resumable. No byte is copied: the file gets its second name, and loses the first."""
        growing = _Growing.of(progress)
        target = Target(self.root, self.bucket, key, headers)
        if not files.is_key(key):
            raise ObjectNotFound
        with files.translated():
            made = self._made(target, growing, progress.offset)
            if made is None:
                if os.path.lexists(target.path):
                    raise ObjectExists
                try:
                    made = self._publish(target, growing, progress.offset)
                except (ObjectNotFound, FileNotFoundError):  # another run may have come first, and cleared away
                    made = self._made(target, growing, progress.offset)
                    if made is None:
                        raise
            self._clear(growing)
        return made

    def _publish(self, target: Target, growing: _Growing, offset: int) -> ObjectStat:
        descriptor = os.open(growing.path(self.root), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with _closing(descriptor):
            if not _locked(descriptor):
                growing, copy = self._copied(descriptor, growing, offset)
                with _closing(copy):
                    try:
                        return self._named(target, growing, copy)
                    finally:  # whoever clears meanwhile may have passed its number
                        self._remove(growing)
            _check(descriptor, offset)
            if os.fstat(descriptor).st_size > offset:
                os.truncate(growing.path(self.root), offset)
            return self._named(target, growing, descriptor)

    def _named(self, target: Target, growing: _Growing, descriptor: int) -> ObjectStat:
        os.fchmod(descriptor, 0o400)
        return publish(growing.path(self.root), descriptor, target, stamp=growing.stamp, again=True)

    def _made(self, target: Target, growing: _Growing, offset: int) -> ObjectStat | None:
        """What an earlier `finish` of this upload made."""
        version = growing.version(offset)
        if not files.has_version(target.path, version):
            return None
        files.sync_up(target.path.parent, self.root)  # it may have been killed before it did
        found = target.path.lstat()
        ref = ObjectRef(self.bucket, target.key, version)
        return ObjectStat(ref, offset, files.modified(found), target.headers, etag=version)

    def drop(self, key: str, progress: Progress) -> None:
        """See Resumable."""
        with files.translated():
            self._clear(_Growing.of(progress))

    def _clear(self, growing: _Growing) -> None:
        """Remove every file of this upload: also those of writers that never came to a checkpoint."""
        for number in itertools.count():
            if not self._remove(replace(growing, number=number)) and number >= growing.number:
                return

    def _remove(self, growing: _Growing) -> bool:
        path = growing.path(self.root)
        drop_note(note_path(path), self.root)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            return True
        return False

    def abort_stale_uploads(self, older_than: timedelta, *, spare: Container[str] = ()) -> int:
        """See Sweepable. A writer that still writes keeps its file young."""
        limit = time.time() - older_than.total_seconds()
        count = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / files.INCOMING) as entries:
            for entry in entries:
                token = entry.name.removesuffix(files.HEADERS).partition("-")[0]
                with contextlib.suppress(FileNotFoundError):
                    if token not in spare and entry.stat(follow_symlinks=False).st_mtime <= limit:
                        left = Path(entry.path)
                        if left.name.endswith(files.HEADERS):
                            drop_note(left, self.root)
                        left.unlink(missing_ok=True)
                        count += not entry.name.endswith(files.HEADERS)
        return count


class LocalResumableWriter:
    """See ResumableWriter. Keeps nothing in memory."""

    def __init__(self, root: Path, growing: _Growing, descriptor: int, offset: int, *, named: bool) -> None:
        self._root, self._growing, self._descriptor = root, growing, descriptor
        self._offset = self._begun = self._synced = offset
        self._named = named  # its name is on disk
        self._open = True

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """See ResumableWriter."""
        self._check_open()
        with files.translated():
            # At an offset: what a full disk cut short is written over by the next one.
            at, rest = self._offset, memoryview(chunk)
            while rest:
                written = os.pwrite(self._descriptor, rest, at)
                at, rest = at + written, rest[written:]
        self._offset = at
        if at - self._begun >= WRITEBACK:
            with contextlib.suppress(OSError, AttributeError):
                # Starts to write dirty pages and does not wait (mm/fadvise.c); only clean ones would be forgotten.
                os.posix_fadvise(self._descriptor, self._begun, at - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = at

    def checkpoint(self, *, partial: bool = True) -> Progress:
        """See ResumableWriter: every byte, each time. After an error nothing more can be trusted to reach the disk: the
        writer is closed."""
        self._check_open()
        if self._offset != self._synced or not self._named:
            try:
                with files.translated():
                    os.fdatasync(self._descriptor)
                    if not self._named:
                        files.sync_folder(self._root / files.INCOMING)
            except BaseException:
                self.close()
                raise
            self._synced, self._named = self._offset, True
        return self._growing.at(self._offset)

    def close(self) -> None:
        """See ResumableWriter."""
        if self._open:
            self._open = False
            os.close(self._descriptor)

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("the writer is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self.close()


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _locked(descriptor: int) -> bool:
    """Take the file's lock, if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check(descriptor: int, offset: int, path: Path | None = None) -> None:
    """Raises ObjectNotFound unless this is still an upload's file, and holds so many bytes. With `path` it has to be
    called so yet: between its opening and its locking somebody may have made an object of it."""
    found = os.fstat(descriptor)
    # One name only: with none it was dropped, with two it is an object already, which nobody may write into.
    named = found.st_nlink == 1 and (path is None or os.path.samestat(found, path.lstat()))
    if not stat.S_ISREG(found.st_mode) or not named or found.st_size < offset:
        raise ObjectNotFound


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
