"""A bucket of Google Cloud Storage. A version is an object's generation, which no later write can change."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from google.auth import credentials as google_credentials
from google.auth.transport.requests import Request
from google.cloud import storage
from google.cloud.storage import Blob

from pipeline.errors import (
    ChecksumMismatch,
    Misconfigured,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
)
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat, SignedPut
from pipeline.storage.gcs_errors import translated
from pipeline.storage.gcs_resumable import GCSResumable
from pipeline.storage.gcs_sessions import GCSSessions
from pipeline.storage.gcs_writer import CALL, MARK, PART, GCSWriter, dress
from pipeline.storage.pages import GCSPages
from pipeline.storage.streams import Body, bound, digest_of, window

_PLAIN = ObjectHeaders()
_GENERATION = re.compile(r"[1-9][0-9]{0,18}")


def open_gcs(bucket: str, *, endpoint: str | None = None) -> GCSStore:
    """The bucket, with credentials from the SDK's own environment."""
    with translated():
        client = storage.Client(client_options={"api_endpoint": endpoint} if endpoint else None)
    return GCSStore(client, bucket, endpoint=endpoint)


class GCSStore(GCSPages, GCSResumable, GCSSessions):
    """One bucket. `endpoint`, where it is not Google's own, is also what signed URLs lead to."""

    def __init__(self, client: storage.Client, bucket: str, *, endpoint: str | None = None) -> None:
        self.bucket = bucket
        self.client = client
        self._endpoint = endpoint
        self._bucket = client.bucket(bucket)

    def create(self, key: str, headers: ObjectHeaders = _PLAIN, *, size: int | None = None) -> GCSWriter:
        """See ObjectStore. A taken key shows at commit: asking first would cost a request for each upload."""
        return GCSWriter(self._bucket.blob(key), headers, self._stat, **CALL)

    def get(self, ref: ObjectRef, start: int = 0, end: int | None = None) -> Body:
        """See ObjectStore. One request a part: a break is asked for again, and the generation holds them together."""
        blob = self._pinned(ref)
        with translated():
            blob.reload(**CALL)
        at, end = window(int(blob.size or 0), start, end)
        position, held = at, io.BytesIO()

        def read(count: int) -> bytes:
            nonlocal position, held
            piece = held.read(count)
            if not piece:
                with translated():  # raw: bytes as they lie there, even if somebody called them gzip
                    part = blob.download_as_bytes(
                        start=position, end=min(position + PART, end) - 1, raw_download=True, checksum=None, **CALL
                    )
                position += len(part)
                held = io.BytesIO(part)
                piece = held.read(count)
            return piece

        return Body(read, held.close, end - at)

    def head(self, key: str, version: str | None = None) -> ObjectStat:
        """See ObjectStore."""
        blob = self._bucket.blob(key) if version is None else self._pinned(ObjectRef(self.bucket, key, version))
        with translated():
            blob.reload(**CALL)
        return self._stat(blob)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectStat]:
        """See ObjectStore."""
        with translated():
            for blob in self.client.list_blobs(self._bucket, prefix=prefix or None, start_offset=after or None, **CALL):
                if blob.name > after:
                    yield self._stat(blob)

    def delete(self, ref: ObjectRef) -> bool:
        """See ObjectStore."""
        try:
            with translated():
                self._pinned(ref).delete(if_generation_match=int(ref.version), **CALL)
        except (ObjectNotFound, PreconditionFailed):
            return False
        return True

    def copy(self, source: ObjectRef, key: str, headers: ObjectHeaders | None = None, *, sha256: str) -> ObjectStat:
        """See ObjectStore. Cloud Storage keeps no SHA-256, so the copy is always verified by reading it back."""
        origin = self if source.bucket == self.bucket else GCSStore(self.client, source.bucket)
        try:
            pinned = origin._pinned(source)
            kept = headers or origin.head(source.key, source.version).headers
            target = self._bucket.blob(key)
            dress(target, kept)
            self._rewrite(pinned, target, int(source.version))
        except (ObjectNotFound, PreconditionFailed):
            # The key is taken or the source is gone; where an earlier run did the work, both are as they should be.
            if (done := self._already(key, sha256)) is not None:
                return done
            raise
        made = self._stat(target)
        if digest_of(self.get(made.ref)) != sha256:
            self.delete(made.ref)
            raise ChecksumMismatch
        return replace(made, sha256=sha256)

    def _rewrite(self, source: Blob, target: Blob, generation: int) -> None:
        token = None
        while True:  # a large object takes several calls, each of which goes on from the last one's token
            with translated():
                token, _, _ = target.rewrite(
                    source, token=token, if_generation_match=0, if_source_generation_match=generation, **CALL
                )
            if token is None:
                return

    def _already(self, key: str, sha256: str) -> ObjectStat | None:
        try:
            there = self.head(key)
            if digest_of(self.get(there.ref)) != sha256:
                raise ObjectExists
        except ObjectNotFound:
            return None
        return replace(there, sha256=sha256)

    def sign_get(self, ref: ObjectRef, expires: timedelta) -> str:
        """See ObjectStore. Binds the generation."""
        return self._sign(self._pinned(ref), expires, method="GET", generation=ref.version)

    def sign_put(self, key: str, headers: ObjectHeaders, expires: timedelta, *, size: int | None = None) -> SignedPut:
        """See ObjectStore. Create-only and, where given, of exactly that size: both are signed headers."""
        expires_at = datetime.now(UTC) + bound(expires)
        extra = {"x-goog-if-generation-match": "0"}
        extra |= {f"x-goog-meta-{name}": value for name, value in headers.metadata.items()}
        if size is not None:
            extra["x-goog-content-length-range"] = f"{size},{size}"
        if headers.content_disposition is not None:
            extra["Content-Disposition"] = headers.content_disposition
        url = self._sign(
            self._bucket.blob(key), expires, method="PUT", content_type=headers.content_type, headers=dict(extra)
        )
        return SignedPut(url, {"Content-Type": headers.content_type, **extra}, expires_at)

    def _sign(self, blob: Blob, expires: timedelta, **what: Any) -> str:
        if self._endpoint:
            what["api_access_endpoint"] = self._endpoint
        with translated():
            url: str = blob.generate_signed_url(
                version="v4", expiration=bound(expires), client=self.client, **self._signing(), **what
            )
        return url

    def _signing(self) -> dict[str, str]:
        """A key in hand signs by itself; a machine's own account (Cloud Run, GCE) asks Google to sign for it."""
        held: Any = self.client._credentials
        if isinstance(held, google_credentials.Signing):
            return {}
        if not getattr(held, "service_account_email", None):
            raise Misconfigured("These Google credentials cannot sign URLs: a service account is needed.")
        if not held.valid:
            held.refresh(Request())
        return {"service_account_email": held.service_account_email, "access_token": held.token}

    def ping(self) -> None:
        """See ObjectStore. Lists one object, which asks for no more rights than the service needs anyway."""
        try:
            with translated():
                next(iter(self.client.list_blobs(self._bucket, max_results=1, **CALL)), None)
        except ObjectNotFound:
            raise Misconfigured(f"The bucket {self.bucket!r} is not there.") from None

    def ensure_bucket(self) -> None:
        """See Provisionable."""
        try:
            with translated():
                self.client.create_bucket(self._bucket, **CALL)
        except StoreError as error:
            if " 409" not in error.detail:
                raise

    def _pinned(self, ref: ObjectRef) -> Blob:
        if not _GENERATION.fullmatch(ref.version):
            raise ObjectNotFound
        return self._bucket.blob(ref.key, generation=int(ref.version))

    def _stat(self, blob: Blob) -> ObjectStat:
        metadata = {name: value for name, value in (blob.metadata or {}).items() if name != MARK}
        return ObjectStat(
            ObjectRef(self.bucket, blob.name, str(blob.generation)),
            int(blob.size or 0),
            blob.updated.astimezone(UTC),
            ObjectHeaders(blob.content_type or "application/octet-stream", blob.content_disposition, metadata),
            etag=(blob.etag or "").strip('"') or None,
        )
