"""What reading a document takes and gives."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scanners.base import Engine, ScannerError

PRELOAD = "AIRLOCK_OCR_PRELOAD"  # tells a sandbox's zygote which languages to have ready, joined by "+"


class RecognitionError(ScannerError):
    """Nothing can be said of the document's text."""

    code = "recognition-error"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class OcrOptions:
    """In which languages to read, and what one document may cost."""

    languages: tuple[str, ...] = ("eng",)  # Tesseract's names, the likeliest first
    max_pages: int = 200
    page_seconds: float = 60.0
    document_seconds: float = 900.0
    dpi: int = 300  # that PDF pages are rendered at
    searchable_pdf: bool = False
    jobs: int = field(default_factory=_cores)  # pages at once
    max_text_bytes: int = 16 << 20  # of plain text that is read, and of text that is kept
    max_unpacked_bytes: int = 256 << 20  # of an office document's XML
    max_pixels: int = 150_000_000  # of one image; needs up to four bytes each
    render_pixels: int = 40_000_000  # of one page in front of Tesseract: A2 at 300 dpi
    memory: int = 1 << 30  # bytes of address space for each process of a call


@dataclass(frozen=True, slots=True)
class PageText:
    """What became of one page (slide, sheet, frame)."""

    number: int  # from 1
    chars: int
    source: Literal["layer", "ocr", "none"]
    confidence: float | None = None  # 0..100, of OCR only
    seconds: float = 0.0
    problem: str | None = None  # one sentence part; holds no text of the document


@dataclass(frozen=True, slots=True)
class Recognition:
    """A document's text.

    `text` is UTF-8 in NFC, pages separated by form feeds, without other control characters than newline and tab;
    None where the type has no text to read or none could be. `complete`: every page was read within the limits.
    """

    text: Path | None
    text_length: int  # characters
    pages: tuple[PageText, ...]
    pdf: Path | None
    engine: Engine
    complete: bool
    problem: str | None = None
