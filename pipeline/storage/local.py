"""A bucket that is a folder of this machine. See local_files.py for what lies where."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
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
from pipeline.storage.local_writer import LocalWriter, decode, hashed_copy, kept_with
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
            descriptor, found = files.open_pinned(self.root, ref)
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
            descriptor, _ = files.open_pinned(self.root, ref)
            return os.fdopen(descriptor, "rb")

    def head(self, key: str, version: str | None = None) -> ObjectStat:
        """See ObjectStore."""
        with files.translated(), files.folder_of(self.root, key) as (folder, name):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or version not in (None, files.version_of(found)):
                raise ObjectNotFound
            headers = decode(kept_with(folder, name, files.version_of(found)))
        return self._stat(key, found, headers)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectStat]:
        """See ObjectStore. One folder's names are in memory at a time, a level."""
        return self._walk("", prefix, after)

    def _walk(self, base: str, prefix: str, after: str) -> Iterator[ObjectStat]:
        found: list[tuple[str, os.stat_result | None]] = []
        # A folder that somebody closed to us must not hide all others.
        with (
            contextlib.suppress(ObjectNotFound, FileNotFoundError, NotADirectoryError, PermissionError),
            files.folder_of(self.root, f"{base}_") as (folder, _),
            os.scandir(folder) as entries,
        ):
            for entry in entries:
                name = base + entry.name
                if not files.FOREIGN.fullmatch(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    found.append((f"{name}/", None))
                elif name.startswith(prefix) and name > after and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        found.append((name, entry.stat(follow_symlinks=False)))
        # A folder sorts as its keys do: "a-b" < "a/x" < "a0".
        for name, file in sorted(found, key=lambda each: each[0]):
            if file is not None:
                yield self._stat(name, file, _PLAIN)
            elif (name.startswith(prefix) or prefix.startswith(name)) and (name > after or after.startswith(name)):
                yield from self._walk(name, prefix, after)

    def delete(self, ref: ObjectRef) -> bool:
        """See ObjectStore."""
        if not files.VERSION.fullmatch(ref.version):
            return False
        with (
            contextlib.suppress(ObjectNotFound),
            files.translated(),
            files.folder_of(self.root, ref.key) as (folder, name),
        ):
            # Look and unlink as one: nobody replaces a name that is taken, so only another delete could make way
            # for other bytes in between, and every delete holds this lock.
            fcntl.flock(folder, fcntl.LOCK_EX)
            there = False
            with contextlib.suppress(FileNotFoundError):
                there = files.version_of(os.lstat(name, dir_fd=folder)) == ref.version
                if there:
                    os.unlink(name, dir_fd=folder)
            # The headers last, and even if the bytes are gone: a delete that was killed in between is finished by
            # the next one. The other way round, bytes could be seen without their headers.
            with contextlib.suppress(ObjectNotFound), files.translated():
                os.unlink(f".{name}.{ref.version}", dir_fd=folder)
            if there:
                os.fsync(folder)
            files.prune((self.root / ref.key).parent, self.root)
            return there
        return False

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

    def _stat(self, key: str, found: os.stat_result, headers: ObjectHeaders) -> ObjectStat:
        version = files.version_of(found)
        ref = ObjectRef(self.bucket, key, version)
        return ObjectStat(ref, found.st_size, files.modified(found), headers, etag=version)

    def _signing(self) -> LocalSigner:
        if self._signer is None:
            raise Misconfigured("This store has no secret to sign URLs with.")
        return self._signer
