"""Office files: what a zip or an OLE file is, whether it carries macros, whether it is encrypted."""

from __future__ import annotations

import re
import struct
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

from scanners.structure.finding import damaged, encrypted
from scanners.types import DOCX, ENCRYPTED_OFFICE, PPTX, XLSX

MAX_PART = 4 << 20  # the parts that say what a package is are small
MAX_RECORDS = 20_000
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
                    return Package("application/vnd.ms-excel", macros, _excel_is_encrypted(ole, book))
            if "powerpoint document" in top:
                locked = "encryptedsummary" in top or _powerpoint_is_encrypted(ole)
                return Package("application/vnd.ms-powerpoint", macros, locked)
            if "__properties_version1.0" in top:
                return Package("application/vnd.ms-outlook", macros)
            return Package("application/x-ole-storage", macros)
    except (OSError, ValueError, IndexError, struct.error, TypeError, AttributeError, KeyError, OverflowError) as exc:
        raise damaged(f"the OLE container is damaged ({type(exc).__name__})") from exc


def _word_is_encrypted(ole: Any) -> bool:
    head = ole.openstream("WordDocument").read(12)
    return len(head) == 12 and bool(struct.unpack_from("<H", head, 10)[0] & 0x0100)


def _excel_is_encrypted(ole: Any, stream: str) -> bool:
    """A FILEPASS record in the workbook's globals."""
    records = ole.openstream(stream)
    for _ in range(MAX_RECORDS):
        head = records.read(4)
        if len(head) < 4:
            return False
        kind, length = struct.unpack("<HH", head)
        if kind == 0x002F:
            return True
        if kind == 0x000A:
            return False
        records.seek(length, 1)
    return False


def _powerpoint_is_encrypted(ole: Any) -> bool:
    if not ole.exists("Current User"):
        return False
    head = ole.openstream("Current User").read(16)
    return len(head) == 16 and struct.unpack_from("<L", head, 12)[0] == 0xF3D1C4DF
