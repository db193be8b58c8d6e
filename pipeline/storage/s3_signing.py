"""What clients send to S3 themselves, beyond a single PUT: parts, and forms. See SignsParts and SignsForms."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipeline.errors import ObjectNotFound, PreconditionFailed
from pipeline.storage.abilities import SentPart, SignedForm
from pipeline.storage.base import ObjectHeaders, ObjectStat, SignedPut
from pipeline.storage.s3_answers import arguments_of
from pipeline.storage.s3_errors import translated
from pipeline.storage.s3_parts import LEAST, MOST, completed, listed, made_before
from pipeline.storage.streams import bound

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PLAIN = ObjectHeaders()


class S3Signing:
    """The part of S3Store that is SignsParts and SignsForms. `upload` is `{upload id}~{mark}`: by the mark, which the
    object bears, a second `finish_parts` knows what the first one made."""

    bucket: str
    client: S3Client
    least_part = LEAST
    most_parts = MOST

    if TYPE_CHECKING:  # what S3Store brings

        def head(self, key: str, version: str | None = None) -> ObjectStat: ...

        def _sign(self, operation: str, arguments: dict[str, Any], expires: timedelta) -> str: ...

    def begin_parts(self, key: str, headers: ObjectHeaders = _PLAIN) -> str:
        """See SignsParts."""
        mark = secrets.token_hex(8)
        with translated():
            begun = self.client.create_multipart_upload(Bucket=self.bucket, Key=key, **arguments_of(headers, mark))
        return f"{begun['UploadId']}~{mark}"

    def sign_part(
        self, key: str, upload: str, number: int, expires: timedelta, *, size: int | None = None
    ) -> SignedPut:
        """See SignsParts. Raises ValueError for a number that no part can have."""
        if not 1 <= number <= MOST:
            raise ValueError(f"parts are numbered from 1 to {MOST}")
        expires_at = datetime.now(UTC) + bound(expires)
        arguments: dict[str, Any] = {"Key": key, "UploadId": _split(upload)[0], "PartNumber": number}
        sent = {}
        if size is not None:
            arguments["ContentLength"] = size
            sent["Content-Length"] = str(size)
        return SignedPut(self._sign("upload_part", arguments, expires), sent, expires_at)

    def sent_parts(self, key: str, upload: str) -> Iterator[SentPart]:
        """See SignsParts."""
        where = {"Bucket": self.bucket, "Key": key}
        return (sent[0] for sent in listed(self.client, where, _split(upload)[0]))

    def finish_parts(self, key: str, upload: str, parts: Sequence[SentPart]) -> ObjectStat:
        """See SignsParts."""
        where, (token, mark) = {"Bucket": self.bucket, "Key": key}, _split(upload)
        parts = sorted(parts, key=lambda part: part.number)
        try:
            _check(parts, listed(self.client, where, token))
            made = completed(self.client, where, token, parts, mark, _PLAIN)
        except ObjectNotFound:  # gone: into the object, it may be
            done = made_before(self.client, where, mark, sum(part.size for part in parts))
            if done is None:
                raise
            return done
        return self.head(key, made.ref.version)  # with the headers that were given at the beginning

    def drop_parts(self, key: str, upload: str) -> None:
        """See SignsParts."""
        with contextlib.suppress(ObjectNotFound), translated():
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=_split(upload)[0])

    def sign_form(self, key: str, headers: ObjectHeaders, expires: timedelta, *, least: int, most: int) -> SignedForm:
        """See SignsForms. S3 has no condition for a form that would keep it from replacing an object: the key must be
        one that is used once, and what landed must be pinned."""
        expires_at = datetime.now(UTC) + bound(expires)
        fields = {"Content-Type": headers.content_type, "success_action_status": "201"}
        if headers.content_disposition is not None:
            fields["Content-Disposition"] = headers.content_disposition
        fields |= {f"x-amz-meta-{name}": value for name, value in headers.metadata.items()}
        conditions: list[Any] = [{name: value} for name, value in fields.items()]
        conditions.append(["content-length-range", least, most])
        seconds = max(1, int(expires.total_seconds()))
        with translated():
            signed = self.client.generate_presigned_post(self.bucket, key, dict(fields), conditions, seconds)
        return SignedForm(signed["url"], signed["fields"], expires_at)


def _split(upload: str) -> tuple[str, str]:
    token, _, mark = upload.partition("~")
    if not token or not mark:
        raise ObjectNotFound
    return token, mark


def _check(parts: Sequence[SentPart], there: Iterator[list[SentPart]]) -> None:
    """Raises PreconditionFailed unless these parts were sent, and are large enough. S3 would say so too, but some
    stores that speak its language complete what they should refuse."""
    sent = {part for each in there for part in each}
    numbers = {part.number for part in parts}
    if not parts or len(numbers) != len(parts) or not sent.issuperset(parts):
        raise PreconditionFailed("A part is missing, or is another one by now.")
    if any(part.size < LEAST for part in parts[:-1]):
        raise PreconditionFailed(f"Every part but the last must have {LEAST} bytes or more.")
