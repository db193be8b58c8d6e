"""Documents drawn for the tests: pages of known words as images, PDFs and office files."""

from __future__ import annotations

import io
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pikepdf
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from scanners.base import Sample

WORDS = (
    "The quarantine bucket holds every upload until a scanner has judged it",
    "Orders over twenty thousand need a second signature from the treasurer",
    "Deliveries arrive on Thursday between nine and eleven in the morning",
    "Please keep this receipt for your records and quote number 48213 always",
    "Nothing is served unless exactly those bytes received a clean verdict",
)


def sample(path: Path) -> Sample:
    """The file as a sample."""
    return Sample(path, path.stat().st_size, "0" * 64)


def page(lines: Sequence[str] = WORDS, *, width: int = 1240, height: int = 800, size: int = 32) -> Image.Image:
    """A white page with one line of text below the other, in pixels."""
    image = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size)
    for number, line in enumerate(lines):
        draw.text((size, size + number * size * 2), line, fill=0, font=font)
    return image


def noisy(image: Image.Image) -> Image.Image:
    """The page as a bad scan."""
    grain = Image.effect_noise(image.size, 60)
    return Image.blend(image.filter(ImageFilter.GaussianBlur(0.6)), grain, 0.3)


def scan(path: Path, pages: Sequence[Image.Image], dpi: int = 150) -> Path:
    """A PDF that holds nothing but an image a page."""
    pages[0].save(path, "PDF", resolution=dpi, save_all=True, append_images=list(pages[1:]))
    return path


def typed(path: Path, pages: Sequence[str], *, extra: str = "", mode: int = 0) -> Path:
    """A PDF with a text layer, one line a page, by text rendering mode `mode`."""
    with pikepdf.new() as document:
        for line in pages:
            add_typed(document, line, extra=extra, mode=mode)
        document.save(path)
    return path


def add_typed(document: pikepdf.Pdf, line: str, *, extra: str = "", mode: int = 0) -> None:
    """Append a page with a text layer."""
    added = document.add_blank_page(page_size=(400, 200))
    font = pikepdf.Dictionary(Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica)
    added.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F1=font))
    content = f"{extra} BT /F1 12 Tf {mode} Tr 20 100 Td ({line}) Tj ET" if line else extra
    added.Contents = document.make_stream(content.encode())


def zipped(members: dict[str, str | bytes]) -> bytes:
    """A zip with the given members, deflated."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as container:
        for name, content in members.items():
            container.writestr(name, content)
    return made.getvalue()


def docx(body: str) -> bytes:
    """A Word document with the given XML in its body."""
    return zipped(
        {"word/document.xml": f'<w:document xmlns:w="urn:w" xmlns:mc="urn:mc"><w:body>{body}</w:body></w:document>'}
    )


def recall(expected: Sequence[str], text: str) -> float:
    """The share of the expected words that the text has."""
    words, found = " ".join(expected).split(), set(text.split())
    return sum(word in found for word in words) / len(words)


def is_kept_text(text: str) -> bool:
    """Whether the text is what `Recognition.text` promises."""
    controls = {char for char in text if unicodedata.category(char) == "Cc"} - set("\n\t\f")
    return unicodedata.is_normalized("NFC", text) and not controls
