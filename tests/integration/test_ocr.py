"""Documents read by the real Tesseract, in the real sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pikepdf
import pypdfium2 as pdfium
import pytest
from PIL import Image

from scanners.base import ScannerUnavailable
from scanners.ocr import OcrOptions, Recognition, Recognizer, reading_sandbox
from scanners.sandbox import Sandbox
from tests.integration.ocr_samples import (
    WORDS,
    docx,
    is_kept_text,
    noisy,
    page,
    recall,
    sample,
    scan,
    typed,
)
from tests.servers.process import need

Read = Callable[..., Recognition]
OPTIONS = OcrOptions(jobs=2)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    need("tesseract", "apt install tesseract-ocr")
    made = reading_sandbox(OPTIONS.languages)
    yield made
    made.close()


@pytest.fixture
def read(sandbox: Sandbox, tmp_path: Path) -> Read:
    def read(path: Path, media_type: str, **options: object) -> Recognition:
        into = tmp_path / "into"
        into.mkdir()
        found = Recognizer(replace(OPTIONS, **options), sandbox).recognize(sample(path), media_type, into)  # type: ignore[arg-type]
        kept = {found.text and found.text.name, found.pdf and found.pdf.name}
        assert {left.name for left in into.iterdir()} <= kept | {"text.txt"}
        if found.text is not None:
            assert is_kept_text(text_of(found))
            assert found.text_length == len(text_of(found))
            assert text_of(found).count("\f") == max(len(found.pages) - 1, 0)
        assert (found.problem is None) == found.complete
        return found

    return read


def text_of(found: Recognition) -> str:
    assert found.text is not None
    with found.text.open(encoding="utf-8", newline="") as file:
        return file.read()


def saved(image: Image.Image, path: Path, **how: object) -> Path:
    image.save(path, **how)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "bmp", "gif", "webp"])
def test_every_kind_of_image_is_read(read: Read, tmp_path: Path, suffix: str) -> None:
    path = saved(page(WORDS[:2], height=220), tmp_path / f"page.{suffix}")
    found = read(path, "image/jpeg" if suffix == "jpg" else f"image/{suffix}")
    assert recall(WORDS[:2], text_of(found)) == 1.0
    assert found.complete
    assert found.engine.name == "tesseract"
    assert [(text.source, text.problem) for text in found.pages] == [("ocr", None)]
    assert (found.pages[0].confidence or 0) > 80


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_way_to_keep_pixels(read: Read, tmp_path: Path, mode: str) -> None:
    grey = page(WORDS[:1], height=120)
    if mode in {"RGBA", "LA"}:  # black letters on nothing
        image = Image.new(mode, grey.size, 0)
        image.putalpha(grey.point(lambda value: 255 - value))
    elif mode == "I;16":
        image = Image.frombytes("I;16", grey.size, b"".join(bytes((0, value)) for value in grey.tobytes()))
    else:
        image = grey.convert(mode)
    path = saved(image, tmp_path / "page.tiff")
    assert recall(WORDS[:1], text_of(read(path, "image/tiff"))) == 1.0


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_page_is_read(read: Read, tmp_path: Path, degrees: int) -> None:
    path = scan(tmp_path / "turned.pdf", [page().rotate(degrees, expand=True)])
    assert recall(WORDS, text_of(read(path, "application/pdf"))) > 0.95


def test_a_turned_line_too_short_to_tell_its_orientation(read: Read, tmp_path: Path) -> None:
    path = saved(page(["Invoice 48213"], width=400, height=120).rotate(180), tmp_path / "line.png")
    assert recall(["Invoice 48213"], text_of(read(path, "image/png"))) == 1.0


def test_the_camera_says_which_way_it_was_held(read: Read, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(page(WORDS[:2], height=220).rotate(90, expand=True), tmp_path / "photo.jpg", exif=exif)
    assert recall(WORDS[:2], text_of(read(path, "image/jpeg"))) == 1.0


def test_a_small_image_is_enlarged(read: Read, tmp_path: Path) -> None:
    path = saved(page(width=420, height=160, size=11), tmp_path / "small.png")
    assert recall(WORDS, text_of(read(path, "image/png"))) > 0.9


def test_a_bad_scan_is_read(read: Read, tmp_path: Path) -> None:
    path = saved(noisy(page()), tmp_path / "bad.jpg", quality=40)
    assert recall(WORDS, text_of(read(path, "image/jpeg"))) > 0.9


def test_the_frames_of_a_tiff_are_pages(read: Read, tmp_path: Path) -> None:
    frames = [page([line], height=120) for line in WORDS[:3]]
    path = saved(frames[0], tmp_path / "pages.tiff", save_all=True, append_images=frames[1:])
    found = read(path, "image/tiff", max_pages=2)
    assert [recall([line], part) for line, part in zip(WORDS, text_of(found).split("\f"), strict=False)] == [1.0, 1.0]
    assert not found.complete
    assert found.problem == "only the first 2 pages were read"


def test_a_text_layer_is_taken_as_it_is(read: Read, tmp_path: Path) -> None:
    found = read(typed(tmp_path / "typed.pdf", ["First page", "", "Third page"]), "application/pdf")
    assert text_of(found) == "First page\n\f\fThird page\n"
    assert [text.source for text in found.pages] == ["layer", "none", "layer"]
    assert [text.chars for text in found.pages] == [11, 0, 11]
    assert found.complete
    assert found.engine.name == "pdfium"


def test_pages_beyond_the_limit_are_said(read: Read, tmp_path: Path) -> None:
    found = read(typed(tmp_path / "typed.pdf", ["a", "b", "c"]), "application/pdf", max_pages=2)
    assert (text_of(found), found.complete, len(found.pages)) == ("a\n\fb\n", False, 2)


@pytest.mark.cwe(451)
def test_hidden_text_is_not_believed(read: Read, tmp_path: Path) -> None:
    scanned = scan(tmp_path / "scan.pdf", [page(WORDS[:2], height=220)])
    # Different lines, all on the page: pdfium leaves out text that repeats itself in one place.
    lines = ") Tj 0 -8 Td (".join(f"Pay {number} thousand to somebody else" for number in range(10, 22))
    with pikepdf.open(scanned, allow_overwriting_input=True) as document:
        lie = pikepdf.open(typed(tmp_path / "lie.pdf", [lines], mode=3))
        document.pages[0].add_overlay(lie.pages[0])
        document.save(scanned)
    text = text_of(read(scanned, "application/pdf"))
    assert "somebody" not in text
    assert recall(WORDS[:2], text) == 1.0


def test_a_searchable_pdf_keeps_its_pages_and_gains_their_text(read: Read, tmp_path: Path) -> None:
    pages = [page(WORDS[:2], height=300), page(WORDS[2:4], height=300).rotate(180)]
    found = read(scan(tmp_path / "scan.pdf", pages), "application/pdf", searchable_pdf=True)
    assert found.pdf is not None
    with pdfium.PdfDocument(found.pdf) as document, pdfium.PdfDocument(tmp_path / "scan.pdf") as original:
        for number, lines in enumerate((WORDS[:2], WORDS[2:4])):
            assert recall(lines, document[number].get_textpage().get_text_bounded()) > 0.9
            before, after = (bytes(pdf[number].render(scale=1).buffer) for pdf in (original, document))
            assert before == after
        # The text lies where its letters are: upside down, the second page's first line is at the bottom.
        first = document[1].get_textpage().search(WORDS[2].split()[0]).get_next()
        assert first is not None
        assert document[1].get_textpage().get_charbox(first[0])[1] < document[1].get_height() / 2


def test_a_searchable_pdf_of_an_image(read: Read, tmp_path: Path) -> None:
    found = read(saved(page(WORDS[:2], height=300), tmp_path / "p.jpg"), "image/jpeg", searchable_pdf=True)
    assert found.pdf is not None
    with pdfium.PdfDocument(found.pdf) as document:
        assert recall(WORDS[:2], document[0].get_textpage().get_text_bounded()) > 0.9
        assert document[0].get_size()[0] == pytest.approx(1240 * 72 / 300, abs=1)


def test_office_and_plain_text(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_bytes(docx("<w:p><w:r><w:t>Dear Ann</w:t></w:r></w:p>"))
    word = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    assert text_of(read(path, word)) == "Dear Ann\n"


def test_plain_text_is_bounded(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes("a;b\r\n1;é\r\n".encode() * 1000)
    found = read(path, "text/csv", max_text_bytes=4096)
    assert text_of(found).startswith("a;b\n1;é\n")
    assert not found.complete
    assert found.text_length <= 4096


def test_types_without_text(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "old.doc"
    path.write_bytes(b"\xd0\xcf\x11\xe0" * 100)
    found = read(path, "application/msword")
    assert (found.text, found.complete) == (None, True)


@pytest.mark.parametrize("media_type", ["application/pdf", "image/png", "image/tiff"])
@pytest.mark.parametrize("raw", [b"", b"%PDF-1.7 nothing", b"\x89PNG\r\n\x1a\n\0\0\0\0", b"II*\0\xff\xff\xff\xff"])
def test_damage_is_an_outcome(read: Read, tmp_path: Path, raw: bytes, media_type: str) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(raw)
    found = read(path, media_type)
    assert (found.text, found.text_length, found.complete) == (None, 0, False)
    assert found.problem


def test_too_many_pixels_are_never_decoded(read: Read, tmp_path: Path) -> None:
    path = saved(Image.new("1", (20_000, 20_000)), tmp_path / "bomb.png")
    found = read(path, "image/png")
    assert (found.text, found.complete) == (None, False)
    assert "pixels" in (found.problem or "")


def test_a_huge_page_is_rendered_smaller(read: Read, tmp_path: Path) -> None:
    path = scan(tmp_path / "huge.pdf", [page(WORDS[:2], height=220)], dpi=7)
    assert recall(WORDS[:2], text_of(read(path, "application/pdf", render_pixels=2_000_000))) == 1.0


def test_it_says_what_is_missing(sandbox: Sandbox, tmp_path: Path) -> None:
    assert Recognizer(OPTIONS, sandbox).check().fit
    for recognizer, said in (
        (Recognizer(OPTIONS, sandbox, tesseract="no-such-tesseract"), "cannot be started"),
        (Recognizer(replace(OPTIONS, languages=("eng", "xxx")), sandbox), "xxx"),
    ):
        fitness = recognizer.check()
        assert not fitness.fit
        assert said in fitness.problems[0]
        with pytest.raises(ScannerUnavailable, match=said):
            recognizer.recognize(sample(scan(tmp_path / "a.pdf", [page(WORDS[:1])])), "application/pdf", tmp_path)
