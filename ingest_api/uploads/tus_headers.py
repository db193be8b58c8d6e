"""What the headers of tus 1.0 say (https://tus.io/protocols/resumable-upload). Pure: headers in, values out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from ingest_api.problems import ChunkMismatch
from ingest_api.uploads.names import declared_type
from pipeline.errors import BadRequest

VERSION = "1.0.0"
EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "checksum",
    "expiration",
    "termination",
    "concatenation",
)
CHUNK = "application/offset+octet-stream"
DIGESTS = {"sha1": 20, "sha256": 32, "crc32c": 4}  # bytes

METADATA_BYTES = 16 << 10  # kept, and given back by HEAD
_NUMBER = re.compile(r"[0-9]{1,18}")
_KEY = re.compile(r"[!-+\--~]+")  # visible ASCII but the comma
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
# Where a client says an upload is: a whole URL or its path, under whatever prefix a proxy has taken away.
_UPLOAD = re.compile(
    r"(?:https?://[A-Za-z0-9.:\[\]-]+)?(?:/[A-Za-z0-9._~%-]+){0,8}/v1/uploads/tus/"
    r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/?",
    re.IGNORECASE,
)


def number_in(headers: Mapping[str, str], name: str) -> int | None:
    """A header's number of bytes; None: it was not sent. Raises BadRequest."""
    value = headers.get(name.lower())
    if value is None:
        return None
    if not _NUMBER.fullmatch(value):
        raise BadRequest(f"{name} is not a number of bytes.")
    return int(value)


def announced_length(headers: Mapping[str, str]) -> int | None:
    """The length of a new upload; None: it comes later. Raises BadRequest unless exactly one of the two was said."""
    length, deferred = number_in(headers, "Upload-Length"), headers.get("upload-defer-length")
    if deferred not in (None, "1"):
        raise BadRequest("Upload-Defer-Length can only be 1.")
    if (length is None) == (deferred is None):
        raise BadRequest("Say how long the upload is in Upload-Length, or send Upload-Defer-Length: 1.")
    return length


def is_chunk(headers: Mapping[str, str]) -> bool:
    """Whether the body is declared to be bytes of the upload."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == CHUNK


@dataclass(frozen=True, slots=True)
class Metadata:
    """Upload-Metadata: as it was sent, and what is understood of it."""

    raw: str = ""
    name: str | None = None  # not cleaned
    declared_type: str | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Metadata:
        """Raises BadRequest for what is no list of keys and Base64 values."""
        raw = headers.get("upload-metadata", "").strip()
        if len(raw) > METADATA_BYTES:
            raise BadRequest(f"Upload-Metadata may have {METADATA_BYTES} bytes.")
        values: dict[str, str] = {}
        for pair in raw.split(",") if raw else ():
            key, _, value = pair.strip().partition(" ")
            if not _KEY.fullmatch(key) or key in values:
                raise BadRequest("Upload-Metadata has a key that is empty, not ASCII, or there twice.")
            values[key] = _text(value.strip())
        kinds = (values.get(key) for key in ("filetype", "type", "contentType"))
        sha256 = values.get("sha256") or None
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            raise BadRequest("sha256 in Upload-Metadata is 64 hexadecimal digits.")
        return cls(
            raw,
            values.get("filename") or values.get("name") or None,
            next(filter(None, map(declared_type, kinds)), None),
            sha256,
        )


def _text(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        raise BadRequest("A value in Upload-Metadata is not Base64.") from None


@dataclass(frozen=True, slots=True)
class Concat:
    """Upload-Concat: a piece of an upload to come, or the upload that the named ones become."""

    partials: tuple[UUID, ...] = ()  # none: this one is partial

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Concat | None:
        """None: neither. Raises BadRequest for what does not name uploads."""
        value = headers.get("upload-concat")
        if value is None:
            return None
        if value == "partial":
            return cls()
        kind, _, listed = value.partition(";")
        found = [_UPLOAD.fullmatch(url) for url in listed.split()]
        if kind != "final" or not found or not all(found):
            raise BadRequest(
                "Upload-Concat is partial, or final; and the URLs of partial uploads, with spaces between."
            )
        return cls(tuple(UUID(match[1]) for match in found if match))


class _Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Checksum:
    """Upload-Checksum: what the bytes of one request must hash to."""

    def __init__(self, algorithm: str, wanted: bytes) -> None:
        """Raises KeyError for an algorithm that is not in DIGESTS."""
        if len(wanted) != DIGESTS[algorithm]:
            raise BadRequest(f"Upload-Checksum: a {algorithm} digest has {DIGESTS[algorithm]} bytes, in Base64.")
        self._wanted = wanted
        self._hasher = _hasher(algorithm)

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Checksum | None:
        """None: nothing is to be compared. Raises BadRequest."""
        value = headers.get("upload-checksum")
        if value is None:
            return None
        algorithm, _, text = value.strip().partition(" ")
        if algorithm not in DIGESTS:
            raise BadRequest(f"Upload-Checksum: the algorithms are {', '.join(DIGESTS)}.")
        try:
            wanted = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest("Upload-Checksum is an algorithm, a space, and the digest in Base64.") from None
        return cls(algorithm, wanted)

    def update(self, piece: list[bytes]) -> None:
        """Hash what came."""
        for chunk in piece:
            self._hasher.update(chunk)

    def verify(self) -> None:
        """Raises ChunkMismatch."""
        if not hmac.compare_digest(self._hasher.digest(), self._wanted):
            raise ChunkMismatch("These are not the bytes that Upload-Checksum names. Send them again.")


def _hasher(algorithm: str) -> _Hasher:
    if algorithm == "crc32c":
        import google_crc32c

        made: _Hasher = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
        return made
    return hashlib.new(algorithm, usedforsecurity=False)  # against accidents: what is trusted is hashed in quarantine
