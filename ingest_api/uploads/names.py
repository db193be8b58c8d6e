"""What a sender calls a file, cleaned for showing.

A name is only ever shown and compared. No key, path, URL or log line holds it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from multipart import content_disposition_unquote, parse_options_header  # type: ignore[import-untyped]

LONGEST = 255  # UTF-8 bytes, what file systems take; a longer name is cut, and keeps its extension
_EXTENSION = 32

# They turn the reading order about, so that "gpj.exe" shows as "exe.jpg".
_BIDI = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF])
_EXTENDED = re.compile(r";\s*filename\*\s*=\s*\"?([A-Za-z0-9_-]+)'[^']*'([^\s;\"]*)", re.IGNORECASE)


def clean_name(raw: str | None) -> str | None:
    """The name without paths, control characters and marks of direction, in NFC, at most LONGEST bytes.

    None if nothing is left. Cleaning twice changes nothing.
    """
    if raw is None:
        return None
    # Far longer than any name that will be kept, and still nobody makes us normalise megabytes.
    text = raw[-65536:].replace("\\", "/").rpartition("/")[2].translate(_BIDI)
    text = "".join(char for char in text if unicodedata.category(char) not in {"Cc", "Cs", "Zl", "Zp"})
    # After the rest: what stood apart because of a dropped character may compose now.
    text = unicodedata.normalize("NFC", text).strip()
    text = _cut(text).strip()
    return None if text in {"", ".", ".."} else text


def _cut(text: str) -> str:
    if len(text.encode()) <= LONGEST:
        return text
    stem, dot, extension = text.rpartition(".")
    tail = dot + extension if dot and stem and len(extension.encode()) <= _EXTENSION else ""
    body = text.removesuffix(tail) if tail else text
    # "ignore" drops the half of a character that the cut may leave.
    kept = body.encode()[: LONGEST - len(tail.encode())].decode("utf-8", "ignore")
    return kept + tail


def name_in_disposition(value: str) -> str | None:
    """The file name in a Content-Disposition, not cleaned: `filename*` (RFC 8187) before `filename`."""
    if extended := _EXTENDED.search(value):
        charset = extended[1].lower()
        if charset in {"utf-8", "iso-8859-1"}:
            return unquote_to_bytes(extended[2]).decode(charset, "replace")
    plain: str | None = parse_options_header(value, unquote=content_disposition_unquote)[1].get("filename")
    return plain


def name_of_raw(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The cleaned name of a raw body: from Content-Disposition, X-File-Name (percent-encoded UTF-8) or `?name=`."""
    if (disposition := headers.get("content-disposition")) is not None:
        # Headers arrive as Latin-1; clients that mean UTF-8 just send its bytes.
        found = name_in_disposition(_as_utf8(disposition))
    elif (plain := headers.get("x-file-name")) is not None:
        found = unquote_to_bytes(_as_utf8(plain)).decode("utf-8", "replace")
    else:
        found = query.get("name")
    return clean_name(found)


def _as_utf8(header: str) -> str:
    raw = header.encode("latin-1", "replace")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return header


_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
# curl --data-binary sends it unasked, so it says nothing about the file; the other says nothing by definition.
_SAYS_NOTHING = frozenset({"application/x-www-form-urlencoded", "application/octet-stream"})


def declared_type(value: str | None) -> str | None:
    """The media type that a Content-Type declares, in lower case and without parameters; None if it declares none."""
    kind = (value or "").partition(";")[0].strip().lower()
    return kind if _MEDIA_TYPE.fullmatch(kind) and kind not in _SAYS_NOTHING else None
