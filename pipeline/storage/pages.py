"""Web pages that talk to a bucket themselves, by signed URLs: a browser asks the store whether they may (CORS)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from google.cloud.storage import Bucket
    from mypy_boto3_s3 import S3Client

SENDING = ("PUT", "POST")
FETCHING = ("GET", "HEAD")
EXPOSED = ("ETag", "Location", "Range", "x-goog-generation", "x-amz-version-id")
MAX_AGE = 600  # seconds for which a browser remembers the answer


@runtime_checkable
class AdmitsPages(Protocol):
    """Optional: the bucket can be told which pages may use it. The local store's URLs lead to the API, which has its
    own setting."""

    def admit_pages(self, origins: Collection[str], methods: Collection[str]) -> None:
        """Replace the bucket's CORS rules by one for these origins and methods; none: by none. Idempotent."""
        ...


class S3Pages:
    """What an S3 bucket does (PutBucketCors)."""

    client: S3Client
    bucket: str

    def admit_pages(self, origins: Collection[str], methods: Collection[str]) -> None:
        """See AdmitsPages."""
        from pipeline.storage.s3_errors import translated

        with translated():
            if not origins:
                self.client.delete_bucket_cors(Bucket=self.bucket)
                return
            rule: Any = {
                "AllowedOrigins": sorted(origins),
                "AllowedMethods": list(methods),
                "AllowedHeaders": ["*"],
                "ExposeHeaders": list(EXPOSED),
                "MaxAgeSeconds": MAX_AGE,
            }
            self.client.put_bucket_cors(Bucket=self.bucket, CORSConfiguration={"CORSRules": [rule]})


class GCSPages:
    """What a bucket of Cloud Storage does (`cors` of the bucket's resource). For a signed URL `responseHeader` names
    the headers that may be sent, too."""

    _bucket: Bucket

    def admit_pages(self, origins: Collection[str], methods: Collection[str]) -> None:
        """See AdmitsPages."""
        from pipeline.storage.gcs_errors import translated

        named = [*EXPOSED, "Content-Type", "Content-Disposition", "Content-Range", "x-goog-if-generation-match"]
        named += ["x-goog-content-length-range", "x-goog-resumable"]
        rule = {"origin": sorted(origins), "method": list(methods), "responseHeader": named, "maxAgeSeconds": MAX_AGE}
        with translated():
            self._bucket.cors = [rule] if origins else []
            self._bucket.patch(timeout=(3, 30))
