"""A bucket that is a folder of this machine. See local_files.py for what lies where."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import Misconfigured, ObjectExists, ObjectNotFound, PreconditionFailed
from pipeline.storage import local_files as files
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat, ObjectStore, SignedPut
from pipeline.storage.local_compose import compose
from pipeline.storage.local_resumable import LocalResumable
from pipeline.storage.local_signing import LocalSigner
from pipeline.storage.local_writer import LocalWriter, decode, drop_note, hashed_copy, headers_path
from pipeline.storage.streams import Body, bound, compare, digest_of, window

_PLAIN = ObjectHeaders()


class LocalStore(LocalResumable):
    """One folder. `sources` are the stores that copies may come from; a bucket that is not among them is looked for
    beside this one, as buckets of one account. Two keys of which one is the other plus "/..." cannot both exist."""

    def __init__(self, root: Path, *, signer: LocalSigner | None = None, sources: Sequence[ObjectStore] = ()) -> None:
        self.root = root.absolute()
        self.bucket = self.root.name
        self._signer = signer
        self._sources = {store.bucket: store for store in sources if isinstance(store, LocalStore)}

    def create(self, key: str, headers: ObjectHeaders = _PLAIN, *, size: int | None = None) -> LocalWriter:
        """See ObjectStore. Raises ValueError for a key that is no relative path."""
        if not files.is_key(key):
            raise ValueError("not a key that this store can hold")
        with files.translated():
            if os.path.lexists(self.root / key):
                raise ObjectExists
        return LocalWriter(self.root, self.bucket, key, headers)

    def get(self, ref: ObjectRef, start: int = 0, end: int | None = None) -> Body:
        """See ObjectStore."""
        with files.translated():
            descriptor, found = files.open_pinned(self._path(ref.key), ref)
        at, end = window(found.st_size, start, end)
        position = at

        def read(count: int) -> bytes:
            nonlocal position
            with files.translated():
                piece = os.pread(descriptor, count, position)
                position += len(piece)
                # An inode stays ours when its name goes, but a foreign hand may write into it.
                if files.version_of(os.fstat(descriptor)) != ref.version:
                    raise ObjectNotFound
            return piece

        return Body(read, lambda: os.close(descriptor), end - at)

    def open_local(self, ref: ObjectRef) -> BinaryIO:
        """See LocalFiles."""
        with files.translated():
            descriptor, _ = files.open_pinned(self._path(ref.key), ref)
            return os.fdopen(descriptor, "rb")

    def head(self, key: str, version: str | None = None) -> ObjectStat:
        """See ObjectStore."""
        path = self._path(key)
        with files.translated():
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or version not in (None, files.version_of(found)):
                raise ObjectNotFound
        try:
            headers = decode(headers_path(path, files.version_of(found)).read_bytes())
        except FileNotFoundError:
            headers = _PLAIN
        return self._stat(key, found, headers)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectStat]:
        """See ObjectStore. One folder's names are in memory at a time, a level."""
        return self._walk("", prefix, after)

    def _walk(self, base: str, prefix: str, after: str) -> Iterator[ObjectStat]:
        names: Sequence[str] = ()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / base) as entries:
            # A folder sorts as its keys do: "a-b" < "a/x" < "a0".
            names = sorted(
                base + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
                for entry in entries
                if files.SEGMENT.fullmatch(entry.name)
            )
        for name in names:
            if name.endswith("/"):
                wanted = name.startswith(prefix) or prefix.startswith(name)
                if wanted and (name > after or after.startswith(name)):
                    yield from self._walk(name, prefix, after)
            elif name.startswith(prefix) and name > after:
                with contextlib.suppress(FileNotFoundError):
                    found = (self.root / name).lstat()
                    if stat.S_ISREG(found.st_mode):
                        yield self._stat(name, found, _PLAIN)

    def delete(self, ref: ObjectRef) -> bool:
        """See ObjectStore."""
        path = self._path(ref.key)
        if not files.VERSION.fullmatch(ref.version):
            return False
        try:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        with files.translated():
            try:
                # Look and unlink as one: nobody replaces a name that is taken, so only another delete could make way
                # for other bytes in between, and every delete holds this lock.
                fcntl.flock(folder, fcntl.LOCK_EX)
                there = False
                with contextlib.suppress(FileNotFoundError):
                    there = files.version_of(os.lstat(path.name, dir_fd=folder)) == ref.version
                    if there:
                        os.unlink(path.name, dir_fd=folder)
                # The headers last, and even if the bytes are gone: a delete that was killed in between is finished by
                # the next one. The other way round, bytes could be seen without their headers.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(headers_path(path, ref.version).name, dir_fd=folder)
                if there:
                    os.fsync(folder)
                files.prune(path.parent, self.root)
            finally:
                os.close(folder)
        return there

    def copy(self, source: ObjectRef, key: str, headers: ObjectHeaders | None = None, *, sha256: str) -> ObjectStat:
        """See ObjectStore. Bytes are hashed as they are copied, in a file that only gets its name if they are right."""
        if (done := self._already(key, sha256)) is not None:
            return done
        origin = self._origin(source.bucket)
        kept = headers or origin.head(source.key, source.version).headers
        try:
            with self.create(key, kept) as writer, origin.open_local(source) as body:
                compare(hashed_copy(body, writer), sha256)
                if files.version_of(os.fstat(body.fileno())) != source.version:
                    raise PreconditionFailed
                made = writer.commit()
        except ObjectExists:  # somebody was faster, perhaps with the same bytes
            if (done := self._already(key, sha256)) is not None:
                return done
            raise
        return ObjectStat(made.ref, made.size, made.modified, made.headers, sha256, made.etag)

    def _already(self, key: str, sha256: str) -> ObjectStat | None:
        try:
            there = self.head(key)
            if digest_of(self.get(there.ref)) != sha256:
                raise ObjectExists
        except ObjectNotFound:
            return None
        return ObjectStat(there.ref, there.size, there.modified, there.headers, sha256, there.etag)

    def _origin(self, bucket: str) -> LocalStore:
        if bucket == self.bucket:
            return self
        if bucket in self._sources:
            return self._sources[bucket]
        if not files.SEGMENT.fullmatch(bucket):
            raise ObjectNotFound
        return LocalStore(self.root.parent / bucket)

    def compose(self, sources: Sequence[ObjectRef], key: str, headers: ObjectHeaders = _PLAIN) -> ObjectStat:
        """See Composable. The kernel copies; one source alone gets a second name, and no byte is copied."""
        return compose(self, sources, key, headers)

    def sign_get(self, ref: ObjectRef, expires: timedelta) -> str:
        """See ObjectStore. The API serves it. Raises Misconfigured without a signer."""
        return self._signing().get_url(ref, bound(expires))

    def sign_put(self, key: str, headers: ObjectHeaders, expires: timedelta, *, size: int | None = None) -> SignedPut:
        """See ObjectStore. The API takes it, through `create`."""
        return self._signing().put_url(self.bucket, key, headers, bound(expires), size=size)

    def ping(self) -> None:
        """See ObjectStore."""
        if not os.access(self.root / files.INCOMING, os.W_OK | os.X_OK):
            raise Misconfigured(f"The bucket {self.bucket!r} is not there, or cannot be written to.")

    def ensure_bucket(self) -> None:
        """See Provisionable."""
        (self.root / files.INCOMING).mkdir(0o700, parents=True, exist_ok=True)

    def abort_stale_uploads(self, older_than: timedelta) -> int:
        """See Sweepable. A writer that still writes keeps its file young."""
        limit = time.time() - older_than.total_seconds()
        count = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / files.INCOMING) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime <= limit:
                        left = Path(entry.path)
                        if left.name.endswith(files.HEADERS):
                            drop_note(left, self.root)
                        left.unlink(missing_ok=True)
                        count += not entry.name.endswith(files.HEADERS)
        return count

    def _path(self, key: str) -> Path:
        if not files.is_key(key):
            raise ObjectNotFound
        return self.root / key

    def _stat(self, key: str, found: os.stat_result, headers: ObjectHeaders) -> ObjectStat:
        version = files.version_of(found)
        ref = ObjectRef(self.bucket, key, version)
        return ObjectStat(ref, found.st_size, files.modified(found), headers, etag=version)

    def _signing(self) -> LocalSigner:
        if self._signer is None:
            raise Misconfigured("This store has no secret to sign URLs with.")
        return self._signer
