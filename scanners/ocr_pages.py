"""The pages of a PDF or an image, each read in a sandboxed call of its own, several at once."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scanners.base import Sample, SampleTimeout, ScannerError, ScannerUnavailable
from scanners.ocr_values import OcrOptions, PageText
from scanners.sandbox import Limits, Sandbox

MAX_PDF = 512 << 20  # bytes that a searchable PDF may be larger than twice its document
MAX_RESTARTS = 5  # of the look at the text layers, each after a page that it died of
OUT_OF_TIME = "the document's time was up before it was read"
TOO_MUCH_TEXT = "its text is longer than is kept"


@dataclass
class Page:
    """One page on its way. Its text lies in `text` once it has been read."""

    number: int
    text: Path
    kind: str = "image"  # "image": to be OCRed; "layer", "blank", "skip": done
    dpi: float = 0.0
    pdf: Path | None = None  # invisible text, to be laid over the page
    turned: int = 0
    said: PageText | None = None  # `chars` is counted when the text is put together


@dataclass
class Pages:
    """What the document was found to hold."""

    total: int = 0  # pages it has; 0 when that is not known
    pages: list[Page] = field(default_factory=list)
    problem: str | None = None


class PageReader:
    """Finds out what each page holds and reads it. One instance a document; everything it writes lies under `into`."""

    def __init__(self, sample: Sample, into: Path, options: OcrOptions, sandbox: Sandbox, program: str) -> None:
        self._sample, self._into, self._options = sample, into, options
        self._sandbox, self._program = sandbox, program
        self._deadline = time.monotonic() + options.document_seconds

    def survey_image(self) -> Pages:
        """How many frames the image has."""
        try:
            with self._sample.open() as source:
                said = self._call("count_frames", {"most": self._options.max_pages}, [source.fileno()])
        except ScannerError as exc:
            return Pages(problem=words_of(exc))
        total = _number(said, "pages")
        if total < 1:
            return Pages(problem=str(said.get("problem", "it cannot be read")))
        count = min(total, self._options.max_pages)
        return Pages(total, [self._page(number) for number in range(1, count + 1)])

    def survey_pdf(self) -> Pages:
        """What each page holds; the text of those that have a layer is read already.

        A page that the look dies of is left to OCR, which has its own limits, and the look goes on behind it.
        """
        found = Pages()
        for _ in range(MAX_RESTARTS):
            problem = self._look(found)
            if problem is None:
                break
            if not found.total:
                return Pages(problem=problem)
            if len(found.pages) < min(found.total, self._options.max_pages):
                found.pages.append(self._page(len(found.pages) + 1))
        for number in range(len(found.pages) + 1, min(found.total, self._options.max_pages) + 1):
            found.pages.append(self._page(number))
        return found

    def read(self, pages: list[Page], kind: str) -> None:
        """OCR the pages that need it, `jobs` at once; what became of each is in its `said`.

        Raises ScannerUnavailable.
        """
        waiting = [page for page in pages if page.said is None]
        if not waiting:
            return
        with ThreadPoolExecutor(max(1, min(self._options.jobs, len(waiting)))) as threads:
            for _ in threads.map(lambda page: self._read(page, kind), waiting):
                pass

    def searchable(self, found: Pages, kind: str) -> tuple[Path | None, str | None]:
        """The document as a PDF with invisible text over what was OCRed; None and why where that failed."""
        target, joined = self._into / "searchable.pdf", self._into / "invisible.bin"
        texts = []
        with joined.open("wb") as out:
            for page in found.pages:
                if page.pdf is not None and page.pdf.stat().st_size:
                    start = out.tell()
                    with page.pdf.open("rb") as source:
                        shutil.copyfileobj(source, out)
                    texts.append(
                        {"page": page.number, "offset": start, "size": out.tell() - start, "turned": page.turned}
                    )
                    page.pdf.unlink()
        args = {"texts": texts, "count": len(found.pages), "max_pixels": self._options.max_pixels}
        limits = self._limits(seconds=self._options.document_seconds, file_bytes=2 * self._sample.size + MAX_PDF)
        try:
            with self._sample.open() as source, joined.open("rb") as invisible, target.open("wb") as made:
                fds = [source.fileno(), invisible.fileno(), made.fileno()]
                said = self._call("overlay_pdf" if kind == "pdf" else "image_to_pdf", args, fds, limits=limits)
        except ScannerUnavailable:
            raise
        except ScannerError as exc:
            said = {"problem": f"no searchable PDF: {words_of(exc)}"}
        joined.unlink()
        if "problem" in said or not target.stat().st_size:
            target.unlink()
            return None, str(said.get("problem", "no searchable PDF"))[:200]
        return target, None

    def _page(self, number: int) -> Page:
        return Page(number, self._into / f"page{number}.txt")

    def _look(self, found: Pages) -> str | None:
        """One call from the first page that is not known yet; why it ended early, if it did."""
        lines = self._into / "survey.jsonl"
        limits = self._limits(file_bytes=4 * self._options.max_text_bytes + (16 << 20))
        start = len(found.pages)
        args = {
            "start": start,
            "count": self._options.max_pages - start,
            "max_chars": self._options.max_text_bytes,
        }
        problem = None
        with lines.open("wb") as out, self._sample.open() as source:
            try:
                said = self._call("survey_pdf", args, [source.fileno(), out.fileno()], limits=limits)
                problem = said.get("problem")
            except ScannerUnavailable:
                raise
            except ScannerError as exc:
                problem = words_of(exc)
        for line in _lines(lines):
            if "pages" in line:
                found.total = max(_number(line, "pages"), 0)
            elif line.get("page") == len(found.pages) + 1 and len(found.pages) < self._options.max_pages:
                found.pages.append(self._looked_at(line))
        lines.unlink()
        return None if problem is None else str(problem)

    def _looked_at(self, line: dict[str, Any]) -> Page:
        page = self._page(int(line["page"]))
        if line.get("problem") == TOO_MUCH_TEXT:
            page.said = PageText(page.number, 0, "none", problem=TOO_MUCH_TEXT)
        elif line.get("kind") == "layer" and isinstance(line.get("text"), str):
            page.text.write_text(line["text"], encoding="utf-8", errors="replace")
            page.said = PageText(page.number, 0, "layer")
        elif line.get("kind") == "blank":
            page.said = PageText(page.number, 0, "none")
        elif isinstance(line.get("dpi"), int | float):
            page.dpi = min(max(float(line["dpi"]), 0.0), 1200.0)
        return page

    def _read(self, page: Page, kind: str) -> None:
        started = time.monotonic()
        seconds = min(self._options.page_seconds, self._deadline - started)
        if seconds <= 0:
            page.said = PageText(page.number, 0, "none", problem=OUT_OF_TIME)
            return
        args = {
            "page": page.number,
            "kind": kind,
            "dpi": page.dpi or self._options.dpi,
            "max_pixels": self._options.max_pixels,
            "render_pixels": self._options.render_pixels,
            "program": self._program,
            "languages": self._options.languages,
            "seconds": seconds,
            "pdf": self._options.searchable_pdf,
        }
        scratch = self._into / f"scratch{page.number}"
        scratch.mkdir(mode=0o700)
        try:
            with ExitStack() as files:
                fds = [files.enter_context(self._sample.open()).fileno()]
                fds.append(files.enter_context(page.text.open("wb")).fileno())
                if self._options.searchable_pdf:
                    page.pdf = self._into / f"page{page.number}.pdf"
                    fds.append(files.enter_context(page.pdf.open("wb")).fileno())
                said = self._call("read_page", args, fds, scratch=scratch, limits=self._limits(seconds=seconds))
        except ScannerUnavailable:
            raise
        except ScannerError as exc:
            said = {"problem": words_of(exc)}
        finally:
            _remove(scratch)
        spent = round(time.monotonic() - started, 3)
        if said.get("unavailable"):
            raise ScannerUnavailable("Tesseract cannot be started: install it, or set the path to it.")
        if "problem" in said:
            page.text.unlink(missing_ok=True)
            page.said = PageText(page.number, 0, "none", seconds=spent, problem=str(said["problem"])[:200])
            return
        page.turned = _number(said, "turned") % 360
        confidence = said.get("confidence")
        sure = float(confidence) if isinstance(confidence, int | float) and said.get("words") else None
        page.said = PageText(page.number, 0, "ocr", sure, spent)

    def _limits(self, *, seconds: float | None = None, file_bytes: int = 0) -> Limits:
        left = max(self._deadline - time.monotonic(), 0.1)
        return Limits(
            seconds=min(self._options.page_seconds if seconds is None else seconds, left),
            memory=self._options.memory,
            file_bytes=max(file_bytes, self._options.render_pixels + (1 << 20)),
            processes=4,  # the child, Tesseract, and what the C library may start for a moment
        )

    def _call(self, name: str, args: dict[str, Any], fds: list[int], **how: Any) -> dict[str, Any]:
        return self._sandbox.call(name, args, fds=fds, **({"limits": self._limits()} | how))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of what a child wrote; it may have died in the middle of one."""
    with path.open("rb") as file:
        for raw in file:
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                return
            if isinstance(line, dict):
                yield line


def _number(said: dict[str, Any], name: str) -> int:
    value = said.get(name)
    return value if isinstance(value, int) else 0


def words_of(exc: ScannerError) -> str:
    """Why a call ended, for people; never its message, which names our functions."""
    if isinstance(exc, SampleTimeout):
        return "it took too long"
    return "it took too much memory or crashed" if exc.code == "sandbox-killed" else "it could not be read"


def _remove(scratch: Path) -> None:
    """Remove a directory that somebody else has written to: links are removed, never followed."""
    shutil.rmtree(scratch, ignore_errors=True)  # what resists goes with everything else, by the caller
