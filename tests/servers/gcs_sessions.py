"""Resumable sessions of the Cloud Storage double, as the public reference and Google's own clients describe them.

Whoever has a session's URL may send to it, without a token. A session keeps multiples of 256 KiB until the last chunk
comes, cannot be taken back, ignores what it has already, and once done gives the same answer for ever.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c

from tests.servers.gcs_objects import Buckets, Held, Refused

GRAIN = 256 << 10
RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclass
class Session:
    """One upload that has begun."""

    bucket: str
    resource: Mapping[str, Any]
    match: str | None  # ifGenerationMatch, which is looked at when the upload ends
    origin: str | None
    announced: int | None  # X-Upload-Content-Length: Google promises nowhere to hold a client to it, so neither do we
    body: bytearray = field(default_factory=bytearray)
    made: Held | None = None


class Sessions:
    """All sessions of a server. `len` counts those that are open."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._all: dict[str, Session] = {}

    def __len__(self) -> int:
        return sum(session.made is None for session in self._all.values())

    def begin(self, bucket: str, resource: Mapping[str, Any], match: str | None, headers: Mapping[str, str]) -> str:
        """A new session's id."""
        name = secrets.token_hex(8)
        kept = dict(resource)
        kept.setdefault("contentType", headers.get("X-Upload-Content-Type"))
        length = headers.get("X-Upload-Content-Length")
        announced = None if length is None else int(length)
        self._all[name] = Session(bucket, kept, match, headers.get("Origin"), announced)
        return name

    def find(self, name: str) -> Session:
        """The session, 404 where there is none."""
        if name not in self._all:
            raise Refused(404)
        return self._all[name]

    def end(self, name: str) -> None:
        """DELETE: 499 where it was open."""
        if self.find(name).made is not None:
            raise Refused(404)
        del self._all[name]
        raise Refused(499)

    def send(self, name: str, body: bytes, headers: Mapping[str, str]) -> Held | int:
        """PUT: the object, or how many bytes are kept so far."""
        with self._buckets.lock:
            session = self.find(name)
            if session.made is not None:
                return session.made
            have = len(session.body)
            match = RANGE.fullmatch(headers.get("Content-Range") or f"bytes 0-{len(body) - 1}/{len(body)}")
            if match is None and body:
                raise Refused(400)
            first, last, total = match.groups() if match else (None, None, "0")
            if first is not None:
                start = int(first)
                if int(last) - start + 1 != len(body):
                    raise Refused(400)
                if start > have:
                    raise Refused(503)  # "the upload offset exceeds the already uploaded size"
                body = body[have - start :]
            elif body:
                raise Refused(400)
            if total != "*" and int(total) < have + len(body):
                raise Refused(400)
            if total == "*" or int(total) != have + len(body):
                if body and len(body) < GRAIN:
                    raise Refused(400)
                session.body += body[: len(body) // GRAIN * GRAIN]
                return len(session.body)
            whole = bytes(session.body) + body
            if (wanted := headers.get("x-goog-hash", "")).startswith("crc32c="):
                digest = base64.b64encode(google_crc32c.value(whole).to_bytes(4, "big")).decode()
                if digest not in wanted:
                    raise Refused(400)
            try:
                key = session.resource["name"]
                session.made = self._buckets.put(session.bucket, key, whole, session.resource, session.match)
            except Refused:
                del self._all[name]
                raise
            return session.made
