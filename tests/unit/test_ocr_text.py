"""Decoding and cleaning of text."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanners.ocr_text import CHUNK, MARKS_IN_A_ROW, TextFull, TextOut, clean, guess_encoding, read_plain

LIMIT = 1 << 22


def decode(raw: bytes, limit: int = LIMIT, languages: tuple[str, ...] = ()) -> tuple[str, bool]:
    file = io.StringIO(newline="")
    whole = read_plain(io.BytesIO(raw), TextOut(file, limit), limit, languages)
    return file.getvalue(), whole


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_told_by_its_mark_or_its_shape(codec: str) -> None:
    text = "naïve résumé, 12 €\nzweite Zeile mit Grüßen\n"
    assert decode(text.encode(codec)) == (text, True)


def test_western_bytes_that_are_not_unicode() -> None:
    assert decode("déjà vu – 5 €".encode("cp1252")) == ("déjà vu – 5 €", True)


def test_bytes_that_windows_1252_leaves_out_do_not_stop_the_reading() -> None:
    assert decode(b"caf\xe9 \x81\x8d end") == ("café  end", True)


@pytest.mark.parametrize(("codec", "language"), [("big5", "chi_tra"), ("gb18030", "chi_sim")])
def test_double_byte_text_is_read_only_where_its_language_is(codec: str, language: str) -> None:
    raw = "文件已通過掃描,可以下載。".encode(codec) if codec == "big5" else "文件已通过扫描,可以下载。".encode(codec)
    assert decode(raw, languages=("eng", language))[0] == raw.decode(codec)
    assert guess_encoding(io.BytesIO(raw), LIMIT, ("eng",)) == "cp1252"


def test_french_is_not_taken_for_chinese() -> None:
    raw = "élève zélé à la fenêtre, où étés et forêts".encode("cp1252")
    assert decode(raw, languages=("chi_sim", "chi_tra"))[0] == raw.decode("cp1252")


def test_what_is_over_the_limit_is_left_out_and_said() -> None:
    assert decode(b"0123456789", limit=10) == ("0123456789", True)
    assert decode(b"0123456789x", limit=10) == ("0123456789", False)


def test_a_character_cut_by_the_limit_is_dropped_whole() -> None:
    file = io.StringIO()
    out = TextOut(file, 4)
    out.write("abcé")
    with pytest.raises(TextFull):
        out.flush()
    assert file.getvalue() == "abc"


def test_line_ends_and_controls() -> None:
    assert clean("a\r\nb\rc\x0bd\x00\x1b[1me\x7f\x9f\ud800\ufeff\u2028f\tg\fh") == "a\nb\nc\nd[1me\nf\tg\fh"


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300), st.integers(0, 8))
def test_cutting_into_pieces_changes_nothing(text: str, shift: int) -> None:
    long = "x" * (CHUNK - shift) + text
    file = io.StringIO(newline="")
    out = TextOut(file, LIMIT)
    for start in range(0, len(long), CHUNK // 2):
        out.write(long[start : start + CHUNK // 2])
    out.flush()
    assert file.getvalue() == clean(long)
    assert out.chars == len(file.getvalue())
    assert unicodedata.is_normalized("NFC", file.getvalue())


def test_a_letter_and_its_mark_on_two_sides_of_a_piece_are_put_together() -> None:
    assert decode(("x" * (CHUNK - 1) + "e\u0301").encode())[0].endswith("xé")


@pytest.mark.cwe(407)
def test_endless_marks_on_one_letter_are_cut() -> None:
    text, _ = decode(("a" + "\u0301\u0323" * 200_000).encode())
    # Composed marks vanish into the letter; what is cut at a piece's border adds at most one run a piece.
    assert len(text) <= (MARKS_IN_A_ROW + 1) * (2 + 2 * 400_000 // CHUNK)


def test_pages_are_counted() -> None:
    out = TextOut(io.StringIO(), LIMIT)
    out.write("one\ftwo!\f\fx")
    out.flush()
    assert out.pages == [3, 4, 0, 1]
