"""What a file is, by its content alone: libmagic's opinion, corrected where it is known to err."""

from __future__ import annotations

import codecs
import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO

import magic

from scanners.structure.archive import ends_as_zip
from scanners.structure.finding import damaged
from scanners.structure.office import OLE, Package, ole_package, zip_package
from scanners.types import HARMLESS_TEXT, POLYGLOT, SCRIPT, UNKNOWN, canonical

HEAD = 64 << 10
STRAY = 500  # one control character in so many bytes does not make a text binary
PERHAPS_PDF = frozenset({UNKNOWN, "application/pdf"})
PDF = re.compile(rb"%PDF-\d")
# Where a browser that guesses would see HTML: the first thing that is not white space (WHATWG MIME Sniffing, 7.1).
HTML_FIRST = re.compile(
    rb"(<!doctype html|<(html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|svg|object|embed|form|meta"
    rb"|link|base|img)[\s>/]|<!--)",
    re.IGNORECASE,
)
# What makes a text a page, and not a note that mentions one.
HTML_STRONG = re.compile(rb"<(!doctype\s+html|html|head|body|script|iframe|svg|object|embed)[\s>/]", re.IGNORECASE)
HTML_MARKDOWN = re.compile(rb"<(h1|div|font|table|a|b|br|p|img|!--)", re.IGNORECASE)  # what Markdown files begin with
MAIL = re.compile(
    rb"(?:[\w-]+:[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*\r?\n){2,}", re.ASCII
)  # header lines; two at least, as any note may begin with one
MAIL_HEADERS = re.compile(rb"^(from|to|subject|date|received|return-path|message-id|mime-version):", re.I | re.M)
SCRIPT_FIRST = re.compile(rb"#!\s*/|<\?php|<%@|<\?=|@echo\s+off|\s*powershell\b", re.IGNORECASE)
TEXT_CONTROLS = bytes(set(range(32)) - {7, 8, 9, 10, 11, 12, 13, 26, 27}) + b"\x7f"
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# Loaded before the first fork: the children may not have the right to read Python's own files.
for _encoding in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "ascii", "cp437"):
    codecs.lookup(_encoding)

_magic = magic.Magic(mime=True)  # its database is loaded here, before the first fork


@dataclass(frozen=True)
class Kind:
    """What the content is. `html`: "first" and "strong" say how much of a web page a text is."""

    media_type: str
    text: bool = False
    html: str = ""
    macros: bool = False
    encrypted: bool = False


def kind_of(file: BinaryIO, size: int) -> Kind:
    """Look at the content. Raises Found where a container is too damaged to tell."""
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _of_package(_zip(file))
    if head.startswith(OLE):
        return _of_package(ole_package(file))
    pdf = PDF.search(head[:1024])
    plain = _as_text(head)
    # A text is told apart below, by more than libmagic knows; its first use in a child takes milliseconds.
    said = "text/plain" if plain else canonical(_magic.from_descriptor(os.dup(file.fileno())) or UNKNOWN)
    file.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _of_package(_zip(file))
    if head.startswith(OLE):
        return _of_package(ole_package(file))
    pdf = PDF.search(head[:1024])
    plain = _as_text(head)
    # libmagic takes milliseconds over a long text, and nothing that it finds far inside one would be believed.
    opinion = _magic.from_buffer(plain[:8192]) if plain else _magic.from_descriptor(os.dup(file.fileno()))
    said = canonical(opinion or UNKNOWN)
    file.seek(0)
    if pdf and (pdf.start() == 0 or (plain is None and said in PERHAPS_PDF) or _begins_line(head, pdf)):
        said, plain = "application/pdf", None
        if pdf.start() and _is_otherwise(head):
            return Kind(POLYGLOT)
    elif pdf and not said.startswith("text/"):
        return Kind(POLYGLOT)
    if plain is None and ends_as_zip(file, size):
        return Kind(POLYGLOT)
    if plain is not None and not head.startswith(b"{\\rtf"):
        return _text(plain)
    if head.startswith(b"{\\rtf"):
        return Kind("application/rtf")
    # libmagic calls some binaries text: what holds bytes that no text has is none, whatever it says.
    return Kind(UNKNOWN if said.startswith("text/") or said in HARMLESS_TEXT else said)


def _begins_line(head: bytes, found: re.Match[bytes]) -> bool:
    return head[found.start() - 1 : found.start()] in (b"\n", b"\r") and b"obj" in head


def _is_otherwise(head: bytes) -> bool:
    """Whether what comes before a PDF's header is the header of something else that opens."""
    signatures = (
        b"\x89PNG",
        b"\xff\xd8\xff",
        b"GIF8",
        b"II*\0",
        b"MM\0*",
        b"RIFF",
        b"MZ",
        b"\x7fELF",
        b"BM",
        b"#!",
        b"\x1f\x8b",
    )
    return head.startswith(signatures) or HTML_STRONG.search(head[:1024]) is not None


def _zip(file: BinaryIO) -> Package:
    try:
        return zip_package(file)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError, RuntimeError, zlib.error) as exc:
        raise damaged(f"the zip is damaged ({type(exc).__name__})") from exc


def _of_package(package: Package) -> Kind:
    return Kind(package.media_type, macros=package.macros, encrypted=package.encrypted)


def _as_text(head: bytes) -> bytes | None:
    """The head as UTF-8 or one-byte text without its mark, or None where it is binary."""
    encoding = next((each for bom, each in BOMS if head.startswith(bom)), None) or _wide(head)
    if encoding is not None:
        try:
            # Not final: the head may end in the middle of a character.
            head = codecs.getincrementaldecoder(encoding)().decode(head).lstrip("\ufeff").encode()
        except UnicodeError:
            return None
    controls = len(head) - len(head.translate(None, TEXT_CONTROLS))
    return None if b"\0" in head or controls * STRAY > len(head) else head


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark: Latin text has a zero in every other place and hardly any in the ones between."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if even * 2 > len(head) * 0.8 and odd * STRAY < len(head):
        return "utf-16-be"
    if odd * 2 > len(head) * 0.8 and even * STRAY < len(head):
        return "utf-16-le"
    return None


def _text(plain: bytes) -> Kind:
    first = plain.lstrip()[:4096]
    html = ""
    if HTML_FIRST.match(first):
        html = "strong" if HTML_STRONG.search(plain) or not HTML_MARKDOWN.match(first) else "first"
    elif HTML_STRONG.search(plain[:4096]):
        html = "inside"
    if SCRIPT_FIRST.match(first):
        return Kind(SCRIPT, text=True)
    if first[:5].lower() == b"<?xml":
        svg = re.search(rb"<svg[\s>]", plain, re.IGNORECASE)
        page = re.search(rb"<html[\s>]", plain, re.IGNORECASE)
        return Kind("image/svg+xml" if svg else "text/html" if page else "text/xml", text=True)
    if re.match(rb"<svg[\s>]", first, re.IGNORECASE):
        return Kind("image/svg+xml", text=True)
    mail = MAIL.match(first)
    if mail and len(MAIL_HEADERS.findall(mail[0])) >= 2:
        return Kind("message/rfc822", text=True, html="")
    return Kind("text/plain", text=True, html=html)
