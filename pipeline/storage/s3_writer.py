"""One object on its way into S3: a single PUT up to one part, else a multipart upload with a few parts in flight."""

from __future__ import annotations

import contextlib
import hashlib
import io
import secrets
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.errors import (
    AirlockError,
    ChecksumMismatch,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat
from pipeline.storage.s3_answers import MARK, arguments_of, base64_of, pin_of, sha256_of, stat_of
from pipeline.storage.s3_errors import translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 8 << 20
IN_FLIGHT = 4  # parts of one object
GROW_EVERY = 1000  # parts, then they double: 10,000 parts hold 8 TB, and the first 8 GB need no more than 8 MiB each


class Parts:
    """The threads that send parts, shared by all writers and copies of a store, and how many parts wait in memory.

    Every writer can fill one part; above that there are `limit` for all of them together.
    """

    def __init__(self, limit: int = 8) -> None:
        self._pool = ThreadPoolExecutor(limit, "s3-part")
        self._free = threading.BoundedSemaphore(limit)

    def send(self, call: Any, *arguments: Any) -> Future[Any]:
        """Run the call in a thread of ours; waits for a free one first."""
        self._free.acquire()
        future = self._pool.submit(call, *arguments)
        future.add_done_callback(lambda _: self._free.release())
        return future


def put_part(client: S3Client, where: dict[str, Any], upload: str, number: int, part: io.BytesIO) -> dict[str, Any]:
    """Send one part, and close its buffer. Returns what completing the upload wants to know of it."""
    part.seek(0)
    with translated(), part:  # boto3 adds a CRC32 of the part, and the store checks it
        answer = client.upload_part(**where, UploadId=upload, PartNumber=number, Body=part)
    return {"PartNumber": number, "ETag": answer["ETag"]}


class S3Writer:
    """See ObjectWriter. Keeps at most IN_FLIGHT parts and the one being filled."""

    def __init__(
        self, client: S3Client, parts: Parts, bucket: str, key: str, headers: ObjectHeaders, part_size: int = PART
    ) -> None:
        self._client, self._parts, self._part_size = client, parts, part_size
        self._where: dict[str, Any] = {"Bucket": bucket, "Key": key}
        self._mark = secrets.token_hex(8)
        self._headers = headers
        self._buffer = io.BytesIO()
        self._size = 0
        self._upload: str | None = None
        self._pending: deque[Future[dict[str, Any]]] = deque()
        self._sent: list[dict[str, Any]] = []
        self._count = 0
        self._open = True

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """See ObjectWriter. May wait until a part has been sent."""
        self._check_open()
        rest = memoryview(chunk)
        while rest:
            # A full part leaves only when more follows: an object of exactly one part is a single PUT.
            if self._buffer.tell() >= self._part_size << (self._count // GROW_EVERY):
                self._send_part()
            room = (self._part_size << (self._count // GROW_EVERY)) - self._buffer.tell()
            self._buffer.write(rest[:room])
            self._size += len(rest[:room])
            rest = rest[room:]

    def _send_part(self) -> None:
        if self._upload is None:
            with translated():
                begun = self._client.create_multipart_upload(**self._where, **arguments_of(self._headers, self._mark))
            self._upload = begun["UploadId"]
        while len(self._pending) >= IN_FLIGHT:
            self._sent.append(self._pending.popleft().result())
        self._count += 1
        part = self._parts.send(put_part, self._client, self._where, self._upload, self._count, self._buffer)
        self._pending.append(part)
        self._buffer = io.BytesIO()

    def commit(self, sha256: str | None = None) -> ObjectStat:
        """See ObjectWriter. An object of one part is checked against its SHA-256 by the store; of several, each part is
        against a CRC32."""
        self._check_open()
        try:
            try:
                made = self._complete() if self._upload else self._put(sha256)
            except (PreconditionFailed, ObjectNotFound):
                made = self._found_again()
        finally:
            self.abort()
        return made

    def _put(self, sha256: str | None) -> ObjectStat:
        digest = sha256 or hashlib.sha256(self._buffer.getbuffer()).hexdigest()
        self._buffer.seek(0)
        with translated():
            answer = self._client.put_object(
                **self._where,
                **arguments_of(self._headers, self._mark),
                Body=self._buffer,
                IfNoneMatch="*",
                ChecksumSHA256=base64_of(digest),
            )
        stored = sha256_of(answer)
        if stored not in (None, digest):
            raise ChecksumMismatch
        return self._stat(answer, stored)

    def _complete(self) -> ObjectStat:
        self._send_part()
        while self._pending:
            self._sent.append(self._pending.popleft().result())
        with translated():
            answer = self._client.complete_multipart_upload(
                **self._where,
                UploadId=str(self._upload),
                MultipartUpload={"Parts": self._sent},  # type: ignore[typeddict-item]
                IfNoneMatch="*",
            )
        if "ETag" not in answer:  # S3 may answer 200 and say in the body that it failed
            raise StoreUnavailable("S3 did not say whether the upload was completed.")
        self._upload = None
        return self._stat(answer, None)

    def _found_again(self) -> ObjectStat:
        """The key is taken: by us, if the first reply was lost and the SDK asked again; else by somebody else."""
        with translated():
            there = self._client.head_object(**self._where, ChecksumMode="ENABLED")
        if there.get("Metadata", {}).get(MARK) != self._mark:
            raise ObjectExists
        return stat_of(self._where["Bucket"], self._where["Key"], there)

    def _stat(self, answer: Any, sha256: str | None) -> ObjectStat:
        ref = ObjectRef(self._where["Bucket"], self._where["Key"], pin_of(answer))
        etag = str(answer["ETag"]).strip('"')
        return ObjectStat(ref, self._size, datetime.now(UTC), self._headers, sha256, etag)

    def abort(self) -> None:
        """See ObjectWriter. Should the store be away, the sweeper drops the unfinished upload later."""
        self._open = False
        upload, self._upload = self._upload, None
        pending, self._pending = self._pending, deque()
        for future in pending:  # a part that lands after the abort would stay behind
            with contextlib.suppress(AirlockError):
                future.result()
        self._buffer = io.BytesIO()
        if upload is not None:
            with contextlib.suppress(AirlockError), translated():
                self._client.abort_multipart_upload(**self._where, UploadId=upload)

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("the writer is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
