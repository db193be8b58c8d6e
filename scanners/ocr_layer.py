"""What each page of a PDF holds: a text layer worth keeping, something to be OCRed, or nothing. Runs in the sandbox."""

from __future__ import annotations

import codecs
import ctypes
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from scanners.sandbox_child import sandboxed

MAX_OBJECTS = 20_000  # of one page that are looked at
MAX_CHARS = 1 << 20  # of one page's text
COVERED = 0.5  # an image over half of the page: a scan, or a photo behind text
LAYER_OVER_IMAGE = 200  # visible characters that make text over such an image more than a stamp or a page number
LAYER_OVER_PATHS = 25  # with fewer, many drawn paths may be letters
MANY_PATHS = 200
GARBAGE = 0.1  # share of characters without a meaning
NATIVE_DPI = (150, 300)
TOO_MUCH_TEXT = "its text is longer than is kept"

codecs.lookup("utf-16-le")  # pdfium's; loaded here because the sandbox may not be able to read our files

_NO_MEANING = frozenset({"Co", "Cn", "Cs", "Cc"})
_INVISIBLE = frozenset({3, 7})  # PDF text rendering modes: neither filled nor stroked; clip only


@dataclass
class _Page:
    text: str
    shown: int = 0  # text objects that can be seen
    hidden: int = 0
    images: float = 0.0  # share of the page that images cover
    dpi: float = 0.0  # of the finest large image
    paths: int = 0
    other: int = 0  # shadings and forms nested too deep


@sandboxed
def survey_pdf(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Look at pages `start`.. (at most `count`) of the PDF in fds[0]; JSON lines go to fds[1], as they are known.

    First {"pages": total}, then for each page {"page": n, "kind": "layer" | "image" | "blank", "text", "dpi"} or
    {"page": n, "problem"}. No more than `max_chars` characters of text are given in all. What comes back is empty, or
    {"problem"} when the document cannot be opened.
    """
    try:
        document = pdfium.PdfDocument(os.fdopen(os.dup(fds[0]), "rb"), autoclose=True)
    except pdfium.PdfiumError as exc:
        return {"problem": "it is encrypted" if "password" in str(exc).lower() else "it cannot be opened as a PDF"}
    with closing(document), os.fdopen(os.dup(fds[1]), "w", encoding="utf-8", errors="replace") as out:
        total, left = len(document), args["max_chars"]
        out.write(json.dumps({"pages": total}) + "\n")
        for index in range(args["start"], min(total, args["start"] + args["count"])):
            try:
                with closing(document[index]) as page:
                    line = _classify(_look(page))
            except (pdfium.PdfiumError, ValueError, OverflowError):
                line = {"problem": "it cannot be read"}
            left -= len(line.get("text", ""))
            if left < 0:
                line = {"problem": TOO_MUCH_TEXT}
            out.write(json.dumps({"page": index + 1} | line, ensure_ascii=False) + "\n")
            out.flush()  # what stands here survives this process
    return {}


def _look(page: Any) -> _Page:
    with closing(page.get_textpage()) as textpage:
        text = textpage.get_text_bounded() if 0 < textpage.count_chars() <= MAX_CHARS else ""
    seen = _Page(text.replace("\x02", "-").replace("\ufffe", "-"))  # pdfium's marks for a hyphen at a line's end
    width, height = page.get_size()
    for item in islice(_objects(page), MAX_OBJECTS):
        if item.type == raw.FPDF_PAGEOBJ_TEXT:
            if raw.FPDFTextObj_GetTextRenderMode(item) in _INVISIBLE:
                seen.hidden += 1
            else:
                seen.shown += 1
        elif item.type == raw.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = item.get_bounds()
            across, up = max(0.0, min(right, width) - max(left, 0)), max(0.0, min(top, height) - max(bottom, 0))
            share = across * up / (width * height)
            seen.images += share
            if share > 0.1:
                seen.dpi = max(seen.dpi, _dpi(item, right - left, top - bottom))
        elif item.type == raw.FPDF_PAGEOBJ_PATH:
            seen.paths += 1
        elif item.type != raw.FPDF_PAGEOBJ_FORM:
            seen.other += 1
    return seen


def _objects(page: Any) -> Iterator[Any]:
    yield from page.get_objects(max_depth=8)


def _dpi(image: Any, across: float, up: float) -> float:
    width, height = ctypes.c_uint(), ctypes.c_uint()
    if not raw.FPDFImageObj_GetImagePixelSize(image, width, height) or min(across, up) < 1:
        return 0.0
    # The object may be turned by 90 degrees: compare long side with long side.
    return 72 * max(width.value, height.value) / max(across, up)


def _classify(page: _Page) -> dict[str, Any]:
    visible = sum(1 for char in page.text if not char.isspace())
    drawn = page.images > 0 or page.paths or page.other
    if not drawn and not visible:
        return {"kind": "blank", "text": "", "dpi": 0.0}
    enough = 1
    if page.images >= COVERED:
        enough = LAYER_OVER_IMAGE
    elif page.paths >= MANY_PATHS:
        enough = LAYER_OVER_PATHS
    # Hidden text is somebody else's OCR, or a lie: what is kept is what a reader of the page sees.
    if visible >= enough and page.shown >= page.hidden and not is_garbage(page.text):
        return {"kind": "layer", "text": page.text, "dpi": 0.0}
    scan = page.images >= COVERED and not page.shown and page.paths < MANY_PATHS
    dpi = min(max(page.dpi, NATIVE_DPI[0]), NATIVE_DPI[1]) if scan and page.dpi else 0.0
    return {"kind": "image", "text": "", "dpi": dpi}


def is_garbage(text: str) -> bool:
    """Whether a text layer is the noise of a font without a usable Unicode map."""
    marks = list(re.sub(r"[\s.\u2026_-]+", "", text))  # leaders and rules say nothing either way
    if not marks:
        return not text.strip()
    senseless = sum(char == "\ufffd" or unicodedata.category(char) in _NO_MEANING for char in marks)
    letters = sum(char.isalnum() or unicodedata.category(char).startswith("M") for char in marks)
    return senseless > GARBAGE * len(marks) or (len(marks) >= 100 and letters < 0.3 * len(marks))
