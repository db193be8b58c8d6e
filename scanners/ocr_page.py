"""One page read by Tesseract: rendered or decoded, recognized, turned where it was not upright. Runs in the sandbox."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter

from scanners.ocr_in_process import InProcess, engine_for
from scanners.ocr_raster import decode_image, render_pdf
from scanners.ocr_tesseract import PageFailed, Reading, Tesseract
from scanners.sandbox_child import sandboxed

# Tesseract's page segmentation modes.
AUTOMATIC, ONE_COLUMN, ONE_BLOCK = 3, 4, 6
# Mean confidences below which a page gets a closer look; upright print has 85 to 96. Enlarged pixels gain most from it.
DOUBTFUL, DOUBTFUL_ENLARGED = 70.0, 85.0
PERHAPS_TURNED = 75.0
FEW_WORDS = 12  # orientation cannot be told from fewer: try all
RESERVE = 0.05  # share of the time that is kept for handing the result over


@sandboxed
def read_page(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Read page args["page"] of the document in fds[0]; UTF-8 text goes to fds[1], invisible text (PDF) to fds[2].

    Gives {"confidence", "words", "turned", "width", "height"}, or {"problem"}.
    """
    page = Path("page.tif")
    deadline = time.monotonic() + args["seconds"] * (1 - RESERVE)
    engine = engine_for(args["program"], args["languages"], deadline)
    raster = render_pdf if args["kind"] == "pdf" else decode_image
    with page.open("wb") as out:
        made = raster(args, [fds[0], out.fileno()])
    if "problem" in made:
        return made
    enlarged = args["kind"] == "image" and made["scale"] > 1
    try:
        reading = _read(engine, page, enlarged, args["pdf"])
    except FileNotFoundError:
        return {"unavailable": True}
    except PageFailed as exc:
        return {"problem": str(exc)}
    with os.fdopen(os.dup(fds[1]), "wb") as out:
        out.write(reading.text.encode())
    if reading.pdf is not None and len(fds) > 2:
        with reading.pdf.open("rb") as source, os.fdopen(os.dup(fds[2]), "wb") as out:
            shutil.copyfileobj(source, out)
    return {
        "confidence": round(reading.confidence, 1),
        "words": reading.words,
        "turned": reading.turned,
        "width": made["width"],
        "height": made["height"],
    }


def _read(engine: InProcess | Tesseract, page: Path, enlarged: bool, pdf: bool) -> Reading:
    """The first reading; where it is doubtful, the best of it, the page turned, and the page smoothed."""
    best = engine.read(page, mode=ONE_COLUMN if enlarged else AUTOMATIC, pdf=pdf)
    with suppress(PageFailed):  # out of time for a closer look: the first stands
        if best.confidence < PERHAPS_TURNED:
            for turn in _turns(engine, page, best):
                best = _better(best, engine.read(_turn(page, turn), mode=AUTOMATIC, turned=turn, pdf=pdf))
        if 0 < best.confidence < (DOUBTFUL_ENLARGED if enlarged else DOUBTFUL):
            mode = ONE_BLOCK if enlarged else AUTOMATIC
            best = _better(best, engine.read(_smooth(page, best.turned), mode=mode, turned=best.turned, pdf=pdf))
    return best


def _turns(engine: InProcess | Tesseract, page: Path, first: Reading) -> list[int]:
    try:
        turn = engine.orientation(page)
    except PageFailed:  # "Too few characters" is a failure to Tesseract
        return [180, 90, 270] if first.words < FEW_WORDS else []
    return [turn] if turn else []


def _better(first: Reading, second: Reading) -> Reading:
    return second if second.sure > first.sure else first


def _turn(page: Path, degrees: int) -> Path:
    turned = Path(f"turned{degrees}.tif")
    how = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}[degrees]
    with Image.open(page, formats=["TIFF"]) as image:
        image.transpose(how).save(turned)
    return turned


def _smooth(page: Path, turned: int) -> Path:
    """Without the grain of a photo or of strong compression, which breaks letters up."""
    smooth = Path("smooth.tif")
    with Image.open(Path(f"turned{turned}.tif") if turned else page, formats=["TIFF"]) as image:
        image.filter(ImageFilter.GaussianBlur(1)).save(smooth)
    return smooth
