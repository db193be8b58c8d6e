"""Types and insides: each small file here is harmless or wrong in exactly one way."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from PIL import Image

from scanners.base import Declared, Finding, Sample, ScanResult, Verdict
from scanners.canary import eicar, encrypted_zip, nested, zipped
from scanners.inspector import Inspector
from scanners.mime import MimeScanner
from scanners.sandbox import Sandbox
from scanners.structure.limits import StructureLimits
from scanners.structure.scanner import StructureScanner
from scanners.types import DEFAULT_ALLOWED, DOCX, TypeRules, suffix_of

LIMITS = StructureLimits(
    unpacked_bytes=80 << 20, members=50, depth=3, pixels=1_000_000, attachments=3, member_bytes=40 << 20, seconds=20
)
DOCX_TYPES = b'<Types><Override ContentType="application/vnd.%s.main+xml"/></Types>'
WORD = DOCX_TYPES % b"openxmlformats-officedocument.wordprocessingml.document"
ODT = b"application/vnd.oasis.opendocument.text"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


Scan = Callable[..., tuple[ScanResult, ScanResult]]


@pytest.fixture
def scan(sandbox: Sandbox, tmp_path: Path) -> Scan:
    def run(
        content: bytes, name: str | None = None, media_type: str | None = None, rules: TypeRules | None = None
    ) -> tuple[ScanResult, ScanResult]:
        path = tmp_path / "sample"
        path.write_bytes(content)
        sample = Sample(path, len(content), hashlib.sha256(content).hexdigest(), Declared(name, media_type))
        inspector = Inspector(sandbox, LIMITS)
        return MimeScanner(inspector, rules).scan(sample), StructureScanner(inspector, inner=Eicar()).scan(sample)

    return run


class Eicar:
    """Finds the EICAR test file, and nothing else."""

    name = "eicar"

    def scan(self, sample: Sample) -> ScanResult:
        if eicar() in sample.path.read_bytes():
            return ScanResult(self.name, Verdict.INFECTED, "Eicar", Finding.INFECTED)
        return ScanResult(self.name, Verdict.CLEAN)


def archive(parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as target:
        for name, content in parts.items():
            target.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return out.getvalue()


def docx(**more: bytes) -> bytes:
    # Its parts in an unusual order: libmagic takes this for a plain zip.
    return archive({"word/document.xml": b"<w:document/>", **more, "[Content_Types].xml": WORD})


def picture(kind: str, size: tuple[int, int] = (8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("L", size).save(out, kind)
    return out.getvalue()


def pdf(attach: bytes | None = None, user: str | None = None, owner: str = "") -> bytes:
    out = io.BytesIO()
    with pikepdf.new() as document:
        document.add_blank_page()
        if attach is not None:
            document.attachments["a.bin"] = pikepdf.AttachedFileSpec(document, attach, filename="a.bin")
        if user is not None:
            document.save(out, encryption=pikepdf.Encryption(user=user, owner=owner))
        else:
            document.save(out)
    return out.getvalue()


HARMLESS = {
    "a.pdf": pdf(),
    "junk-before.pdf": b"\r\n\0\xff junk\r\n" + pdf(),
    "a.docx": docx(),
    "a.odt": archive({"mimetype": ODT, "META-INF/manifest.xml": b"<m/>", "content.xml": b"<c/>"}),
    "a.png": picture("PNG"),
    "a.JPG": picture("JPEG"),
    "a.gif": picture("GIF"),
    "a.tif": picture("TIFF"),
    "a.bmp": picture("BMP"),
    "a.webp": picture("WEBP"),
    "a.rtf": rb"{\rtf1 text}",
    "a.txt": b"some text\n",
    "one.txt": b"x",
    "wide.txt": "text of two bytes a letter, with no mark".encode("utf-16-le"),
    "marked.txt": "text with a mark".encode("utf-16"),
    "traditional.txt": "繁體中文的一段文字\n".encode("big5"),
    "a.csv": b"a,b\n1,2\n",
    "a.md": b'<h1 align="center">Title</h1>\n\ntext\n',
    "a.json": b'{"a": 1}',
    "a.eml": b"From: a@example.org\nTo: b@example.org\nSubject: x\n\n<html><body>text</body></html>\n",
    "Offer v1.2 final": b"some text",
}


@pytest.mark.asvs("5.2.2")
@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_files_pass(scan: Scan, name: str) -> None:
    for media_type in (None, "application/octet-stream", "application/x-www-form-urlencoded"):
        mime, structure = scan(HARMLESS[name], name, media_type)
        assert (mime.verdict, mime.detail) == (Verdict.CLEAN, "")
        assert (structure.verdict, structure.detail) == (Verdict.CLEAN, "")
        assert mime.media_type in DEFAULT_ALLOWED
    assert scan(HARMLESS[name], None)[0].verdict is Verdict.CLEAN or name == "a.md"  # a page, where no name says why


@pytest.mark.asvs("5.2.2")
@pytest.mark.cwe(434)
def test_no_content_passes_under_another_types_name(scan: Scan) -> None:
    text = {"txt", "csv", "md", "json", "eml"}
    suffixes = {suffix_of(name) for name in HARMLESS} - {""}
    for name, content in HARMLESS.items():
        for suffix in sorted(suffixes - {suffix_of(name)}):
            both_text = suffix in text and suffix_of(name) in text | {""}
            verdict = scan(content, f"x.{suffix}")[0].verdict
            if not both_text:
                assert verdict is Verdict.REFUSED, (name, suffix)


@pytest.mark.parametrize(
    ("name", "media_type", "finding"),
    [
        ("a.txt", "text/csv", None),
        ("a.csv", "application/vnd.ms-excel", None),
        ("a.png", "image/x-png", None),
        ("a.png", "image/jpeg", Finding.TYPE_MISMATCH),
        ("a.pdf", "text/html", Finding.TYPE_MISMATCH),
        ("a.pdf", "application/x-made-up", Finding.TYPE_MISMATCH),
    ],
)
def test_content_types_are_compared(scan: Scan, name: str, media_type: str, finding: Finding | None) -> None:
    result = scan(HARMLESS[name], name, media_type)[0]
    assert result.finding is finding
    assert "made-up" not in result.detail


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"<html><script>alert(1)</script></html>"),
        ("a.txt", b"  \n<!DOCTYPE html><p>x"),
        ("a.txt", b"a note\n<html><body><script>alert(1)</script></body></html>"),
        ("a.md", b"<html><script>alert(1)</script></html>"),
        ("a.csv", b"<script>alert(1)</script>"),
        ("a.txt", "\ufeff<html><script>x</script>".encode("utf-16-le")),
        ("a.txt", b"#!/bin/sh\nrm -rf /\n"),
        ("a.txt", b"<?php system($_GET[0]);"),
        ("a.txt", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ("a.txt", b"<?xml version='1.0'?><svg/>"),
        ("a.html", b"some text"),
        ("a.js", b"some text"),
        ("a.pdf.exe", b"some text"),
        ("a.txt.hta", b"some text"),
        ("a.txt.exe. .", b"some text"),
        ("a.txt", b"MZ" + bytes(200)),
        ("a.txt", b"\x7fELF" + bytes(200)),
        ("a.png", b"GIF89a<script>alert(1)</script>"),
        ("a.docx", zipped(b"x")),
        ("a.docx", archive({"META-INF/MANIFEST.MF": b"Manifest-Version: 1.0", "a.class": b"\xca\xfe\xba\xbe"})),
        ("a.docx", docx(**{"word/vbaProject.bin": b"x"})),
        ("a.docm", docx(**{"word/vbaProject.bin": b"x"})),
        (
            "a.docx",
            docx(**{"word/footer1.xml": b"<w:instrText>DD</w:instrText><w:instrText>EAUTO c:\\x</w:instrText>"}),
        ),
        ("a.odt", archive({"mimetype": ODT, "Basic/Standard/Module1.xml": b"<script/>"})),
        ("a.png", picture("PNG") + zipped(b"x")),
        ("a.pdf", pdf() + zipped(b"x")),
        ("a.pdf", picture("GIF") + b"\n" + pdf()),
    ],
)
@pytest.mark.cwe(434)
def test_disguises_are_refused(scan: Scan, name: str, content: bytes) -> None:
    assert scan(content, name)[0].verdict is Verdict.REFUSED


def test_nothing_is_refused(scan: Scan) -> None:
    assert scan(b"", "a.txt")[0].finding is Finding.EMPTY


def test_rules_decide(scan: Scan) -> None:
    only = TypeRules(allowed=frozenset({DOCX}))
    assert scan(HARMLESS["a.docx"], "a.docx", None, only)[0].verdict is Verdict.CLEAN
    assert scan(HARMLESS["a.pdf"], "a.pdf", None, only)[0].finding is Finding.TYPE_NOT_ALLOWED
    macros = replace(only, macros=True)
    assert scan(docx(**{"word/vbaProject.bin": b"x"}), "a.docx", None, macros)[0].verdict is Verdict.CLEAN


def overlapping() -> bytes:
    """Two entries of the directory that share one member's bytes."""
    content = bytearray(archive({"a": b"x" * 100}))
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entry = bytes(content[start:end])
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, 2 * len(entry), start, 0)
    return bytes(content[:end]) + entry + record


def link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        target.writestr(entry, "/etc/passwd")
    return out.getvalue()


def hidden() -> bytes:
    """A member that the directory does not tell of."""
    inner, outer = archive({"evil": b"x"}, 0), archive({"a": b"y"}, 0)
    hide = inner[: inner.index(b"PK\x01\x02")]
    at, end = outer.index(b"PK\x01\x02"), outer.index(b"PK\x05\x06")
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, end - at, at + len(hide), 0)
    return outer[:at] + hide + outer[at:end] + record


def huge_png() -> bytes:
    header = struct.pack(">2L5B", 64250, 64250, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.asvs("5.2.3")
@pytest.mark.parametrize(
    ("make", "verdict", "finding"),
    [
        pytest.param(lambda: docx(big=bytes(35 << 20)), Verdict.REFUSED, Finding.LIMIT_EXCEEDED, id="ratio"),
        pytest.param(
            lambda: docx(**{f"{n}.bin": os.urandom(1 << 20) * 30 for n in range(3)}),
            Verdict.REFUSED,
            Finding.LIMIT_EXCEEDED,
            id="unpacked",
        ),
        pytest.param(
            lambda: docx(big=os.urandom(1 << 20) * 41),
            Verdict.INCOMPLETE,
            Finding.LIMIT_EXCEEDED,
            id="larger-than-clamd",
        ),
        pytest.param(
            lambda: archive({str(n): b"" for n in range(51)}), Verdict.REFUSED, Finding.LIMIT_EXCEEDED, id="members"
        ),
        pytest.param(lambda: nested(b"x", 4), Verdict.REFUSED, Finding.LIMIT_EXCEEDED, id="depth"),
        pytest.param(lambda: nested(b"x", 3), Verdict.CLEAN, None, id="not-too-deep"),
        pytest.param(encrypted_zip, Verdict.INCOMPLETE, Finding.ENCRYPTED, id="encrypted-zip"),
        pytest.param(lambda: zipped(b"x" * 500)[:-30], Verdict.INCOMPLETE, Finding.DAMAGED, id="truncated"),
        pytest.param(overlapping, Verdict.INCOMPLETE, Finding.DAMAGED, id="overlap"),
        pytest.param(hidden, Verdict.INCOMPLETE, Finding.DAMAGED, id="hidden"),
        pytest.param(lambda: archive({"../../x": b"x"}), Verdict.INCOMPLETE, Finding.DAMAGED, id="slip"),
        pytest.param(lambda: archive({"/etc/x": b"x"}), Verdict.INCOMPLETE, Finding.DAMAGED, id="absolute"),
        pytest.param(lambda: archive({"..\\x": b"x"}), Verdict.INCOMPLETE, Finding.DAMAGED, id="slip-windows"),
        pytest.param(link, Verdict.INCOMPLETE, Finding.DAMAGED, id="link"),
        pytest.param(
            lambda: archive({"mimetype": ODT, "META-INF/manifest.xml": b"<manifest:encryption-data/>"}),
            Verdict.INCOMPLETE,
            Finding.ENCRYPTED,
            id="odf",
        ),
        pytest.param(lambda: pdf(user="u", owner="o"), Verdict.INCOMPLETE, Finding.ENCRYPTED, id="pdf-password"),
        pytest.param(lambda: pdf(user="", owner="o"), Verdict.CLEAN, None, id="pdf-owner-password"),
        pytest.param(lambda: b"%PDF-1.7\nnothing more", Verdict.INCOMPLETE, Finding.DAMAGED, id="pdf-damaged"),
        pytest.param(lambda: pdf(b"plain"), Verdict.CLEAN, None, id="pdf-attachment"),
        pytest.param(lambda: pdf(eicar()), Verdict.INFECTED, Finding.INFECTED, id="pdf-infected-attachment"),
        pytest.param(lambda: pdf(bytes(90 << 20)), Verdict.REFUSED, Finding.LIMIT_EXCEEDED, id="pdf-bomb"),
        pytest.param(huge_png, Verdict.REFUSED, Finding.LIMIT_EXCEEDED, id="pixels"),
        pytest.param(lambda: picture("PNG")[:20], Verdict.INCOMPLETE, Finding.DAMAGED, id="png-damaged"),
        pytest.param(lambda: zlib.compress(b"x", wbits=31), Verdict.INCOMPLETE, Finding.LIMIT_EXCEEDED, id="gzip"),
    ],
)
def test_insides(scan: Scan, make: Callable[[], bytes], verdict: Verdict, finding: Finding | None) -> None:
    result = scan(make())[1]
    assert (result.verdict, result.finding) == (verdict, finding), result.detail


def test_attachments_that_nobody_scans_are_not_clean(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(pdf(b"plain"))
    sample = Sample(path, path.stat().st_size, "x")
    assert StructureScanner(Inspector(sandbox, LIMITS)).scan(sample).verdict is Verdict.INCOMPLETE


def test_one_look_serves_both(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    call = sandbox.call

    def counted(name: str, *args: Any, **more: Any) -> dict[str, Any]:
        calls.append(name)
        return call(name, *args, **more)

    monkeypatch.setattr(sandbox, "call", counted)
    path = tmp_path / "a"
    path.write_bytes(b"text")
    inspector = Inspector(sandbox, LIMITS)
    for name in ("a.txt", "a.png"):
        sample = Sample(path, 4, "digest", Declared(name))
        MimeScanner(inspector).scan(sample)
        StructureScanner(inspector).scan(sample)
    assert calls == ["look"]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.PDF", "pdf"),
        ("a.pdf.", "pdf"),
        ("a.pdf . ", "pdf"),
        ("a.pdf\0", "pdf"),
        ("x\u202efdp.exe", "exe"),
        ("a.tar.gz", "gz"),
        ("a", ""),
        (".", ""),
        ("", ""),
        (None, ""),
        ("Minutes 24.11.2026", ""),
        ("v1.2 final", ""),
    ],
)
def test_suffixes(name: str | None, suffix: str) -> None:
    assert suffix_of(name) == suffix
