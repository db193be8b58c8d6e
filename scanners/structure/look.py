"""The one look at a sample, inside the sandbox: what it is and what is in it. One call for an ordinary file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from scanners.sandbox_child import sandboxed
from scanners.structure.archive import Count, inspect_zip
from scanners.structure.finding import Found, encrypted, unseen
from scanners.structure.image import READERS, inspect_image
from scanners.structure.limits import StructureLimits
from scanners.structure.pdf import inspect_pdf
from scanners.structure.sniff import Kind, kind_of
from scanners.types import POLYGLOT, UNKNOWN

# Containers whose insides are not looked at here. Nobody takes them by default; whoever does is told.
CLOSED = frozenset(
    {
        "application/gzip",
        "application/x-tar",
        "application/x-7z-compressed",
        "application/x-rar",
        "application/vnd.rar",
        "application/x-bzip2",
        "application/x-xz",
        "application/zstd",
        "application/x-iso9660-image",
        "application/vnd.ms-cab-compressed",
    }
)


@sandboxed
def look(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """`args`: the limits' fields. `fds`: the sample. Answers with what it is and the first thing found wrong."""
    limits = StructureLimits(**args)
    answer: dict[str, Any] = {"media_type": UNKNOWN, "coverage": {}}
    with os.fdopen(fds[0], "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            kind = kind_of(file, size)
            answer |= {"media_type": kind.media_type, "text": kind.text, "html": kind.html, "macros": kind.macros}
            _inside(file, size, kind, limits, answer["coverage"])
        except Found as found:
            answer["found"] = {"verdict": found.verdict, "finding": found.finding, "detail": found.detail}
    return answer


@sandboxed
def extract(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Write a PDF's attachments into the working directory as 0, 1, 2..."""
    with os.fdopen(fds[0], "rb") as file:
        try:
            return {"attachments": inspect_pdf(file, StructureLimits(**args), into=Path())}
        except Found as found:
            return {"found": {"verdict": found.verdict, "finding": found.finding, "detail": found.detail}}


def _inside(file: BinaryIO, size: int, kind: Kind, limits: StructureLimits, coverage: dict[str, Any]) -> None:
    file.seek(0)
    if kind.encrypted:
        raise encrypted("the document is encrypted")
    if kind.media_type == "application/pdf":
        coverage["attachments"] = inspect_pdf(file, limits)
    elif kind.media_type in READERS:
        coverage["pixels"] = inspect_image(file, kind.media_type, limits)
    elif kind.media_type in CLOSED:
        raise unseen("containers of this kind are not looked into")
    elif kind.media_type != POLYGLOT and file.read(4) == b"PK\x03\x04":
        count = Count()
        try:
            inspect_zip(file, size, limits, count)
        finally:
            coverage |= {"members": count.members, "unpacked": count.unpacked, "depth": count.depth}
