"""One object on its way into Cloud Storage: one request up to a part, else a resumable upload, part by part."""

from __future__ import annotations

import contextlib
import io
import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from google.cloud.storage import Blob
from google.cloud.storage.fileio import BlobWriter
from google.cloud.storage.retry import DEFAULT_RETRY

from pipeline.errors import AirlockError, ObjectExists, ObjectNotFound, PreconditionFailed
from pipeline.storage.base import ObjectHeaders, ObjectStat
from pipeline.storage.gcs_errors import translated

# Every call says in its conditions what it expects to find, so each may be asked again.
CALL: dict[str, Any] = {"timeout": (3, 30), "retry": DEFAULT_RETRY.with_timeout(30)}
PART = 8 << 20  # a multiple of 256 KiB; up to here the SDK sends a single request
# Our own mark in an object's metadata, never shown: by it a writer knows its object again when a reply was lost, and
# after a resumable upload, whose reply the SDK keeps to itself.
MARK = "airlock-write"


def dress(blob: Blob, headers: ObjectHeaders, mark: str | None = None) -> None:
    """Set the stored headers on a blob that is about to be written."""
    blob.content_type = headers.content_type
    if headers.content_disposition is not None:
        blob.content_disposition = headers.content_disposition
    metadata = dict(headers.metadata) | ({MARK: mark} if mark else {})
    if metadata:
        blob.metadata = metadata


class _Session(BlobWriter):  # type: ignore[misc]
    """The SDK's resumable upload, mended in the two places where it would break the contract."""

    def terminate(self) -> None:
        """End the session. The SDK deletes the address that sessions are asked for at, which ends none."""
        begun: Any = self._upload_and_transport
        self._buffer.close()
        if begun is not None:
            upload, transport = begun
            transport.delete(upload.resumable_url, timeout=(3, 30))

    def __del__(self) -> None:
        """Nothing: a file closes itself when it is forgotten, and closing this one would show half an object."""


class GCSWriter:
    """See ObjectWriter. Keeps one part, and the SDK another. The store checks a CRC32C; it knows no SHA-256."""

    def __init__(self, blob: Blob, headers: ObjectHeaders, stat: Callable[[Blob], ObjectStat], **call: Any) -> None:
        self._blob, self._stat, self._call = blob, stat, call
        self._mark = secrets.token_hex(8)
        dress(blob, headers, self._mark)
        self._content_type = headers.content_type
        self._buffer = io.BytesIO()
        self._stream: _Session | None = None
        self._open = True

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """See ObjectWriter."""
        self._check_open()
        rest = memoryview(chunk)
        while rest:
            if self._buffer.tell() == PART:  # a full part leaves only when more follows
                self._send_part()
            count = self._buffer.write(rest[: PART - self._buffer.tell()])
            rest = rest[count:]

    def _send_part(self) -> None:
        if self._stream is None:
            self._stream = _Session(
                self._blob,
                chunk_size=PART,
                content_type=self._content_type,
                if_generation_match=0,
                checksum="crc32c",
                **self._call,
            )
        with translated():
            self._stream.write(self._buffer.getvalue())
        self._buffer.seek(0)
        self._buffer.truncate()

    def commit(self, sha256: str | None = None) -> ObjectStat:
        """See ObjectWriter."""
        self._check_open()
        try:
            if self._stream is None:
                self._put()
            else:
                if self._buffer.tell():
                    self._send_part()
                with translated():
                    self._stream.close()
                self._stream = None
                self._reload()
        except PreconditionFailed:
            self._reload()
        finally:
            self.abort()
        return self._stat(self._blob)

    def _put(self) -> None:
        size = self._buffer.tell()
        self._buffer.seek(0)
        with translated():
            self._blob.upload_from_file(
                self._buffer,
                size=size,
                content_type=self._content_type,
                if_generation_match=0,
                checksum="crc32c",
                **self._call,
            )

    def _reload(self) -> None:
        """Learn the generation; the mark tells whether it is ours. ObjectExists if it is not."""
        found = Blob(self._blob.name, self._blob.bucket)
        try:
            with translated():
                found.reload(**self._call)
        except ObjectNotFound:
            raise ObjectExists("The key was taken, and given up again.") from None
        if (found.metadata or {}).get(MARK) != self._mark:
            raise ObjectExists
        self._blob = found

    def abort(self) -> None:
        """See ObjectWriter. A session that cannot be ended now shows nothing, and ends by itself after a week."""
        self._open = False
        stream, self._stream = self._stream, None
        self._buffer = io.BytesIO()
        if stream is not None:
            with contextlib.suppress(AirlockError), translated():
                stream.terminate()

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("the writer is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
