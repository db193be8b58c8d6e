"""Reading, beside what else reads: line 8. `python -m benchmarks.ocr [--quick]`.

Beside OCRmyPDF for speed and errors on a PDF that is only pictures; beside plain Tesseract for words found on small and
turned pages, which is where reading well begins.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

from benchmarks.measure import Report, ratio, rounds, seconds
from benchmarks.papers import page, scanned_pdf
from benchmarks.pipeline import tesseract
from scanners.base import Declared, Sample
from scanners.ocr import OcrOptions, Recognizer, reading_sandbox


@dataclass(frozen=True)
class Sizes:
    """How much is read."""

    rounds: int = 3
    pages: int = 8
    images: int = 6


QUICK = Sizes(1, 2, 2)


def errors(found: str, truth: str) -> float:
    """The character error rate: edits per character of the truth, blanks and case as they are, line ends as blanks."""
    a, b = " ".join(truth.split()), " ".join(found.split())
    return distance(a, b) / max(1, len(a))


def distance(a: str, b: str) -> int:
    """Levenshtein's, by Myers' bit vectors: one step for each character of `b`."""
    if not a:
        return len(b)
    places: dict[str, int] = {}
    for at, letter in enumerate(a):
        places[letter] = places.get(letter, 0) | 1 << at
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, score = full, 0, len(a)
    for letter in b:
        here = places.get(letter, 0)
        cross = (((here & up) + up) ^ up) | here | down
        more, less = down | ~(cross | up) & full, cross & up
        score += bool(more & last) - bool(less & last)
        more, less = (more << 1 | 1) & full, less << 1 & full
        up, down = less | ~(here | down | more) & full, more & (here | down)
    return score


def recall(found: str, truth: str) -> float:
    """Which part of the truth's words were found."""
    wanted, got = Counter(truth.lower().split()), Counter(found.lower().split())
    return (wanted & got).total() / max(1, wanted.total())


class Reader:
    """Airlock's recognizer on bodies in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers, self._sandbox = folder, count(), reading_sandbox(OcrOptions().languages)
        self._recognizer = Recognizer(OcrOptions(jobs=2), self._sandbox)

    def read(self, body: bytes, media_type: str) -> str:
        """The text. Raises RuntimeError where there is none."""
        into = self._folder / f"reading-{next(self._numbers)}"
        into.mkdir()
        path = into / "sample"
        path.write_bytes(body)
        sample = Sample(path, len(body), hashlib.sha256(body).hexdigest(), Declared(None, media_type))
        (into / "out").mkdir()
        found = self._recognizer.recognize(sample, media_type, into / "out")
        if found.text is None:
            raise RuntimeError(f"nothing was read: {found.problem}")
        text = found.text.read_text()
        shutil.rmtree(into)
        return text

    def close(self) -> None:
        """End the sandbox."""
        self._sandbox.close()


def beside_ocrmypdf(report: Report, folder: Path, reader: Reader, sizes: Sizes) -> None:
    """Speed and errors on one scanned PDF."""
    program = shutil.which("ocrmypdf", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    goal = "image PDF to text >= 1.5 x `ocrmypdf -j2 --optimize 0 --output-type pdf`"
    if program is None:
        report.none("8", goal, "ocrmypdf is not installed")
        return
    paper = scanned_pdf(sizes.pages, seed=8, dpi=150, noise=0.15)
    source, made, sidecar = folder / "in.pdf", folder / "out.pdf", folder / "out.txt"
    source.write_bytes(paper.body)
    command = [
        program,
        "-j2",
        "--optimize",
        "0",
        "--output-type",
        "pdf",
        "--sidecar",
        str(sidecar),
        str(source),
        str(made),
    ]
    said: list[str] = []
    took = rounds(
        {
            "airlock": lambda: seconds(lambda: said.append(reader.read(paper.body, paper.media_type))),
            "ocrmypdf": lambda: seconds(lambda: subprocess.run(command, check=True, capture_output=True)),
        },
        sizes.rounds,
    )
    found = ratio(took["ocrmypdf"], took["airlock"])
    pages = f"{sizes.pages / median(took['airlock']):.2f} against {sizes.pages / median(took['ocrmypdf']):.2f} pages/s"
    report.reached("8", goal, f"{found:.2f} ({pages})", found >= 1.5)
    ours, theirs = errors(said[-1], paper.truth), errors(sidecar.read_text(), paper.truth)
    label = "its character error rate no more than 0.05 points above"
    report.reached("8", label, f"{ours:.4f} against {theirs:.4f}", ours <= theirs + 0.0005)


def beside_tesseract(report: Report, folder: Path, reader: Reader, sizes: Sizes) -> None:
    """Words found on pages that are not what Tesseract expects."""
    chance = random.Random(9)
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(sizes.images):
        image, truth = page(chance, dpi=80, lines=25)
        if number % 2:
            image = image.rotate(90, expand=True)
        path, body = folder / "page.png", io.BytesIO()
        image.save(body, "PNG")
        path.write_bytes(body.getvalue())
        ours.append(recall(reader.read(body.getvalue(), "image/png"), truth))
        theirs.append(recall(tesseract(path), truth))
    mine, plain = sum(ours) / len(ours), sum(theirs) / len(theirs)
    report.reached(
        "8",
        "word recall above plain Tesseract (80 dpi, half of them turned)",
        f"{mine:.2f} against {plain:.2f}",
        mine > plain,
    )


def run(report: Report, sizes: Sizes) -> None:
    """Line 8."""
    if shutil.which("tesseract") is None:
        report.none("8", "image PDF to text", "tesseract is not installed")
        return
    folder = Path(tempfile.mkdtemp(prefix="airlock-bench-"))
    reader = Reader(folder)
    try:
        beside_ocrmypdf(report, folder, reader, sizes)
        beside_tesseract(report, folder, reader, sizes)
    finally:
        reader.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run(Report(), QUICK if "--quick" in sys.argv else Sizes())
