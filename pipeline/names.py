"""What a sender calls a file, cleaned for showing.

A name is only ever shown and compared. No key, path, URL or log line holds it.
"""

from __future__ import annotations

import unicodedata

LONGEST = 255  # UTF-8 bytes, what file systems take; a longer name is cut, and keeps its extension
_EXTENSION = 32

# They turn the reading order about, so that "gpj.exe" shows as "exe.jpg".
_BIDI = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF])


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
