"""Tesseract 5's program on one page of grey pixels: the text, how sure it is, and which way up the page was.

Runs in the sandbox, whose limits Tesseract inherits and whose end it does not outlive. All paths are relative to the
call's scratch directory.
"""

from __future__ import annotations

import csv
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanners.sandbox_child import die_with_parent

MAX_OUTPUT = 8 << 20  # bytes of text or table that are read back


class PageFailed(Exception):
    """Tesseract gave no text for this page; the message says how it ended."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run made of a page."""

    text: str
    confidence: float  # 0..100, weighted by the words' lengths; 0 without words
    words: int
    sure: float  # characters, weighted by confidence: what two readings of one page are compared by
    pdf: Path | None
    turned: int = 0  # degrees clockwise that the page was turned by before it was read


@dataclass(frozen=True, slots=True)
class Tesseract:
    """The program and how it is run. `deadline` is on time.monotonic()'s clock."""

    program: str
    languages: tuple[str, ...]
    deadline: float

    def read(self, page: Path, *, mode: int, turned: int = 0, pdf: bool = False) -> Reading:
        """Recognize the TIFF file `page`. `mode` is Tesseract's page segmentation mode. Raises PageFailed."""
        base = f"{page.stem}-{mode}"
        # One run gives all: text, the table with its confidences, and the invisible text of a searchable PDF.
        wanted = ["txt", "tsv", *(["pdf"] if pdf else [])]
        languages = "+".join(self.languages)
        options = ["-l", languages, "--psm", str(mode), "--dpi", "300", "-c", "textonly_pdf=1"]
        self.run([str(page), base, *options, *wanted])
        return collect(base, turned, pdf)

    def orientation(self, page: Path) -> int:
        """By how many degrees (clockwise) the page has to be turned to stand upright. Raises PageFailed."""
        out = self.run([str(page), "stdout", "-l", "osd", "--psm", "0", "--dpi", "300"])
        found = re.search(rb"Rotate: (\d+)", out)
        return int(found[1]) % 360 if found else 0

    def run(self, arguments: Sequence[str]) -> bytes:
        """Run to the end and give stdout. Raises PageFailed; FileNotFoundError when there is no such program."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise PageFailed("there was no time left")
        try:
            done = subprocess.run(
                [self.program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=left,
                check=False,
                preexec_fn=die_with_parent,  # the sandbox's child has one thread, so this cannot deadlock
            )
        except subprocess.TimeoutExpired:
            raise PageFailed("Tesseract did not finish in time") from None
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise PageFailed(f"Tesseract could not be started ({type(exc).__name__})") from None
        if done.returncode:
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            raise PageFailed(f"Tesseract ended with {how}")
        return done.stdout


def ask_program(engine: Tesseract) -> dict[str, Any]:
    """The program's version and the installed languages; {"problem"} when it does not say."""
    try:
        version = re.search(rb"tesseract v?(\d+(?:\.\d+)+)", engine.run(["--version"]))
        languages = engine.run(["--list-langs"]).decode(errors="replace").splitlines()[1:]
    except PageFailed as exc:
        return {"problem": str(exc)}
    except FileNotFoundError:
        return {"problem": "there is no such program"}
    return {"version": version[1].decode() if version else "", "languages": [line.strip() for line in languages]}


def collect(base: str, turned: int, pdf: bool) -> Reading:
    """What a run left in the files named `base`. Raises PageFailed."""
    confidence, words, sure = _confidence(_bounded(Path(base + ".tsv")))
    made = Path(base + ".pdf")
    text = _bounded(Path(base + ".txt"))
    return Reading(text, confidence, words, sure, made if pdf and made.exists() else None, turned)


def _confidence(table: str) -> tuple[float, int, float]:
    total = sure = 0.0
    words = 0
    for row in csv.reader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        if len(row) == 12 and row[0] == "5" and row[11].strip():
            with suppress(ValueError):
                confidence, length = min(max(float(row[10]), 0.0), 100.0), len(row[11].strip())
                total += length
                sure += length * confidence / 100
                words += 1
    return (100 * sure / total if total else 0.0), words, sure


def _bounded(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_OUTPUT).decode("utf-8", "replace").replace("\ufffd", "")
    except OSError as exc:
        raise PageFailed("Tesseract wrote no text") from exc
