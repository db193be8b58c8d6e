"""Pages as grey pixels (plain TIFF): PDF pages rendered, images decoded, turned upright, enlarged where small.

Runs in the sandbox. What leaves is the plainest format there is, so that the engine never meets the sample's own bytes.
"""

from __future__ import annotations

import os
import struct
from contextlib import closing
from typing import Any

import pypdfium2 as pdfium
from PIL import Image, ImageOps

from scanners.sandbox_child import sandboxed

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
READ_WIDTH = 1200  # pixels: letters of a page or receipt narrower than this are smaller than the engine likes
MAX_ENLARGE = 3.0
MAX_SIDE = 32_000  # Tesseract's own limit is 32767
MAX_FRAMES = 10_000

Image.init()  # once in the zygote, not in each child


@sandboxed
def count_frames(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """How many pages the image in fds[0] has, counted no further than args["most"] + 1."""
    try:
        with open_image(fds[0]) as image:
            if image.format != "TIFF":
                return {"pages": 1}  # of an animation, the first frame is the picture
            for frame in range(1, min(args["most"], MAX_FRAMES) + 1):
                try:
                    image.seek(frame)
                except EOFError:
                    return {"pages": frame}
            return {"pages": min(args["most"], MAX_FRAMES) + 1}
    except Exception as exc:  # noqa: BLE001 - Pillow's decoders raise whatever they trip over
        return {"problem": f"it cannot be read as an image ({type(exc).__name__})"}


def decode_image(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Decode frame args["page"] (from 1) of the image in fds[0] and write it to fds[1] as TIFF.

    Gives {"width", "height", "scale"}, or {"problem"}.
    """
    most: int = args["max_pixels"]
    try:
        with open_image(fds[0]) as image:
            if args["page"] > 1:
                image.seek(args["page"] - 1)
            if image.width * image.height > most:
                return {"problem": f"it has more than {most} pixels"}
            if image.format == "JPEG":
                image.draft("L", image.size)  # the decoder gives grey at once
            grey = ImageOps.exif_transpose(_grey(image))
            scale = min(max(READ_WIDTH / grey.width, 1.0), MAX_ENLARGE)
            scale = min(scale, MAX_SIDE / max(grey.size), (args["render_pixels"] / (grey.width * grey.height)) ** 0.5)
            if scale != 1.0:
                size = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
                grey = grey.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
            _write_tiff(fds[1], grey.width, grey.height, grey.tobytes(), grey.width)
            return {"width": grey.width, "height": grey.height, "scale": scale}
    except Exception as exc:  # noqa: BLE001 - Pillow's decoders raise whatever they trip over
        return {"problem": f"it cannot be decoded ({type(exc).__name__})"}


def render_pdf(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Render page args["page"] (from 1) of the PDF in fds[0] at args["dpi"] and write it to fds[1] as TIFF.

    Gives {"width", "height", "scale"} (pixels a point), or {"problem"}.
    """
    try:
        with closing(pdfium.PdfDocument(os.fdopen(os.dup(fds[0]), "rb"), autoclose=True)) as document:
            document.init_forms()
            with closing(document[args["page"] - 1]) as page:
                width, height = page.get_size()
                scale = args["dpi"] / 72
                scale = min(scale, MAX_SIDE / max(width, height), (args["render_pixels"] / (width * height)) ** 0.5)
                bitmap = page.render(scale=scale, grayscale=True, optimize_mode="print")
                _write_tiff(fds[1], bitmap.width, bitmap.height, memoryview(bitmap.buffer).cast("B"), bitmap.stride)
                return {"width": bitmap.width, "height": bitmap.height, "scale": scale}
    except (pdfium.PdfiumError, ValueError, OverflowError, ZeroDivisionError) as exc:
        return {"problem": f"it cannot be rendered ({type(exc).__name__})"}


def open_image(fd: int) -> Image.Image:
    """The image in a descriptor, by one of the formats that are read; nothing is decoded yet."""
    Image.MAX_IMAGE_PIXELS = None  # in this child only; our own limit is counted before any pixel is decoded
    return Image.open(os.fdopen(os.dup(fd), "rb"), formats=FORMATS)


def _grey(image: Any) -> Any:
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")  # letters on nothing are letters on paper
        paper.alpha_composite(image)
        return paper.convert("L")
    if image.mode.startswith(("I", "F")):  # 16 bits and more: `convert` would clip instead of scale
        low, high = image.getextrema()
        span = max(high - low, 1)
        return image.convert("F").point(lambda value: value * (255 / span) - low * (255 / span)).convert("L")
    return image if image.mode == "L" else image.convert("L")


def _write_tiff(fd: int, width: int, height: int, pixels: bytes | memoryview, stride: int) -> None:
    """One uncompressed strip of 8-bit grey: what Tesseract's image library reads fastest."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 0), (277, 1), (278, height), (279, 0)]
    start = 8 + 2 + 12 * len(tags) + 4
    values = dict(tags) | {273: start, 279: width * height}
    header = struct.pack("<2sHLH", b"II", 42, 8, len(tags))
    header += b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in values.items()) + bytes(4)
    with os.fdopen(os.dup(fd), "wb") as out:
        out.write(header)
        if stride == width:
            out.write(pixels)
            return
        view = memoryview(pixels)
        for row in range(height):
            out.write(view[row * stride : row * stride + width])
