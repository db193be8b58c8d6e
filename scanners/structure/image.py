"""Images by their headers: how many pixels a decoder would have to hold. Nothing is decoded."""

from __future__ import annotations

import warnings
from typing import BinaryIO

from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from scanners.structure.finding import Found, damaged, over_limit
from scanners.structure.limits import StructureLimits

# Imported by name, so that they are loaded before the first fork and no other of Pillow's many readers is.
READERS = {
    "image/bmp": BmpImagePlugin.BmpImageFile.format,
    "image/gif": GifImagePlugin.GifImageFile.format,
    "image/jpeg": JpegImagePlugin.JpegImageFile.format,
    "image/png": PngImagePlugin.PngImageFile.format,
    "image/tiff": TiffImagePlugin.TiffImageFile.format,
    "image/webp": WebPImagePlugin.WebPImageFile.format,
}
Image.MAX_IMAGE_PIXELS = None  # the limit is ours, and an answer


def inspect_image(file: BinaryIO, media_type: str, limits: StructureLimits) -> int:
    """The number of pixels. Raises Found when there are too many, or when the header cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=[str(READERS[media_type])]) as image:
                pixels = image.width * image.height
    except Found:
        raise
    except Exception as exc:  # Pillow's readers raise whatever they trip over
        raise damaged(f"the image's header cannot be read ({type(exc).__name__})") from exc
    if pixels > limits.pixels:
        raise over_limit(f"the image has more than {limits.pixels} pixels")
    return pixels
