"""Between S3's answers and our values."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from pipeline.errors import ObjectNotFound
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat

# Our own mark in an object's metadata, never shown: by it a writer whose reply was lost knows its object again.
MARK = "airlock-write"


def pin_of(answer: Mapping[str, Any]) -> str:
    """What names these bytes: the version id, or the ETag in its quotes where the bucket keeps no versions.

    No version id begins with a quote, so a pin says by itself which of the two it is.
    """
    version = answer.get("VersionId")
    if version and version != "null":
        return str(version)
    return '"' + str(answer["ETag"]).strip('"') + '"'


def pin_arguments(version: str) -> dict[str, str]:
    """The arguments that hold a read to that version. Raises ObjectNotFound for what no store ever gave out."""
    if not version or not version.isascii() or not version.isprintable() or len(version) > 1024:
        raise ObjectNotFound
    return {"IfMatch": version} if version.startswith('"') else {"VersionId": version}


def headers_of(answer: Mapping[str, Any]) -> ObjectHeaders:
    """The stored headers."""
    return ObjectHeaders(
        answer.get("ContentType") or "application/octet-stream",
        answer.get("ContentDisposition"),
        {name: value for name, value in answer.get("Metadata", {}).items() if name != MARK},
    )


def arguments_of(headers: ObjectHeaders, mark: str | None = None) -> dict[str, Any]:
    """The stored headers, as arguments."""
    arguments: dict[str, Any] = {"ContentType": headers.content_type}
    if headers.content_disposition is not None:
        arguments["ContentDisposition"] = headers.content_disposition
    metadata = dict(headers.metadata) | ({MARK: mark} if mark else {})
    if metadata:
        arguments["Metadata"] = metadata
    return arguments


def stat_of(bucket: str, key: str, answer: Mapping[str, Any]) -> ObjectStat:
    """A HEAD's answer."""
    return ObjectStat(
        ObjectRef(bucket, key, pin_of(answer)),
        int(answer["ContentLength"]),
        answer["LastModified"].astimezone(UTC),
        headers_of(answer),
        sha256_of(answer),
        str(answer["ETag"]).strip('"'),
    )


def sha256_of(answer: Mapping[str, Any]) -> str | None:
    """The store's SHA-256 of the whole object, lower-case hex. A hash of parts' hashes is not one."""
    value = answer.get("ChecksumSHA256")
    if not value or "-" in value or answer.get("ChecksumType") == "COMPOSITE":
        return None
    try:
        digest = base64.b64decode(value, validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == 32 else None


def base64_of(sha256: str) -> str:
    """Hex to what S3 wants."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()
