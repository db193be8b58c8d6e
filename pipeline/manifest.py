"""Manifests: CSV (RFC 4180) or NDJSON, a line an item, read as they come. Pure: bytes in, items out.

Nothing is kept but the line that is being read, so the length of a manifest does not matter. A line that cannot be an
item is one all the same, with what is wrong about it: it is reported by its number, and keeps no other from its way.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from uuid import UUID

from pipeline.batches import NewItem
from pipeline.errors import BadRequest

LINE = 16 << 10  # bytes: several times the longest key, name and version
KEY = 1024  # bytes, what S3 and Cloud Storage take
TEXT = 1024  # code points of a name or a version
COLUMNS = ("key", "id", "version", "name", "type", "sha256")
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class Format(StrEnum):
    """How the lines are to be read, by media type."""

    CSV = "text/csv"
    NDJSON = "application/x-ndjson"


class _Bad(ValueError):
    """What is wrong with a line, in a sentence that repeats nothing of it."""


class ManifestReader:
    """Takes a manifest piece by piece."""

    def __init__(self, format: Format) -> None:  # noqa: A002
        self._parse: Callable[[str], Mapping[str, object] | None] = _json_line if format is Format.NDJSON else self._row
        self._columns: list[str] = []
        self._delimiter = ","
        self._rest = b""
        self._skipping = False  # the rest of a line that was too long
        self._line = 0

    def feed(self, piece: bytes) -> Iterator[NewItem]:
        """The items of the lines that end in this piece. Raises BadRequest for a CSV without a usable header."""
        # Only what ends is split off: a line without an end is never copied twice over.
        *lines, last = piece.split(b"\n")
        for line in lines:
            yield from self._end(self._rest + line)
            self._rest = b""
        self._rest += last
        if len(self._rest) > LINE:
            if not self._skipping:
                self._skipping = True
                self._line += 1
                yield NewItem(line=self._line, problem=f"It is longer than {LINE} bytes.")
            self._rest = b""

    def close(self) -> Iterator[NewItem]:
        """The item of the last line, if it has no line feed. Raises as `feed` does."""
        if self._rest or self._skipping:
            yield from self._end(self._rest)
            self._rest = b""

    def _end(self, raw: bytes) -> Iterator[NewItem]:
        if self._skipping:
            self._skipping = False
            return
        self._line += 1
        if len(raw) > LINE:
            yield NewItem(line=self._line, problem=f"It is longer than {LINE} bytes.")
            return
        try:
            text = raw.removeprefix(b"\xef\xbb\xbf" if self._line == 1 else b"").decode().rstrip("\r")
            members = self._parse(text) if text.strip() else None
            if members is not None:
                yield item_of(members, line=self._line)
        except UnicodeDecodeError:
            yield NewItem(line=self._line, problem="It is not UTF-8.")
        except _Bad as exc:
            yield NewItem(line=self._line, problem=str(exc))

    def _row(self, text: str) -> Mapping[str, object] | None:
        if not self._columns:
            self._read_header(text)
            return None
        try:
            [cells] = csv.reader([text], delimiter=self._delimiter, strict=True)
        except (csv.Error, ValueError):
            raise _Bad("Its quotes do not match; a value has no line feeds.") from None
        if len(cells) > len(self._columns):
            raise _Bad(f"It has {len(cells)} values, and the header names {len(self._columns)}.")
        return {column: cell for column, cell in zip(self._columns, cells, strict=False) if cell}

    def _read_header(self, text: str) -> None:
        for delimiter in (",", ";", "\t"):
            try:
                [cells] = csv.reader([text], delimiter=delimiter, strict=True)
            except (csv.Error, ValueError):
                continue
            columns = [cell.strip().lower() for cell in cells]
            if "key" in columns or "id" in columns:
                self._columns, self._delimiter = columns, delimiter
                return
        raise BadRequest(f"The first line of a CSV names its columns: key or id, and any of {', '.join(COLUMNS[2:])}.")


def _json_line(text: str) -> Mapping[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _Bad("It is not JSON.") from None
    if isinstance(value, str):
        return {"key": value}
    if not isinstance(value, dict):
        raise _Bad("It is neither a JSON object nor a key.")
    return value


def item_of(members: Mapping[str, object], *, line: int | None = None) -> NewItem:
    """An item of the members `COLUMNS`; others are passed over. Raises _Bad, which is a ValueError."""
    given = {name: _text(name, members.get(name)) for name in COLUMNS}
    key, number = given["key"], given["id"]
    if (key is None) == (number is None):
        raise _Bad("It names an object by its key, or an upload or a document by its id: one of them.")
    if key is not None and len(key.encode()) > KEY:
        raise _Bad(f"Its key is longer than {KEY} bytes.")
    kind, digest = given["type"], given["sha256"]
    if kind is not None and not _TYPE.fullmatch(kind):
        raise _Bad("Its type is no media type.")
    if digest is not None and not _SHA256.fullmatch(digest):
        raise _Bad("Its sha256 is not 64 hexadecimal digits.")
    return NewItem(
        key=key,
        document_id=None if number is None else _uuid(number),
        version=given["version"],
        name=given["name"],
        declared_type=None if kind is None else kind.lower(),
        declared_sha256=None if digest is None else digest.lower(),
        line=line,
    )


def _text(name: str, value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _Bad(f"Its {name} is no text.")
    if len(value) > TEXT:
        raise _Bad(f"Its {name} is longer than {TEXT} characters.")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise _Bad(f"Its {name} holds characters that cannot be kept.")
    return value


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _Bad("Its id is not one that was given out here.") from None
