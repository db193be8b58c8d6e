"""Reads documents: text layers where they are real, Tesseract where there are only pixels, decoded text otherwise.

Failure to read is an outcome (`complete=False`, a `problem`), not an exception; only an engine that is missing raises.
Every parser of the document's bytes runs in the sandbox; plain text is decoded here, as there is nothing to parse.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from scanners.base import Engine, Fitness, Sample, ScannerError, ScannerUnavailable
from scanners.ocr_pages import OUT_OF_TIME, TOO_MUCH_TEXT, Page, PageReader, Pages, words_of
from scanners.ocr_text import TextFull, TextOut, read_plain
from scanners.ocr_values import PRELOAD, OcrOptions, PageText, Recognition, RecognitionError
from scanners.sandbox import Limits, Sandbox

__all__ = ["OUT_OF_TIME", "OcrOptions", "PageText", "Recognition", "RecognitionError", "Recognizer", "reading_sandbox"]

# For the sandbox: the modules that hold what is called here.
SANDBOXED = (
    "scanners.ocr_layer",
    "scanners.ocr_office",
    "scanners.ocr_overlay",
    "scanners.ocr_page",
    "scanners.ocr_raster",
    "scanners.ocr_in_process",
)

PDF = "application/pdf"
IMAGES = frozenset({"image/png", "image/jpeg", "image/tiff", "image/bmp", "image/gif", "image/webp"})
PLAIN = frozenset({"text/plain", "text/csv", "text/tab-separated-values", "text/markdown", "application/json"})
PLAIN_TOO = frozenset({"message/rfc822"})  # the message as it was sent, not what its parts would decode to
_OOXML, _ODF = "application/vnd.openxmlformats-officedocument.", "application/vnd.oasis.opendocument."
OFFICE = frozenset(
    {_OOXML + "wordprocessingml.document", _OOXML + "presentationml.presentation", _OOXML + "spreadsheetml.sheet"}
    | {_ODF + "text", _ODF + "presentation", _ODF + "spreadsheet"}
)


def reading_sandbox(languages: Sequence[str]) -> Sandbox:
    """A sandbox for a Recognizer, with Tesseract's models for these languages loaded before it forks.

    One of its own: a fork takes the longer the more is loaded, and what only looks at documents need not pay for that.
    """
    return Sandbox(modules=SANDBOXED, variables={PRELOAD: "+".join(languages)})


class Recognizer:
    """Reads one document at a time for each caller; safe from several threads."""

    name = "ocr"

    def __init__(self, options: OcrOptions, sandbox: Sandbox, *, tesseract: str = "tesseract") -> None:
        self._options, self._sandbox, self._tesseract = options, sandbox, tesseract
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def reads(self, media_type: str) -> bool:
        """Whether there is a way to get text out of this type."""
        return media_type == PDF or media_type in IMAGES | PLAIN | PLAIN_TOO | OFFICE

    def needs_ocr_lane(self, media_type: str) -> bool:
        """Whether reading this type may take seconds a page."""
        return media_type == PDF or media_type in IMAGES

    def recognize(self, sample: Sample, media_type: str, into: Path) -> Recognition:
        """Read the sample. Everything written lies under `into`, an empty directory that the caller removes.

        Raises:
            ScannerUnavailable: Tesseract, one of its languages or the sandbox is missing.
        """
        if self.needs_ocr_lane(media_type):
            return self._pixels(sample, media_type, into)
        if media_type in OFFICE:
            return self._office(sample, media_type, into)
        if media_type in PLAIN | PLAIN_TOO:
            with sample.open() as source:
                return self._keep(source, into, Engine("text"))
        return Recognition(None, 0, (), None, Engine("none"), complete=True)

    def check(self) -> Fitness:
        """Whether Tesseract starts and has every language. Never raises."""
        try:
            return Fitness(self.name, True, self._fit())
        except ScannerError as exc:
            return Fitness(self.name, False, problems=(str(exc),))
        except OSError as exc:
            return Fitness(self.name, False, problems=(f"The sandbox cannot be started ({type(exc).__name__}).",))

    def _fit(self) -> Engine:
        """Tesseract's name and version, asked once. Raises ScannerUnavailable."""
        with self._lock:
            if self._engine is None:
                self._engine = self._ask()
            return self._engine

    def _ask(self) -> Engine:
        limits = Limits(seconds=20, memory=self._options.memory, processes=4)
        try:
            asked = {"program": self._tesseract, "languages": self._options.languages, "seconds": 15}
            facts = self._sandbox.call("tesseract_facts", asked, limits=limits)
        except ScannerUnavailable:
            raise
        except ScannerError as exc:
            raise ScannerUnavailable("Tesseract does not answer: run `tesseract --version` to see why.") from exc
        version = str(facts.get("version", ""))
        if not version:
            raise ScannerUnavailable("Tesseract cannot be started: install tesseract-ocr, or set the path to it.")
        if not version.startswith("5"):
            raise ScannerUnavailable(f"Tesseract {version[:20]} is not supported: install version 5.")
        missing = sorted({*self._options.languages, "osd"} - {str(name) for name in facts.get("languages", ())})
        if missing:
            raise ScannerUnavailable(f"Tesseract lacks trained data for {', '.join(missing)}: install the package.")
        return Engine("tesseract", f"{version} ({facts['how']})")

    def _pixels(self, sample: Sample, media_type: str, into: Path) -> Recognition:
        is_pdf = media_type == PDF
        engine = Engine("pdfium" if is_pdf else "pillow")
        reader = PageReader(sample, into, self._options, self._sandbox, self._tesseract)
        found = reader.survey_pdf() if is_pdf else reader.survey_image()
        if found.problem is not None:
            return Recognition(None, 0, (), None, engine, complete=False, problem=found.problem)
        if any(page.said is None for page in found.pages):
            engine = self._fit()
            reader.read(found.pages, "pdf" if is_pdf else "image")
        text, length, pages = self._put_together(found.pages, into / "text.txt")
        pdf, problem = None, _first_problem(found, pages)
        if self._options.searchable_pdf and any(page.source == "ocr" for page in pages):
            pdf, trouble = reader.searchable(found, "pdf" if is_pdf else "image")
            problem = problem or trouble
        if pages and all(page.source == "none" and page.problem for page in pages):
            text, length = None, 0  # an empty file would say that there was nothing to read
        return Recognition(text, length, pages, pdf, engine, problem is None, problem)

    def _put_together(self, pages: list[Page], into: Path) -> tuple[Path | None, int, tuple[PageText, ...]]:
        """All pages' text in one file, its length, and how much of it each page gave."""
        done: list[PageText] = []
        with into.open("w", encoding="utf-8", newline="") as file:
            out = TextOut(file, self._options.max_text_bytes)
            for page in pages:
                said = page.said or PageText(page.number, 0, "none", problem=OUT_OF_TIME)
                start = out.chars
                try:
                    if done:
                        out.write("\f")
                        out.flush()
                    start = out.chars
                    if said.source != "none" and page.text.exists():
                        text = page.text.read_text(encoding="utf-8", errors="replace")
                        text = text.replace("\f", "\n").strip()
                        out.write(text + "\n" if text else "")
                        out.flush()
                    said = replace(said, chars=out.chars - start)
                except TextFull:
                    said = replace(said, chars=out.chars - start, problem=said.problem or TOO_MUCH_TEXT)
                page.text.unlink(missing_ok=True)
                done.append(said)
        return into, out.chars, tuple(done)

    def _office(self, sample: Sample, media_type: str, into: Path) -> Recognition:
        raw, options = into / "office.txt", self._options
        args = {
            "media_type": media_type,
            "max_text": options.max_text_bytes,
            "max_unpacked": options.max_unpacked_bytes,
        }
        seconds = min(options.page_seconds, options.document_seconds)
        limits = Limits(seconds=seconds, memory=options.memory, file_bytes=options.max_text_bytes + (1 << 20))
        problem: str | None
        with sample.open() as source, raw.open("wb") as out:
            try:
                said = self._sandbox.call("office_text", args, fds=[source.fileno(), out.fileno()], limits=limits)
                problem = None if said.get("problem") is None else str(said["problem"])[:200]
            except ScannerUnavailable:
                raise
            except ScannerError as exc:
                problem = words_of(exc)
        # Read again what the sandbox wrote: it has seen the sample, so its word for being clean is worth nothing.
        with raw.open("rb") as source:
            kept = self._keep(source, into, Engine("office-xml"), problem)
        raw.unlink()
        return kept

    def _keep(self, source: BinaryIO, into: Path, engine: Engine, problem: str | None = None) -> Recognition:
        """Decode, clean and bound a stream of text."""
        target, limit = into / "text.txt", self._options.max_text_bytes
        with target.open("w", encoding="utf-8", newline="") as file:
            out = TextOut(file, limit)
            if not read_plain(source, out, limit, self._options.languages):
                problem = problem or TOO_MUCH_TEXT
        counts = enumerate(out.pages[: self._options.max_pages], 1)
        pages = tuple(PageText(number, chars, "layer") for number, chars in counts)
        if problem is not None and not out.chars:
            return Recognition(None, 0, (), None, engine, complete=False, problem=problem)
        return Recognition(target, out.chars, pages, None, engine, problem is None, problem)


def _first_problem(found: Pages, pages: tuple[PageText, ...]) -> str | None:
    """One sentence for the document."""
    bad = [page for page in pages if page.problem]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        return f"page {bad[0].number}{more}: {bad[0].problem}"
    if found.total > len(found.pages):
        return f"only the first {len(found.pages)} pages were read"
    return None
