"""Documents to be sent: each of its own bytes, since clamd remembers what it has found clean."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tests.samples import born_digital_pdf, csv, docx

PROSE = (
    "the harbour master writes every arrival into a ledger before any cargo leaves quarantine and nobody may open a "
    "crate until two inspectors agree that what the papers declare is what the crate holds each signature is dated"
)
WORDS = PROSE.split()
A4 = (8.27, 11.69)  # inches


@dataclass(frozen=True)
class Paper:
    """A document as it is sent. `truth` is what a reader should find on it."""

    name: str
    media_type: str
    body: bytes
    truth: str = ""


def text_of(chance: random.Random, words: int) -> str:
    """So many words, a new line now and then."""
    lines = [" ".join(chance.choices(WORDS, k=9)) for _ in range(-(-words // 9))]
    return "\n".join(lines)


def mixed(count: int, seed: int) -> list[Paper]:
    """What an office sends when nothing is scanned: PDF, tables, text, word processor's files; 1 to 200 KiB."""
    chance = random.Random(seed)
    found: list[Paper] = []
    for number in range(count):
        unique = f"{seed} {number}"
        match number % 4:
            case 0:
                found.append(Paper("a.pdf", "application/pdf", born_digital_pdf(unique)))
            case 1:
                body = csv(f"{unique} {text_of(chance, 9)}".replace("\n", " "), rows=400)
                found.append(Paper("a.csv", "text/csv", body))
            case 2:
                found.append(Paper("a.txt", "text/plain", f"{unique}\n{text_of(chance, 20_000)}\n".encode()))
            case _:
                word = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
                found.append(Paper("a.docx", word, docx(f"{unique} {text_of(chance, 2000)}")))
    return found


def page(chance: random.Random, dpi: int = 150, lines: int = 40, noise: float = 0.0) -> tuple[Image.Image, str]:
    """An A4 page of print as a scanner sees it, and its words."""
    image = Image.new("L", (int(A4[0] * dpi), int(A4[1] * dpi)), 255)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(dpi * 12 / 72)
    said = [" ".join(chance.choices(WORDS, k=9)) for _ in range(lines)]
    for number, line in enumerate(said):
        draw.text((dpi * 0.8, dpi * (0.8 + 0.25 * number)), line, fill=20, font=font)
    if noise:
        grain = Image.effect_noise(image.size, 255 * noise)
        image = Image.blend(image, grain, noise)
    return image, "\n".join(said)


def scanned(count: int, seed: int, dpi: int = 150) -> list[Paper]:
    """Pages as PNG, each of its own words."""
    chance = random.Random(seed)
    found: list[Paper] = []
    for number in range(count):
        image, said = page(chance, dpi)
        note, out = PngInfo(), io.BytesIO()
        note.add_text("Comment", f"{seed} {number}")
        image.save(out, "PNG", pnginfo=note)
        found.append(Paper("a.png", "image/png", out.getvalue(), said))
    return found


def scanned_pdf(pages: int, seed: int, dpi: int = 150, noise: float = 0.0) -> Paper:
    """A PDF that is only pictures; pages parted by form feeds in `truth`."""
    chance = random.Random(seed)
    made = [page(chance, dpi, noise=noise) for _ in range(pages)]
    out = io.BytesIO()
    first, *others = (image for image, _ in made)
    first.save(out, "PDF", resolution=dpi, save_all=True, append_images=others, quality=90)
    return Paper("a.pdf", "application/pdf", out.getvalue(), "\f".join(said for _, said in made))
