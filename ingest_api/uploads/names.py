"""What a request calls its file: in Content-Disposition, a header or the query."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from multipart import content_disposition_unquote, parse_options_header  # type: ignore[import-untyped]

from pipeline.names import clean_name

_EXTENDED = re.compile(r";\s*filename\*\s*=\s*\"?([A-Za-z0-9_-]+)'[^']*'([^\s;\"]*)", re.IGNORECASE)


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
