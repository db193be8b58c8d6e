"""Which types are taken, and which names go with which content. Tables only: nothing here reads a byte."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
ENCRYPTED_OFFICE = "application/x-encrypted-office"  # what it is inside cannot be told
POLYGLOT = "application/x-polyglot"  # valid as two types at once: whoever opens it decides which
SCRIPT = "text/x-script"
UNKNOWN = "application/octet-stream"

# The last suffix of a name -> what its content may be, the usual one first.
EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "pdf": ("application/pdf",),
    "doc": ("application/msword", "application/rtf"),  # Word itself has long written RTF under this name
    "xls": ("application/vnd.ms-excel",),
    "ppt": ("application/vnd.ms-powerpoint",),
    "docx": (DOCX,),
    "xlsx": (XLSX,),
    "pptx": (PPTX,),
    "odt": ("application/vnd.oasis.opendocument.text",),
    "ods": ("application/vnd.oasis.opendocument.spreadsheet",),
    "odp": ("application/vnd.oasis.opendocument.presentation",),
    "odg": ("application/vnd.oasis.opendocument.graphics",),
    "rtf": ("application/rtf",),
    "png": ("image/png",),
    "jpg": ("image/jpeg",),
    "jpeg": ("image/jpeg",),
    "jpe": ("image/jpeg",),
    "gif": ("image/gif",),
    "tif": ("image/tiff",),
    "tiff": ("image/tiff",),
    "bmp": ("image/bmp",),
    "webp": ("image/webp",),
    "heic": ("image/heic",),
    "svg": ("image/svg+xml",),
    "txt": ("text/plain",),
    "text": ("text/plain",),
    "log": ("text/plain",),
    "md": ("text/markdown",),
    "markdown": ("text/markdown",),
    "csv": ("text/csv",),
    "tsv": ("text/tab-separated-values",),
    "tab": ("text/tab-separated-values",),
    "json": ("application/json",),
    "jsonl": ("application/json",),
    "eml": ("message/rfc822",),
    "msg": ("application/vnd.ms-outlook",),
    "html": ("text/html",),
    "htm": ("text/html",),
    "xml": ("text/xml",),
    "zip": ("application/zip",),
    "epub": ("application/epub+zip",),
    "jar": ("application/java-archive",),
    "docm": ("application/vnd.ms-word.document.macroenabled.12",),
    "xlsm": ("application/vnd.ms-excel.sheet.macroenabled.12",),
    "pptm": ("application/vnd.ms-powerpoint.presentation.macroenabled.12",),
    "gz": ("application/gzip",),
    "7z": ("application/x-7z-compressed",),
    "tar": ("application/x-tar",),
}

# Plain text is what it is called: its bytes cannot tell these apart, and none of them does anything when opened.
HARMLESS_TEXT = frozenset(
    {
        "text/plain",
        "text/markdown",
        "text/csv",
        "text/tab-separated-values",
        "application/json",
        "message/rfc822",
    }
)

ALIASES: Mapping[str, str] = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/tif": "image/tiff",
    "image/x-tiff": "image/tiff",
    "image/x-ms-bmp": "image/bmp",
    "image/x-bmp": "image/bmp",
    "text/rtf": "application/rtf",
    "application/x-rtf": "application/rtf",
    "application/x-pdf": "application/pdf",
    "application/x-zip-compressed": "application/zip",
    "application/x-zip": "application/zip",
    "application/xml": "text/xml",
    "application/csv": "text/csv",
    "text/x-csv": "text/csv",
    "text/comma-separated-values": "text/csv",
    "text/tsv": "text/tab-separated-values",
    "text/x-markdown": "text/markdown",
    "text/json": "application/json",
    "application/x-ndjson": "application/json",
    "application/jsonl": "application/json",
    "application/jsonlines": "application/json",
    "application/xhtml+xml": "text/html",
    "application/x-gzip": "application/gzip",
    "application/vnd.ms-office": "application/msword",
    "application/x-msword": "application/msword",
    "application/x-msexcel": "application/vnd.ms-excel",
    "application/x-mspowerpoint": "application/vnd.ms-powerpoint",
}

# Declared by senders that do not know or did not look: nothing to compare.
GENERIC = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded", "binary/octet-stream"})

# What browsers on Windows declare a .csv to be, since Excel has registered the suffix.
ALSO_DECLARED: Mapping[str, frozenset[str]] = {"text/csv": frozenset({"application/vnd.ms-excel"})}

DEFAULT_ALLOWED = frozenset(
    {
        "application/pdf",
        "application/msword",
        "application/vnd.ms-excel",
        "application/vnd.ms-powerpoint",
        DOCX,
        XLSX,
        PPTX,
        "application/vnd.oasis.opendocument.text",
        "application/vnd.oasis.opendocument.spreadsheet",
        "application/vnd.oasis.opendocument.presentation",
        "application/rtf",
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/tiff",
        "image/bmp",
        "image/webp",
        *HARMLESS_TEXT,
        "application/vnd.ms-outlook",
    }
)


@dataclass(frozen=True, slots=True)
class TypeRules:
    """What is taken. `allowed` holds media types as detected; `macros` takes documents that carry code."""

    allowed: frozenset[str] = DEFAULT_ALLOWED
    macros: bool = False
    extensions: Mapping[str, tuple[str, ...]] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowed", frozenset(map(canonical, self.allowed)))
        if self.extensions is None:
            object.__setattr__(self, "extensions", EXTENSIONS)


def canonical(media_type: str) -> str:
    """One spelling for each type: lower case, no parameters, no synonym."""
    plain = media_type.split(";", 1)[0].strip().lower()
    return ALIASES.get(plain, plain)


def suffix_of(name: str | None) -> str:
    """The last suffix, case folded, without the dots and spaces that Windows drops; "" where there is none.

    What holds a space, or only digits, is the rest of a title ("Offer v1.2 final") and no suffix.
    """
    _, dot, last = (name or "").rstrip(". \t\r\n\0").casefold().rpartition(".")
    last = last.rstrip()
    return last if dot and re.fullmatch(r"\S*[^\W\d]\S*", last) else ""
