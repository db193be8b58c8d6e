"""Text from the XML of office documents."""

from __future__ import annotations

import io

import pytest

from scanners.ocr_office import ODF, OOXML, NotReadable, read_office
from scanners.ocr_text import TextFull, TextOut
from tests.integration.ocr_samples import docx, zipped

WORD, SHEET, SLIDES = (
    OOXML + name for name in ("wordprocessingml.document", "spreadsheetml.sheet", "presentationml.presentation")
)


def read(raw: bytes, media_type: str, limit: int = 1 << 20, max_unpacked: int = 1 << 22) -> tuple[str, int]:
    file = io.StringIO(newline="")
    pages = read_office(io.BytesIO(raw), media_type, TextOut(file, limit), max_unpacked)
    return file.getvalue(), pages


def run(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def test_paragraphs_tabs_and_breaks() -> None:
    body = "<w:p><w:r><w:t>one</w:t><w:tab/><w:t>two</w:t><w:br/><w:t>three</w:t></w:r></w:p>" + run("four &amp; five")
    assert read(docx(body), WORD) == ("one\ttwo\nthree\nfour & five\n", 1)


def test_what_the_reader_does_not_see_is_left_out() -> None:
    body = run("kept") + "<w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
    body += "<w:r><w:instrText>PAGE</w:instrText></w:r>"
    twice = f"<mc:Choice>{run('box')}</mc:Choice><mc:Fallback>{run('box')}</mc:Fallback>"
    body += f"<mc:AlternateContent>{twice}</mc:AlternateContent>"
    assert read(docx(body), WORD)[0] == "kept\nbox\n"


def test_a_table_becomes_rows_of_tabs() -> None:
    cells = "".join(f"<w:tc>{run(text)}</w:tc>" for text in ("a", "b"))
    assert read(docx(f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"), WORD)[0] == "a\tb\t\n"


def test_slides_are_pages_in_their_order() -> None:
    slide = '<p:sld xmlns:p="urn:p" xmlns:a="urn:a"><a:p><a:r><a:t>slide {}</a:t></a:r></a:p></p:sld>'
    raw = zipped({f"ppt/slides/slide{number}.xml": slide.format(number) for number in (10, 2, 1)})
    assert read(raw, SLIDES) == ("slide 1\n\fslide 2\n\fslide 10\n", 3)


def test_sheets_with_shared_inline_and_plain_values() -> None:
    strings = (
        '<sst xmlns="urn:s"><si><t>Name</t></si><si><r><t>To</t></r><r><t>tal</t></r><rPh><t>x</t></rPh></si></sst>'
    )
    rows = '<row><c t="s"><v>0</v></c><c t="s"><v>1</v></c><c t="s"><v>99</v></c></row>'
    rows += '<row><c t="inlineStr"><is><t>Ann</t></is></c><c><f>1+1</f><v>2</v></c></row>'
    raw = zipped(
        {"xl/sharedStrings.xml": strings, "xl/worksheets/sheet1.xml": f'<worksheet xmlns="urn:s">{rows}</worksheet>'}
    )
    assert read(raw, SHEET) == ("Name\tTotal\t\t\nAnn\t2\t\n", 1)


def test_open_document_text_and_presentation() -> None:
    head = '<o:doc xmlns:o="urn:o" xmlns:t="urn:t" xmlns:d="urn:d">'
    deleted = "<t:tracked-changes><t:p>gone</t:p></t:tracked-changes>"
    text = f'{head}{deleted}<t:h>Title</t:h> <t:p>a<t:s t:c="3"/>b<t:tab/>c</t:p></o:doc>'
    assert read(zipped({"content.xml": text}), ODF + "text") == ("Title\na   b\tc\n", 1)
    pages = f"{head}<d:page><t:p>one</t:p></d:page><d:page><t:p>two</t:p></d:page></o:doc>"
    assert read(zipped({"content.xml": pages}), ODF + "presentation") == ("one\n\ftwo\n", 2)


@pytest.mark.cwe(776)
@pytest.mark.parametrize(
    "prologue",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
    ],
)
def test_a_document_type_is_refused(prologue: str) -> None:
    with pytest.raises(NotReadable, match="document type"):
        read(zipped({"word/document.xml": f"{prologue}<x><t>&a;</t></x>"}), WORD)


@pytest.mark.cwe(409)
def test_a_zip_bomb_is_bounded_by_what_comes_out() -> None:
    with pytest.raises(NotReadable, match="unpacks"):
        read(docx("<w:p/>" * 1_000_000), WORD)
    with pytest.raises(TextFull):
        read(docx(run("A" * 3_000_000)), WORD)


@pytest.mark.cwe(674)
def test_nesting_is_bounded() -> None:
    with pytest.raises(NotReadable, match="nested"):
        read(docx("<w:p>" * 300 + "</w:p>" * 300), WORD)


def test_spaces_are_bounded() -> None:
    text = '<o:doc xmlns:o="urn:o" xmlns:t="urn:t"><t:p>a<t:s t:c="999999999"/>b</t:p></o:doc>'
    assert len(read(zipped({"content.xml": text}), ODF + "text")[0]) < 300


@pytest.mark.parametrize(
    "raw", [b"", b"PK\x03\x04junk", docx("<w:p>")[:-40], zipped({"word/document.xml": "<a><b></a>"})]
)
def test_damage_is_an_outcome(raw: bytes) -> None:
    with pytest.raises(NotReadable):
        read(raw, WORD)
