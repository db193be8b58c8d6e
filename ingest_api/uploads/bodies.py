"""Small bodies: what a request says of an upload, as JSON or as a form of text fields, read within bounds."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl
from uuid import UUID

from fastapi import Request

from ingest_api.problems import InvalidParameters
from ingest_api.uploads.digests import Checks, sha256_in
from ingest_api.uploads.form import boundary_of, read_form
from ingest_api.uploads.landing import Landing, too_large
from ingest_api.uploads.stream import refuse_coded, unstalled
from ingest_api.web import Threads, web_of
from pipeline.errors import BadRequest

BYTES = 64 << 10
LARGEST = 2**63 - 1
TEXT = 4096  # characters of one value; names are cut when they are cleaned


async def read_body(request: Request, most: int = BYTES) -> bytes:
    """The whole body. Raises TooLarge, Stalled, UnsupportedContent."""
    refuse_coded(request.headers)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large(most, "body_bytes")
    body = bytearray()
    async for chunk in unstalled(request.stream()):
        body += chunk
        if len(body) > most:
            raise too_large(most, "body_bytes")
    return bytes(body)


async def read_json(request: Request, most: int = BYTES) -> dict[str, Any]:
    """The members of a JSON object; none for an empty body. Raises BadRequest, and as `read_body` does."""
    body = await read_body(request, most)
    return _object(body) if body.strip() else {}


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError too
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body is a JSON object.")
    return value


async def read_fields(request: Request) -> Fields:
    """The body's members, as JSON or as either kind of form. Raises as `read_json` does."""
    kind = request.headers.get("content-type", "")
    boundary = boundary_of(kind)
    if boundary is not None:
        body, found = await read_body(request), dict[str, str]()
        await read_form(_once(body), boundary, _NoFiles(web_of(request).threads), Checks(), found, least=0)
        return Fields(found)
    if kind.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        body = await read_body(request)
        try:
            return Fields(dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100)))
        except ValueError:
            raise BadRequest("The form cannot be read.") from None
    return Fields(await read_json(request))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


class _NoFiles:
    """Takes none."""

    max_bytes, max_files = BYTES, 1  # to have `open` say it
    max_form_bytes = BYTES

    def __init__(self, threads: Threads) -> None:
        self.threads = threads

    async def open(
        self, *, field: str, name: str | None, declared: str | None, size: int | None, checks: Checks
    ) -> Landing:
        raise BadRequest("No file belongs here.")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


class Fields:
    """The members of a body by name; `fileName`, `file_name` and `filename` are one. Raises InvalidParameters for a
    value that cannot be."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = {_plain(name): value for name, value in members.items()}

    def _found(self, names: tuple[str, ...]) -> tuple[str, Any]:
        for name in names:
            if self._members.get(_plain(name)) not in (None, ""):
                return name, self._members[_plain(name)]
        return names[0], None

    def text(self, *names: str) -> str | None:
        """A string under the first of these names that has a value."""
        name, value = self._found(names)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > TEXT:
            wrong(name, f"is a string of at most {TEXT} characters")
        return value

    def number(self, *names: str) -> int | None:
        """A whole number from 0 on, or its digits."""
        name, value = self._found(names)
        if value is None:
            return None
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST:
            wrong(name, "is a whole number, not below 0")
        return value

    def id(self, *names: str) -> UUID | None:
        """A UUID."""
        name, value = names[0], self.text(*names)
        if value is None:
            return None
        try:
            return UUID(value)
        except ValueError:
            wrong(name, "is an id that was given out here")

    def sha256(self, *names: str) -> str | None:
        """A SHA-256, as lower-case hexadecimal."""
        value = self.text(*names)
        try:
            return None if value is None else sha256_in(value, names[0])
        except BadRequest as exc:
            wrong(names[0], exc.detail)


def wrong(name: str, problem: str) -> NoReturn:
    """Raises InvalidParameters about one member of the body."""
    raise InvalidParameters(f"{name}: {problem}.", errors=[{"in": "body", "name": name, "problem": problem}])
