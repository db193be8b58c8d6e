"""Files of the kinds that people send, made on the spot; each says something that its text must hold."""

from __future__ import annotations

import io
import zipfile

import pikepdf
from PIL import Image, ImageDraw, ImageFont

from tests.world import EICAR

WORDS = "Quarterly harbour report"  # what the readable ones say


def born_digital_pdf(text: str = WORDS) -> bytes:
    """A page with a text layer, as a word processor writes it."""
    with pikepdf.new() as pdf:
        page = pdf.add_blank_page(page_size=(595, 842))
        font = pikepdf.Dictionary(Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica)
        page.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F1=pdf.make_indirect(font)))
        page.Contents = pdf.make_stream(f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode())
        out = io.BytesIO()
        pdf.save(out)
    return out.getvalue()


def picture(text: str = WORDS, size: tuple[int, int] = (1240, 600)) -> Image.Image:
    """Black words on white, large enough for any recognizer."""
    image = Image.new("L", size, 255)
    ImageDraw.Draw(image).text((80, 200), text, fill=0, font=ImageFont.load_default(72))
    return image


def png(text: str = WORDS) -> bytes:
    """A picture of words."""
    out = io.BytesIO()
    picture(text).save(out, "PNG")
    return out.getvalue()


def scan_pdf(text: str = WORDS) -> bytes:
    """A page that is only a picture, as a scanner makes it."""
    out = io.BytesIO()
    picture(text, (1240, 1754)).save(out, "PDF", resolution=150)
    return out.getvalue()


def docx(text: str = WORDS) -> bytes:
    """The least that a word processor opens."""
    parts = {
        "[Content_Types].xml": (
            '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
            'wordprocessingml.document.main+xml"/></Types>'
        ),
        "_rels/.rels": (
            '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/'
            'officeDocument" Target="word/document.xml"/></Relationships>'
        ),
        "word/document.xml": (
            '<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
            f"<w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body></w:document>"
        ),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def csv(text: str = WORDS, rows: int = 20) -> bytes:
    """A small table."""
    return "\n".join(["name,amount", *(f"{text},{row}" for row in range(rows))]).encode() + b"\n"


def eicar_zip(text: str = "nothing to see here") -> bytes:
    """The test virus inside a zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", f"{text}\n" * 20)
        archive.writestr("eicar.com", EICAR)
    return out.getvalue()


def executable() -> bytes:
    """As much of a Windows program as every type detector needs: DOS header, PE header, one section."""
    dos = b"MZ" + bytes(58) + (64).to_bytes(4, "little")
    coff = b"PE\0\0" + bytes.fromhex("4c01 0100 00000000 00000000 00000000 e000 0201")
    optional = bytes.fromhex("0b01") + bytes(222)
    return (dos + coff + optional + b".text\0\0\0" + bytes(32)).ljust(1024, b"\0")
