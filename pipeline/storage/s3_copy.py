"""One pinned object copied on S3's side, create-only, its headers kept at every size."""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pipeline.errors import AirlockError, StoreUnavailable
from pipeline.storage.base import ObjectHeaders, ObjectStat
from pipeline.storage.s3_answers import arguments_of, pin_of, sha256_of
from pipeline.storage.s3_errors import translated
from pipeline.storage.s3_writer import Parts

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SINGLE = 5 << 30  # the most that one CopyObject takes
COPY_PART = 512 << 20  # the store does the work: few, large parts
IN_FLIGHT = 4


def source_of(source: ObjectStat) -> dict[str, Any]:
    """The arguments that hold a copy to exactly this source: by its version where there is one, and by its ETag."""
    place = {"Bucket": source.ref.bucket, "Key": source.ref.key}
    if not source.ref.version.startswith('"'):
        place["VersionId"] = source.ref.version
    return {"CopySource": place, "CopySourceIfMatch": f'"{source.etag}"'}


def copy_whole(
    client: S3Client, source: ObjectStat, bucket: str, key: str, headers: ObjectHeaders, *, conditional: bool
) -> tuple[str, str | None]:
    """CopyObject. Returns the new pin, and the SHA-256 that the store took of the copy, if it says."""
    condition: Any = {"IfNoneMatch": "*"} if conditional else {}
    with translated():
        answer = client.copy_object(
            Bucket=bucket,
            Key=key,
            **source_of(source),
            **arguments_of(headers),
            MetadataDirective="REPLACE",
            ChecksumAlgorithm="SHA256",  # S3 then hashes the whole object, even one that came in parts
            **condition,
        )
    result: Any = answer.get("CopyObjectResult") or {}
    if "ETag" not in result:  # S3 may answer 200 and say in the body that it failed
        raise StoreUnavailable("S3 did not say whether the copy was made.")
    return pin_of({**result, "VersionId": answer.get("VersionId")}), sha256_of(result)


def copy_in_parts(
    client: S3Client, parts: Parts, source: ObjectStat, bucket: str, key: str, headers: ObjectHeaders, part_size: int
) -> str:
    """UploadPartCopy, a few at once. Returns the new pin; leaves no unfinished upload."""
    where: Any = {"Bucket": bucket, "Key": key}
    part_size = max(part_size, -(-source.size // 10_000))
    with translated():
        # Unlike CopyObject, a multipart upload takes no headers from anywhere: they are given here or lost.
        upload = client.create_multipart_upload(**where, **arguments_of(headers))["UploadId"]

    def copy_part(number: int, first: int) -> dict[str, Any]:
        last = min(first + part_size, source.size) - 1
        with translated():
            answer: Any = client.upload_part_copy(
                **where,
                **source_of(source),
                UploadId=upload,
                PartNumber=number,
                CopySourceRange=f"bytes={first}-{last}",
            )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    pending: deque[Future[dict[str, Any]]] = deque()
    done: list[dict[str, Any]] = []
    try:
        for number, first in enumerate(range(0, source.size, part_size), 1):
            while len(pending) >= IN_FLIGHT:
                done.append(pending.popleft().result())
            pending.append(parts.send(copy_part, number, first))
        while pending:
            done.append(pending.popleft().result())
        with translated():
            answer: Any = client.complete_multipart_upload(
                **where,
                UploadId=upload,
                MultipartUpload={"Parts": done},  # type: ignore[typeddict-item]
                IfNoneMatch="*",
            )
        return _completed(answer)
    except BaseException:
        for future in pending:
            with contextlib.suppress(AirlockError):
                future.result()
        with contextlib.suppress(AirlockError), translated():
            client.abort_multipart_upload(**where, UploadId=upload)
        raise


def _completed(answer: Any) -> str:
    if "ETag" not in answer:  # as above
        raise StoreUnavailable("S3 did not say whether the copy was completed.")
    return pin_of(answer)
