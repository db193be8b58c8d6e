"""PDFs: whether they open without a password, and the files that are attached to them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pikepdf

from scanners.structure.finding import Found, damaged, encrypted, over_limit
from scanners.structure.limits import StructureLimits

MAX_WALK = 64  # how deep direct objects lie in each other, at most


def inspect_pdf(file: BinaryIO, limits: StructureLimits, into: Path | None = None) -> int:
    """The number of attached files; with `into`, each is written there as 0, 1, 2... Raises Found.

    Looked for in every object, not only where the catalogue lists them: a reader may be led to any.
    """
    try:
        with pikepdf.open(file, suppress_warnings=True) as pdf:
            left = limits.unpacked_bytes
            number = 0
            for stream in _attached(pdf):
                if number >= limits.attachments:
                    raise over_limit(f"more than {limits.attachments} files are attached")
                if into is not None:
                    left -= _write(stream, into / str(number), left)
                number += 1
            return number
    except pikepdf.PasswordError as exc:
        raise encrypted("the PDF needs a password to open") from exc
    except Found:
        raise
    except (pikepdf.PdfError, pikepdf.DataDecodingError, RuntimeError, ValueError, TypeError, OSError) as exc:
        raise damaged(f"the PDF cannot be read ({type(exc).__name__})") from exc


def _attached(pdf: pikepdf.Pdf) -> Iterator[Any]:
    seen: set[tuple[int, int]] = set()
    for thing in pdf.objects:
        if isinstance(thing, (pikepdf.Dictionary, pikepdf.Array, pikepdf.Stream)):
            for stream in _streams_in(thing, MAX_WALK):
                if stream.objgen not in seen:
                    seen.add(stream.objgen)
                    yield stream


def _streams_in(thing: Any, depth: int) -> Iterator[Any]:
    """The embedded files that an object is or names, in the direct objects within it too."""
    if depth == 0:
        raise damaged("the PDF's objects lie too deep in each other")
    if isinstance(thing, pikepdf.Stream) and thing.get("/Type") == "/EmbeddedFile":
        yield thing
    if isinstance(thing, pikepdf.Array):
        children = list(thing)
    else:
        embedded = thing.get("/EF")
        if isinstance(embedded, pikepdf.Dictionary):
            yield from (each for _, each in embedded.items() if isinstance(each, pikepdf.Stream))
        children = [each for _, each in thing.items()]
    for child in children:
        if isinstance(child, (pikepdf.Dictionary, pikepdf.Array)) and not child.is_indirect:
            yield from _streams_in(child, depth - 1)


def _write(stream: Any, target: Path, left: int) -> int:
    """Unpack one attachment, counting; Flate in pieces, the rare other filters within the sandbox's memory."""
    raw = stream.read_raw_bytes()
    filters = stream.get("/Filter")
    if isinstance(filters, pikepdf.Array) and len(filters) == 1:
        filters = filters[0]
    written = 0
    with target.open("wb") as out:
        if filters == "/FlateDecode" and "/DecodeParms" not in stream:
            inflate, rest = zlib.decompressobj(), bytes(raw)
            try:
                while rest and not inflate.eof:
                    piece = inflate.decompress(rest, 1 << 20)
                    rest = inflate.unconsumed_tail
                    written += len(piece)
                    if written > left:
                        raise over_limit("the attached files unpack to more than is allowed")
                    out.write(piece)
            except zlib.error as exc:
                raise damaged("an attached file cannot be unpacked") from exc
        else:
            content = stream.read_bytes()
            written = len(content)
            if written > left:
                raise over_limit("the attached files unpack to more than is allowed")
            out.write(content)
    return written
