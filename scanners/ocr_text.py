"""Text that can be kept: Unicode NFC, bounded, with no control characters but newline, tab and form feed."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import BinaryIO, TextIO

CHUNK = 1 << 16
# UAX #15, Stream-Safe Text Format: no real text has more marks on one letter. Without this bound a run of them costs
# normalization quadratic time.
MARKS_IN_A_ROW = 30

_CONTROLS = dict.fromkeys([*range(32), *range(127, 160), *range(55296, 57344), 65279, 65534, 65535])
_BREAKS = {0x0B: "\n", 0x85: "\n", 0x1C: "\n", 0x1D: "\n", 0x1E: "\n", 0x2028: "\n", 0x2029: "\n"}
_KEPT = {0x09: "\t", 0x0A: "\n", 0x0C: "\f"}
_TABLE: dict[int, str | None] = {**_CONTROLS, **_BREAKS, **_KEPT}

# What bytes that are neither UTF-8 nor UTF-16 may be, by the languages that the operator reads.
_LEGACY: dict[str, str] = {"chi_sim": "gb18030", "chi_tra": "big5", "jpn": "shift_jis", "kor": "cp949"}


class TextFull(Exception):
    """The text is as long as it may become; what was written so far stands."""


class TextOut:
    """Writes cleaned text to a UTF-8 file, at most `limit` bytes of it."""

    def __init__(self, file: TextIO, limit: int) -> None:
        self._file, self._left = file, limit
        self._held, self._pieces, self._size = "", list[str](), 0
        self.chars = 0
        self.pages = [0]  # characters of each page, without the form feeds between them

    def write(self, text: str) -> None:
        """Add a piece. Raises TextFull once `limit` bytes are written."""
        self._pieces.append(text)
        self._size += len(text)
        if self._size >= CHUNK:
            text = self._take()
            cut = _boundary(text)
            self._held = text[cut:]
            self._put(text[:cut])

    def flush(self) -> None:
        """Write what is held back; once, at the end. Raises TextFull."""
        self._put(self._take())

    def _take(self) -> str:
        text = self._held + "".join(self._pieces)
        self._held, self._size = "", 0
        self._pieces.clear()
        return text

    def _put(self, text: str) -> None:
        text = clean(text)
        size = len(text.encode())
        full = size > self._left
        if full:
            text = text.encode()[: self._left].decode(errors="ignore")
        self._file.write(text)
        self.chars += len(text)
        first, *others = text.split("\f")
        self.pages[-1] += len(first)
        self.pages.extend(len(page) for page in others)
        self._left -= min(size, self._left)
        if full:
            raise TextFull


def clean(text: str) -> str:
    """The text in NFC, line ends as newlines, without other control characters."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii():
        return text if text.isprintable() else text.translate(_TABLE)
    text = _long_marks().sub(r"\1", text.translate(_TABLE))
    return unicodedata.normalize("NFC", text)


def read_plain(source: BinaryIO, out: TextOut, limit: int, languages: Sequence[str] = ()) -> bool:
    """Decode plain text from `source` (at offset 0, seekable) into `out`; whether all of it was read.

    At most `limit` bytes are read. UTF-8, UTF-16 and UTF-32 are told by their marks or by being valid; anything else
    is the legacy encoding of one of `languages` where the bytes fit, and Windows-1252 where nothing does.
    """
    encoding = guess_encoding(source, limit, languages)
    decoder = codecs.getincrementaldecoder(encoding)("replace" if encoding != "cp1252" else "airlock-latin1")
    source.seek(0)
    try:
        for piece in _pieces(source, limit):
            out.write(decoder.decode(piece))
        out.write(decoder.decode(b"", True))
        out.flush()
    except TextFull:
        return False
    return not source.read(1)


def guess_encoding(source: BinaryIO, limit: int, languages: Sequence[str] = ()) -> str:
    """The name of the codec that reads the first `limit` bytes of `source`."""
    source.seek(0)
    head = source.read(min(limit, 4096))
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with UTF-16's
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    odd, even = head[1::2].count(0), head[0::2].count(0)
    if len(head) >= 4 and max(odd, even) > 0.4 * len(head) / 2 and min(odd, even) < 0.1 * len(head) / 2:
        return "utf-16-le" if odd > even else "utf-16-be"
    if _decodes(source, limit, "utf-8"):
        return "utf-8"
    for language in languages:
        name = _LEGACY.get(language.removesuffix("_vert"), "")
        if name and _runs_of_letters(head.decode(name, "ignore")) and _decodes(source, limit, name):
            return name
    return "cp1252"


def _pieces(source: BinaryIO, limit: int) -> Iterator[bytes]:
    while limit > 0 and (piece := source.read(min(CHUNK, limit))):
        limit -= len(piece)
        yield piece


def _decodes(source: BinaryIO, limit: int, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    source.seek(0)
    try:
        for piece in _pieces(source, limit):
            decoder.decode(piece)
        if not source.read(1):  # cut by the limit: the last character may be half
            decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


def _runs_of_letters(text: str) -> bool:
    """Whether most letters outside ASCII stand beside each other; in Western text read by mistake they stand alone."""
    runs = [len(run) for run in re.findall("[^\\x00-\\x7f]+", text)]
    return sum(runs) > 2 * sum(run == 1 for run in runs)


def _latin1(exc: UnicodeError) -> tuple[str, int]:
    if not isinstance(exc, UnicodeDecodeError):
        raise exc
    return exc.object[exc.start : exc.end].decode("latin-1"), exc.end


codecs.register_error("airlock-latin1", _latin1)  # the five bytes that Windows-1252 leaves out


def _boundary(text: str) -> int:
    """Where to cut so that normalizing both sides gives what normalizing the whole does."""
    if text.endswith("\r"):  # perhaps half of a line end
        return len(text) - 1
    for cut in range(len(text) - 1, max(0, len(text) - 4096), -1):
        char = text[cut]
        if not unicodedata.category(char).startswith("M") and not "\u1160" <= char <= "\u11ff":
            return cut
    return len(text)


@cache
def _long_marks() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code)))
    return re.compile(f"([{marks}]{{{MARKS_IN_A_ROW}}})[{marks}]+")
