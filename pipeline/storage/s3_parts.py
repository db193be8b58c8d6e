"""The end of a multipart upload: which parts it has, and one object out of them, create-only and once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from pipeline.errors import ObjectExists, ObjectNotFound, PreconditionFailed, StoreUnavailable
from pipeline.storage.abilities import SentPart
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat
from pipeline.storage.s3_answers import MARK, arguments_of, pin_of, stat_of
from pipeline.storage.s3_errors import code_of, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LEAST = 5 << 20  # bytes of every part but the last
MOST = 10_000  # parts of one upload
_WRONG = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall"}


def listed(client: S3Client, where: dict[str, Any], upload: str) -> Iterator[list[SentPart]]:
    """What was sent under each part's number, in order, the latest first; pages are fetched as needed.

    S3 keeps only the latest. SeaweedFS lists all that were sent, and takes the one that is named at the end. Raises
    ObjectNotFound.
    """
    with translated():
        pages = client.get_paginator("list_parts").paginate(**where, UploadId=upload)
        parts = (part for page in pages for part in page.get("Parts", ()))
        for number, sent in groupby(parts, key=lambda part: int(part["PartNumber"])):
            latest = sorted(sent, key=lambda part: part["LastModified"], reverse=True)
            tags = {part["ETag"].strip('"'): int(part["Size"]) for part in latest}  # the same bytes twice are no matter
            yield [SentPart(number, size, tag) for tag, size in tags.items()]


def completed(
    client: S3Client, where: dict[str, Any], upload: str, parts: Sequence[SentPart], mark: str, headers: ObjectHeaders
) -> ObjectStat:
    """The object of these parts. Idempotent: where the upload is done already, the object with its mark is the answer.

    Raises ObjectExists, PreconditionFailed (a part is missing, another one or too small), ObjectNotFound.
    """
    named: Any = [{"PartNumber": part.number, "ETag": f'"{part.tag}"'} for part in parts]

    def complete() -> Any:
        return client.complete_multipart_upload(
            **where, UploadId=upload, MultipartUpload={"Parts": named}, IfNoneMatch="*"
        )

    return _made(client, where, sum(part.size for part in parts), mark, headers, complete)


def created(client: S3Client, where: dict[str, Any], body: bytes, mark: str, headers: ObjectHeaders) -> ObjectStat:
    """The object of one PUT, in the same way. Raises ObjectExists."""

    def put() -> Any:
        return client.put_object(**where, **arguments_of(headers, mark), Body=body, IfNoneMatch="*")

    return _made(client, where, len(body), mark, headers, put)


def _made(
    client: S3Client, where: dict[str, Any], size: int, mark: str, headers: ObjectHeaders, make: Any
) -> ObjectStat:
    try:
        with translated():
            try:
                answer = make()
            except ClientError as error:
                if code_of(error) in _WRONG:
                    raise PreconditionFailed("A part is missing, is another one by now, or is too small.") from None
                if code_of(error) == "ConditionalRequestConflict":
                    raise StoreUnavailable("S3 asks to try again: somebody else is at this key.") from None
                raise
    except (PreconditionFailed, ObjectNotFound):
        if (done := made_before(client, where, mark, size)) is not None:
            return done
        raise
    if "ETag" not in answer:  # S3 may answer 200 and say in the body that it failed
        raise StoreUnavailable("S3 did not say whether the upload was completed.")
    ref = ObjectRef(where["Bucket"], where["Key"], pin_of(answer))
    return ObjectStat(ref, size, datetime.now(UTC), headers, etag=str(answer["ETag"]).strip('"'))


def made_before(client: S3Client, where: dict[str, Any], mark: str, size: int | None = None) -> ObjectStat | None:
    """The object under the key, if an earlier run of the same made it; None where there is none. Raises ObjectExists
    where something else made it."""
    try:
        with translated():
            there = client.head_object(**where, ChecksumMode="ENABLED")
    except ObjectNotFound:
        return None
    if there.get("Metadata", {}).get(MARK) != mark or size not in (None, there["ContentLength"]):
        raise ObjectExists
    return stat_of(where["Bucket"], where["Key"], there)
