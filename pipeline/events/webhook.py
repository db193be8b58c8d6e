"""Bucket events by HTTP from servers of one's own: S3's JSON (MinIO, Ceph, Garage, RustFS), SeaweedFS's filer, and
EventBridge by way of an API destination.

SeaweedFS has no bucket notifications: its filer tells of every change below a path, in the shape of its own protocol
(weed/notification/webhook, weed/pb/filer.proto): `{"key": PATH, "event_type": ..., "message": {"old_entry": ...,
"new_entry": ..., "new_parent_path": ...}}`. An object is a file below /buckets/NAME/, and so is each version of one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.events.landed import Ignored, Result, Unreadable
from pipeline.events.reading import Malformed, count, landed, parsed, record, text
from pipeline.events.s3 import read_value

BUCKETS = "/buckets/"
VERSION_ID = "Seaweed-X-Amz-Version-Id"
DELETE_MARKER = "Seaweed-X-Amz-Delete-Marker"
VERSIONS = ".versions"


def read(body: bytes, headers: Mapping[str, str]) -> Sequence[Result]:
    """What one request says. See `Read`."""
    try:
        value = parsed(body)
        if isinstance(value, dict) and "event_type" in value and "message" in value:
            return [_filer(value)]
        return read_value(value)
    except Malformed as exc:
        return [Unreadable(str(exc))]


def _filer(event: Mapping[str, Any]) -> Result:
    message = record(event["message"], "The filer's message")
    if message.get("new_entry") is None:
        return Ignored("a deletion")
    entry = record(message["new_entry"], "The filer's entry")
    extended = record(entry.get("extended") or {}, "The entry's attributes")
    if entry.get("is_directory"):
        return Ignored("a folder")
    if DELETE_MARKER in extended:
        return Ignored("a deletion")
    # A renamed file's key is its old name.
    parent, name = text(message, "new_parent_path"), text(entry, "name")
    path = f"{parent.rstrip('/')}/{name}" if parent is not None and name is not None else text(event, "key")
    if path is None:
        raise Malformed("The filer's message names no file.")
    bucket, _, key = path.removeprefix(BUCKETS).partition("/")
    if not path.startswith(BUCKETS) or not key or bucket.startswith("."):
        return Ignored("a file of no bucket")
    if key.startswith(".uploads/"):
        return Ignored("a part of an unfinished upload")
    version = _decoded(extended.get(VERSION_ID))
    folder, _, file = key.rpartition("/")
    if version is not None and folder.endswith(VERSIONS) and file == f"v_{version}":
        key = folder.removesuffix(VERSIONS)
    attributes = record(entry.get("attributes") or {}, "The entry's attributes")
    return landed("seaweedfs", bucket, key, version=version, size=count(attributes.get("file_size")))


def _decoded(value: Any) -> str | None:
    """A value of `extended`: bytes, as Go writes them into JSON."""
    if not isinstance(value, str):
        return None
    try:
        version = base64.b64decode(value, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    return version if version not in ("", "null") else None
