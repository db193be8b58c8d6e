"""Office files: what a zip or an OLE file is, whether it carries macros, whether it is encrypted."""

from __future__ import annotations

import re
import struct
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

from scanners.structure.finding import damaged, encrypted
from scanners.types import DOCX, ENCRYPTED_OFFICE, PPTX, XLSX

MAX_PART = 16 << 20  # of one part that is held in memory
MAX_RECORDS = 20_000
VBA_INFO = b"\x02\x00\x00\x04\x0c\x00\x00\x00"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

# Content types of an OOXML package's main part -> what the file is.
OOXML = {
    b"wordprocessingml.document.main+xml": DOCX,
    b"spreadsheetml.sheet.main+xml": XLSX,
    b"presentationml.presentation.main+xml": PPTX,
    b"wordprocessingml.template.main+xml": "application/vnd.openxmlformats-officedocument.wordprocessingml.template",
    b"spreadsheetml.template.main+xml": "application/vnd.openxmlformats-officedocument.spreadsheetml.template",
    b"presentationml.template.main+xml": "application/vnd.openxmlformats-officedocument.presentationml.template",
    b"presentationml.slideshow.main+xml": "application/vnd.openxmlformats-officedocument.presentationml.slideshow",
    b"ms-word.document.macroenabled.main+xml": "application/vnd.ms-word.document.macroenabled.12",
    b"ms-word.template.macroenabledtemplate.main+xml": "application/vnd.ms-word.template.macroenabled.12",
    b"ms-excel.sheet.macroenabled.main+xml": "application/vnd.ms-excel.sheet.macroenabled.12",
    b"ms-excel.template.macroenabled.main+xml": "application/vnd.ms-excel.template.macroenabled.12",
    b"ms-excel.addin.macroenabled.main+xml": "application/vnd.ms-excel.addin.macroenabled.12",
    b"ms-excel.sheet.binary.macroenabled.main": "application/vnd.ms-excel.sheet.binary.macroenabled.12",
    b"ms-powerpoint.presentation.macroenabled.main+xml": "application/vnd.ms-powerpoint.presentation.macroenabled.12",
    b"ms-powerpoint.slideshow.macroenabled.main+xml": "application/vnd.ms-powerpoint.slideshow.macroenabled.12",
    b"ms-powerpoint.template.macroenabled.main+xml": "application/vnd.ms-powerpoint.template.macroenabled.12",
}
MACRO_PARTS = re.compile(r"(^|/)(vbaproject[^/]*\.bin|vbadata\.xml)$|^xl/macrosheets/|(^|/)activex/", re.IGNORECASE)
# DDE: a field or a link that starts a program when the document is opened.
COMMAND_PARTS = re.compile(
    r"^word/(document|header\d*|footer\d*|footnotes|endnotes)\.xml$|^xl/externallinks/[^/]+\.xml$"
)
DDE = re.compile(rb"\bDDE(AUTO)?\b")
FIELD_TEXT = re.compile(rb"<w:instrText[^>]*>([^<]*)|<w:fldSimple[^>]*?w:instr=\"([^\"]*)", re.DOTALL)
ODF_MACROS = re.compile(r"^(basic|scripts)/(?!.*(script|dialog)-l[bc]\.xml$).*[^/]$", re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """What an office file is."""

    media_type: str
    macros: bool = False
    encrypted: bool = False


def zip_package(file: BinaryIO) -> Package:
    """What a zip is by its parts, not by their order. Raises what zipfile raises."""
    with zipfile.ZipFile(file) as archive:
        names = {name.casefold(): name for name in archive.namelist()}
        if "[content_types].xml" in names:
            types = _part(archive, names["[content_types].xml"]).lower()
            found = {media for main, media in OOXML.items() if main in types}
            macros = b"vbaproject" in types or any(MACRO_PARTS.search(name) for name in names)
            macros = macros or any(_commands(archive, names[name]) for name in names if COMMAND_PARTS.search(name))
            return Package(found.pop() if len(found) == 1 else "application/zip", macros=macros)
        if "mimetype" in names:
            said = _part(archive, names["mimetype"]).strip().decode("ascii", "replace").lower()
            if re.fullmatch(r"application/(vnd\.oasis\.opendocument\.[a-z-]+|epub\+zip)", said):
                manifest = names.get("meta-inf/manifest.xml")
                locked = manifest is not None and b"encryption-data" in _part(archive, manifest)
                return Package(said, macros=any(map(ODF_MACROS.search, names)), encrypted=locked)
        if "meta-inf/manifest.mf" in names:
            return Package("application/java-archive")
    return Package("application/zip")


def _part(archive: zipfile.ZipFile, name: str) -> bytes:
    member = archive.getinfo(name)
    if member.flag_bits & 0x1:
        raise encrypted("a part of the document is encrypted")
    with archive.open(member) as part:
        content = part.read(MAX_PART + 1)
    if len(content) > MAX_PART:
        raise damaged("a part that says what the document is, is far too large")
    return content


def _commands(archive: zipfile.ZipFile, name: str) -> bool:
    """Whether a part tells another program what to do. Word splits a field's text at will: it is put together first."""
    content = _part(archive, name)
    if b"ddeLink" in content:
        return True
    fields = b"".join(match[1] or match[2] or b"" for match in FIELD_TEXT.finditer(content))
    return DDE.search(fields) is not None


def ole_package(file: BinaryIO) -> Package:
    """What an OLE file is by its streams, and whether it is encrypted. Raises Found where it is damaged."""
    import olefile

    try:
        with olefile.OleFileIO(file) as ole:
            names = {tuple(part.casefold() for part in path) for path in ole.listdir(streams=True, storages=True)}
            top = {path[0] for path in names}
            macros = any(
                part in {"macros", "_vba_project_cur", "vba", "_vba_project"} for path in names for part in path
            )
            if "encryptedpackage" in top:
                return Package(ENCRYPTED_OFFICE, encrypted=True)
            if "worddocument" in top:
                return Package("application/msword", macros, _word_is_encrypted(ole))
            for book in ("workbook", "book"):
                if book in top:
                    locked, sheets = _excel(ole, book)
                    return Package("application/vnd.ms-excel", macros or sheets, locked)
            if "powerpoint document" in top:
                locked = "encryptedsummary" in top or _powerpoint_is_encrypted(ole)
                return Package("application/vnd.ms-powerpoint", macros or _powerpoint_has_macros(ole), locked)
            if "__properties_version1.0" in top:
                return Package("application/vnd.ms-outlook", macros)
            return Package("application/x-ole-storage", macros)
    except (OSError, ValueError, IndexError, struct.error, TypeError, AttributeError, KeyError, OverflowError) as exc:
        raise damaged(f"the OLE container is damaged ({type(exc).__name__})") from exc


def _word_is_encrypted(ole: Any) -> bool:
    head = ole.openstream("WordDocument").read(12)
    return len(head) == 12 and bool(struct.unpack_from("<H", head, 10)[0] & 0x0100)


def _excel(ole: Any, stream: str) -> tuple[bool, bool]:
    """Encrypted (a FILEPASS record in the workbook's globals)? Sheets of Excel 4 macros (BOUNDSHEET of type 1)?"""
    records = ole.openstream(stream)
    macros = False
    for _ in range(MAX_RECORDS):
        head = records.read(4)
        if len(head) < 4:
            return False, macros
        kind, length = struct.unpack("<HH", head)
        if kind == 0x002F:
            return True, macros
        if kind == 0x000A:
            return False, macros
        body = records.read(length)
        macros = macros or (kind == 0x0085 and len(body) > 5 and body[5] & 0x0F == 1)
    raise damaged("the workbook has no end of its globals")


def _powerpoint_has_macros(ole: Any) -> bool:
    """A VbaInfoAtom that says so. The project itself lies compressed in the same stream."""
    content = ole.openstream("PowerPoint Document").read()
    at = content.find(VBA_INFO)
    while at >= 0:
        if content[at + 12 : at + 16].strip(b"\0"):
            return True
        at = content.find(VBA_INFO, at + 1)
    return False


def _powerpoint_is_encrypted(ole: Any) -> bool:
    if not ole.exists("Current User"):
        return False
    head = ole.openstream("Current User").read(16)
    return len(head) == 16 and struct.unpack_from("<L", head, 12)[0] == 0xF3D1C4DF
