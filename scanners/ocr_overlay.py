"""A searchable PDF: the pages as they are, with invisible text over those that were OCRed. Runs in the sandbox."""

from __future__ import annotations

import io
import os
from typing import Any

import pikepdf
from PIL import ImageOps

from scanners.ocr_raster import open_image
from scanners.sandbox_child import sandboxed

PIXELS_AN_INCH = 300  # Tesseract was told so, whatever the page was rendered at


@sandboxed
def overlay_pdf(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Lay invisible text over pages of the PDF in fds[0]; the result goes to fds[2].

    fds[1] holds one-page PDFs end to end; args["texts"] tells of each the page it belongs to (from 1), its offset and
    size in bytes, and by how much the page had been turned when it was read. Gives {}, or {"problem"}.
    """
    try:
        with pikepdf.open(os.fdopen(os.dup(fds[0]), "rb")) as document:
            for text in args["texts"]:
                _lay(document, document.pages[text["page"] - 1], fds[1], text)
            with os.fdopen(os.dup(fds[2]), "wb") as out:
                document.save(out, linearize=False)
    except (pikepdf.PdfError, ValueError, IndexError, KeyError, TypeError) as exc:
        return {"problem": f"its pages cannot be written again ({type(exc).__name__})"}
    return {}


@sandboxed
def image_to_pdf(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """A PDF of the image in fds[0] (frames 1..args["count"]) with the text of fds[1] over it, as `overlay_pdf`."""
    texts = {text["page"]: text for text in args["texts"]}
    try:
        with pikepdf.new() as document:
            for number in range(1, args["count"] + 1):
                _add_image(document, fds[0], number, args["max_pixels"])
                if number in texts:
                    _lay(document, document.pages[number - 1], fds[1], texts[number])
            with os.fdopen(os.dup(fds[2]), "wb") as out:
                document.save(out)
    except Exception as exc:  # noqa: BLE001 - Pillow's decoders raise whatever they trip over
        return {"problem": f"it cannot be written as a PDF ({type(exc).__name__})"}
    return {}


def _lay(document: pikepdf.Pdf, page: pikepdf.Page, texts: int, text: dict[str, Any]) -> None:
    with pikepdf.open(io.BytesIO(os.pread(texts, text["size"], text["offset"]))) as invisible:
        over = invisible.pages[0]
        over.Rotate = -text["turned"] % 360  # it was read upright: turn it back to lie as the page does
        page.add_overlay(over, pikepdf.Rectangle(page.cropbox))


def _add_image(document: pikepdf.Pdf, source: int, number: int, max_pixels: int) -> None:
    with open_image(source) as image:
        if number > 1:
            image.seek(number - 1)
        if image.width * image.height > max_pixels:
            raise ValueError("too many pixels")
        upright = image.getexif().get(0x0112, 1) == 1
        if image.format == "JPEG" and upright and image.mode in {"L", "RGB"}:
            size, mode, pixels = image.size, image.mode, os.pread(source, os.fstat(source).st_size, 0)
            coding = pikepdf.Name.DCTDecode  # the photo's own bytes: nothing is lost, nothing grows
        else:
            decoded = ImageOps.exif_transpose(image)
            decoded = decoded.convert("L" if decoded.mode in {"1", "L"} else "RGB")
            size, mode, pixels, coding = decoded.size, decoded.mode, decoded.tobytes(), None
    picture = pikepdf.Stream(document, pixels)
    picture.Type, picture.Subtype = pikepdf.Name.XObject, pikepdf.Name.Image
    picture.Width, picture.Height, picture.BitsPerComponent = *size, 8
    picture.ColorSpace = pikepdf.Name.DeviceGray if mode == "L" else pikepdf.Name.DeviceRGB
    if coding is not None:
        picture.Filter = coding
    width, height = (round(side * 72 / PIXELS_AN_INCH, 3) for side in size)
    page = document.add_blank_page(page_size=(width, height))
    page.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(Im0=picture))
    page.Contents = document.make_stream(f"q {width} 0 0 {height} 0 0 cm /Im0 Do Q".encode())
