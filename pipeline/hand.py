"""The sample in hand: a document's bytes, read from quarantine once and kept while one worker goes on with it."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pipeline.documents import Document
from pipeline.errors import ChecksumMismatch, Unavailable
from pipeline.services import Services
from pipeline.storage.base import LocalFiles
from scanners.base import Declared, Sample

PIECE = 1 << 20
NO_ROOM = "There is no room to work on this document here."
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Hand:
    """Fetches on first use, gives the same sample to every step of the trip, removes everything at its end."""

    def __init__(self, document: Document, services: Services) -> None:
        self.document = document  # as it is now
        self._services = services
        self._file: BinaryIO | None = None

    @cached_property
    def folder(self) -> Path:
        """A private folder for this trip's temporary files, removed with everything in it when the trip ends."""
        spool = self._services.settings.spool_dir
        spool.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{self.document.id}-", dir=spool))

    @cached_property
    def sample(self) -> Sample:
        """The pinned bytes, hashed as they came.

        Raises:
            ObjectNotFound: the pinned version is gone.
            ChecksumMismatch: these are not the bytes that the upload recorded (a partial body, a replaced object).
            StoreUnavailable: the store is down or slow.
            Unavailable: there is no room here; the document is not to blame, and waits.
        """
        document, store = self.document, self._services.quarantine
        if isinstance(store, LocalFiles):
            # The object's own file, immutable and create-only, needs no copy: hold it open, so that it stays this one.
            self._file = store.open_local(document.source)
            path = Path(f"/proc/self/fd/{self._file.fileno()}")
            size, sha256 = _hash(self._file)
        else:
            path = self.folder / "sample"
            try:
                size, sha256 = self._fetch(path)
            except OSError as exc:
                if exc.errno in FULL:
                    raise Unavailable(NO_ROOM) from exc
                raise
        if size != document.size or sha256 != (document.sha256 or sha256):
            raise ChecksumMismatch("Quarantine gave other bytes than were uploaded.")
        return Sample(path, size, sha256, Declared(document.name, document.declared_type))

    def _fetch(self, path: Path) -> tuple[int, str]:
        limit = self.document.size
        free = shutil.disk_usage(path.parent).free
        if limit > free - (64 << 20):
            raise Unavailable(NO_ROOM)
        digest, size = hashlib.sha256(), 0
        with path.open("xb") as out:
            for chunk in self._services.quarantine.get(self.document.source):
                size += len(chunk)
                if size > limit:
                    raise ChecksumMismatch("Quarantine gave more bytes than were uploaded.")
                digest.update(chunk)
                out.write(chunk)
        return size, digest.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if "folder" in self.__dict__:
            shutil.rmtree(self.folder, ignore_errors=True)


def _hash(file: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(PIECE))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])
        size += count
    return size, digest.hexdigest()
