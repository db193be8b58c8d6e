"""A bucket of Amazon S3, or of anything that speaks its language. With versions or without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from pipeline.errors import (
    ChecksumMismatch,
    Misconfigured,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
)
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat, SignedPut
from pipeline.storage.pages import S3Pages
from pipeline.storage.s3_answers import arguments_of, pin_arguments, pin_of, stat_of
from pipeline.storage.s3_compose import S3Composable
from pipeline.storage.s3_copy import COPY_PART, SINGLE, copy_in_parts, copy_whole
from pipeline.storage.s3_errors import code_of, translated
from pipeline.storage.s3_resumable import S3Resumable
from pipeline.storage.s3_signing import S3Signing
from pipeline.storage.s3_writer import PART, Parts, S3Writer
from pipeline.storage.streams import Body, bound, compare, digest_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PLAIN = ObjectHeaders()


def open_s3(
    bucket: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    path_style: bool = False,
    conditional_copy: bool = True,
) -> S3Store:
    """The bucket, with credentials from the SDK's own environment."""
    config = Config(
        connect_timeout=3,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=32,
        signature_version="s3v4",  # presigned URLs come in version 2 otherwise, which signs no headers
        s3={"addressing_style": "path" if path_style else "auto"},
        response_checksum_validation="when_required",  # whoever reads hashes too: once is enough
    )
    with translated():
        client = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)
    return S3Store(client, bucket, conditional_copy=conditional_copy)


class S3Store(S3Pages, S3Resumable, S3Composable, S3Signing):
    """One bucket. `conditional_copy=False` is for stores that ignore If-None-Match on a copy: the key is then looked at
    first, which leaves a moment in which another copy of the same verified bytes could win."""

    page = 1000  # keys a listing fetches at once

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        *,
        part_size: int = PART,
        single_copy: int = SINGLE,
        copy_part: int = COPY_PART,
        conditional_copy: bool = True,
    ) -> None:
        self.bucket = bucket
        self.client = client
        self._parts = Parts()
        self._part_size, self._single_copy, self._copy_part = part_size, single_copy, copy_part
        self._conditional_copy = conditional_copy

    def create(self, key: str, headers: ObjectHeaders = _PLAIN, *, size: int | None = None) -> S3Writer:
        """See ObjectStore. A taken key shows at commit: asking first would cost a request for each upload."""
        return S3Writer(self.client, self._parts, self.bucket, key, headers, self._part_size)

    def get(self, ref: ObjectRef, start: int = 0, end: int | None = None) -> Body:
        """See ObjectStore."""
        if start < 0 or (end is not None and end < start):
            raise ValueError("a range is [start, end) with 0 <= start <= end")
        pin = pin_arguments(ref.version)
        if end == start:
            self.head(ref.key, ref.version)
            return Body(lambda _: b"", lambda: None, 0)
        wanted = {} if start == 0 and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        try:
            with _pinned():
                answer: Any = self.client.get_object(Bucket=self.bucket, Key=ref.key, **pin, **wanted)  # type: ignore[arg-type]
        except StoreError as error:
            if "InvalidRange" in error.detail:  # past the end
                return Body(lambda _: b"", lambda: None, 0)
            raise
        stream = answer["Body"]
        if pin_of(answer) != ref.version and "VersionId" in pin:  # a store that knows no versions ignores the pin
            stream.close()
            raise ObjectNotFound

        def read(count: int) -> bytes:
            with translated():
                piece: bytes = stream.read(count)
            return piece

        return Body(read, stream.close, int(answer["ContentLength"]))

    def head(self, key: str, version: str | None = None) -> ObjectStat:
        """See ObjectStore."""
        pin = {} if version is None else pin_arguments(version)
        try:
            with _pinned():
                answer = self.client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED", **pin)  # type: ignore[arg-type]
        except StoreError as error:
            if " 400 " in error.detail and pin:  # "not a version id", which a HEAD cannot say
                raise ObjectNotFound from None
            raise
        if "VersionId" in pin and pin_of(answer) != version:
            raise ObjectNotFound
        stat = stat_of(self.bucket, key, answer)
        # Pinned by its ETag in a bucket that has versions: the pin stays as it was given.
        return stat if version is None else replace(stat, ref=ObjectRef(self.bucket, key, version))

    @cached_property
    def _versioned(self) -> bool:
        with translated():
            return "Status" in self.client.get_bucket_versioning(Bucket=self.bucket)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectStat]:
        """See ObjectStore. Headers are left empty. The order is the store's: S3 sorts by key; SeaweedFS sorts by path,
        so that "a/b" comes before "a-b"."""
        with translated():
            if self._versioned:
                # The plain listing names no versions, and an unpinned delete would only hide the bytes.
                versions: Any = self.client.get_paginator("list_object_versions")
                for page in versions.paginate(
                    Bucket=self.bucket, Prefix=prefix, KeyMarker=after, PaginationConfig={"PageSize": self.page}
                ):
                    yield from (self._listed(each) for each in page.get("Versions", ()) if each["IsLatest"])
            else:
                objects = self.client.get_paginator("list_objects_v2")
                for plain in objects.paginate(
                    Bucket=self.bucket, Prefix=prefix, StartAfter=after, PaginationConfig={"PageSize": self.page}
                ):
                    yield from (self._listed(each) for each in plain.get("Contents", ()))

    def _listed(self, each: Any) -> ObjectStat:
        ref = ObjectRef(self.bucket, each["Key"], pin_of(each))
        modified = each["LastModified"].astimezone(UTC)
        return ObjectStat(ref, int(each["Size"]), modified, etag=str(each["ETag"]).strip('"'))

    def delete(self, ref: ObjectRef) -> bool:
        """See ObjectStore. Where the store does not know conditional deletes, the ETag is compared just before."""
        try:
            self.head(ref.key, ref.version)  # a delete of nothing answers as one of something does
        except ObjectNotFound:
            return False
        try:
            with translated():
                self._delete(ref.key, pin_arguments(ref.version))
        except (PreconditionFailed, ObjectNotFound):
            return False
        return True

    def _delete(self, key: str, pin: dict[str, str]) -> None:
        try:
            self.client.delete_object(Bucket=self.bucket, Key=key, **pin)  # type: ignore[arg-type]
        except ClientError as error:
            if code_of(error) != "NotImplemented" or "IfMatch" not in pin:
                raise
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def copy(self, source: ObjectRef, key: str, headers: ObjectHeaders | None = None, *, sha256: str) -> ObjectStat:
        """See ObjectStore. Verified by the SHA-256 that the store took of the copy, else by reading the copy back."""
        try:
            origin = S3Store.head(self._beside(source.bucket), source.key, source.version)
            compare(origin.sha256 or sha256, sha256)  # where the store knows already, nothing is copied
            kept = headers or origin.headers
            if not self._conditional_copy and (done := self._already(key, sha256)) is not None:
                return done
            stored: str | None = None
            if origin.size <= self._single_copy:
                conditional = self._conditional_copy
                pin, stored = copy_whole(self.client, origin, self.bucket, key, kept, conditional=conditional)
            else:
                pin = copy_in_parts(self.client, self._parts, origin, self.bucket, key, kept, self._copy_part)
        except (ObjectNotFound, PreconditionFailed, ChecksumMismatch):
            # The key is taken or the source is gone; where an earlier run did the work, both are as they should be.
            if (done := self._already(key, sha256)) is not None:
                return done
            raise
        ref = ObjectRef(self.bucket, key, pin)
        if stored is None:
            stored = self.head(key, pin).sha256
        if (stored or digest_of(self.get(ref))) != sha256:
            self.delete(ref)
            raise ChecksumMismatch
        etag = pin.strip('"') if pin.startswith('"') else None
        return ObjectStat(ref, origin.size, datetime.now(UTC), kept, sha256, etag)

    def _already(self, key: str, sha256: str) -> ObjectStat | None:
        try:
            there = self.head(key)
            if (there.sha256 or digest_of(self.get(there.ref))) != sha256:
                raise ObjectExists
        except ObjectNotFound:
            return None
        return replace(there, sha256=sha256)

    def _beside(self, bucket: str) -> S3Store:
        return self if bucket == self.bucket else _Neighbour(self.client, bucket)

    def sign_get(self, ref: ObjectRef, expires: timedelta) -> str:
        """See ObjectStore. Binds the version id; an ETag cannot be bound, so there the key must be create-only."""
        pin = {} if ref.version.startswith('"') else pin_arguments(ref.version)
        return self._sign("get_object", {"Key": ref.key, **pin}, expires)

    def sign_put(self, key: str, headers: ObjectHeaders, expires: timedelta, *, size: int | None = None) -> SignedPut:
        """See ObjectStore. Create-only: If-None-Match is one of the signed headers."""
        expires_at = datetime.now(UTC) + bound(expires)
        arguments = {"Key": key, "IfNoneMatch": "*", **arguments_of(headers)}
        sent = {"Content-Type": headers.content_type, "If-None-Match": "*"}
        if headers.content_disposition is not None:
            sent["Content-Disposition"] = headers.content_disposition
        sent |= {f"x-amz-meta-{name}": value for name, value in headers.metadata.items()}
        if size is not None:
            arguments["ContentLength"] = size
            sent["Content-Length"] = str(size)
        return SignedPut(self._sign("put_object", arguments, expires), sent, expires_at)

    def _sign(self, operation: str, arguments: dict[str, Any], expires: timedelta) -> str:
        seconds = max(1, int(bound(expires).total_seconds()))
        with translated():
            return self.client.generate_presigned_url(operation, {"Bucket": self.bucket, **arguments}, seconds)

    def ping(self) -> None:
        """See ObjectStore."""
        try:
            with translated():
                self.client.head_bucket(Bucket=self.bucket)
        except ObjectNotFound:
            raise Misconfigured(f"The bucket {self.bucket!r} is not there.") from None
        except (StoreUnavailable, Misconfigured):
            raise
        except StoreError as error:
            raise Misconfigured(f"The bucket {self.bucket!r} cannot be used: {error.detail}") from None

    def ensure_bucket(self) -> None:
        """See Provisionable."""
        region = self.client.meta.region_name
        place: Any = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with translated():
            try:
                self.client.create_bucket(Bucket=self.bucket, **({} if region in (None, "", "us-east-1") else place))
            except ClientError as error:
                if code_of(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise


class _Neighbour(S3Store):
    """Another bucket of the same account, only looked into: it needs no threads."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self.client, self.bucket = client, bucket


@contextlib.contextmanager
def _pinned() -> Iterator[None]:
    """A condition that does not hold means that these bytes are gone."""
    try:
        with translated():
            yield
    except PreconditionFailed:
        raise ObjectNotFound from None
