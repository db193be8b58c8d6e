"""What the readers share: bounded JSON, and fields of it that are what they have to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

from pipeline.events.landed import Ignored, ObjectLanded, Unreadable

MAX_BYTES = 1 << 20  # what SQS carries at most, and more than any store's own event has
MAX_RECORDS = 1000  # in one message; S3 sends one
KEY_BYTES = 1024  # both S3's and Cloud Storage's limit
VERSION_CHARS = 1024


class Malformed(Exception):
    """The message breaks its own format. Carries one sentence; never leaves this package."""


def parsed(body: bytes) -> Any:
    """The JSON value, whatever it is. Raises Malformed."""
    if len(body) > MAX_BYTES:
        raise Malformed("The message is larger than 1 MiB.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Malformed("The message is not JSON.") from None


def record(value: Any, what: str) -> Mapping[str, Any]:
    """An object. Raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed(f"{what} is not an object.")
    return value


def text(fields: Mapping[str, Any], name: str) -> str | None:
    """A string that is there and not empty."""
    value = fields.get(name)
    return value if isinstance(value, str) and value else None


def count(value: Any) -> int | None:
    """A number of bytes, as a number or, as Google's JSON has it, in quotes."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    return None


def instant(value: Any) -> datetime | None:
    """An RFC 3339 time; None for what is none."""
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        at = datetime.fromisoformat(value)
        return at.astimezone(UTC) if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def decoded(key: str) -> str:
    """A key as S3's notifications write it: form-urlencoded, with a plus for a space. Raises Malformed."""
    try:
        return unquote_to_bytes(key.replace("+", " ")).decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError):
        raise Malformed("The object's key is not UTF-8.") from None


def landed(
    source: str,
    bucket: str | None,
    key: str | None,
    *,
    version: str | None = None,
    size: int | None = None,
    at: datetime | None = None,
    sequencer: str | None = None,
) -> ObjectLanded | Ignored | Unreadable:
    """The result, once bucket and key can be names of an object at all."""
    if bucket is None or key is None:
        return Unreadable("The message names no bucket and key.")
    try:
        encoded = key.encode("utf-8"), bucket.encode("utf-8"), (version or "").encode("utf-8")
    except UnicodeEncodeError:
        return Unreadable("The object's key is not UTF-8.")
    if len(encoded[0]) > KEY_BYTES or len(encoded[1]) > 255 or len(encoded[2]) > VERSION_CHARS:
        return Unreadable("The object's bucket, key or version is longer than any store allows.")
    if any("\0" in each for each in (bucket, key, version or "")):
        return Unreadable("The object's bucket, key or version holds a NUL.")
    if key.endswith("/") and not size:
        return Ignored("a folder's marker")
    return ObjectLanded(bucket, key, version, size, at, sequencer, source)
