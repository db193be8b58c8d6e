"""The text of office documents (OOXML, ODF), straight from the XML in the zip: no DTD, no entities, all of it bounded.

Runs in the sandbox. Expat streams; nothing is built as a tree. Slides and sheets become pages.
"""

from __future__ import annotations

import codecs
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO
from xml.parsers import expat

from scanners.ocr_text import TextFull, TextOut
from scanners.sandbox_child import sandboxed

CHUNK = 1 << 16
for _codec in ("cp437", "utf-16-le", "utf-16-be"):  # of names in a zip, and of XML
    codecs.lookup(_codec)  # loaded here because the sandbox may not be able to read our files

MAX_PARTS = 5000  # slides or sheets that are read
MAX_DEPTH = 256  # real documents nest a few dozen elements
MAX_SPACES = 256  # one ODF element may ask for any number of spaces

OOXML = "application/vnd.openxmlformats-officedocument."
ODF = "application/vnd.oasis.opendocument."
_PARTS: dict[str, str] = {
    OOXML + "wordprocessingml.document": r"word/(?:document|(?:header|footer)\d*|footnotes|endnotes)\.xml",
    OOXML + "presentationml.presentation": r"ppt/slides/slide\d+\.xml",
    OOXML + "spreadsheetml.sheet": r"xl/worksheets/sheet\d+\.xml",
    ODF + "text": r"content\.xml",
    ODF + "spreadsheet": r"content\.xml",
    ODF + "presentation": r"content\.xml",
}
TYPES = frozenset(_PARTS)


class NotReadable(Exception):
    """The container or its XML is damaged, or is built in a way that office programs do not build."""


@dataclass
class _Budget:
    left: int  # unpacked bytes
    strings: int = 1 << 26  # characters of a workbook's shared strings, which must be held


@sandboxed
def office_text(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Read the document in fds[0], of type args["media_type"], and write its text to fds[1].

    Gives {"pages", "chars"}, with {"problem"} where that is not all of it.
    """
    with os.fdopen(os.dup(fds[0]), "rb") as source, os.fdopen(os.dup(fds[1]), "w", encoding="utf-8") as file:
        out = TextOut(file, args["max_text"])
        try:
            return {"pages": read_office(source, args["media_type"], out, args["max_unpacked"]), "chars": out.chars}
        except TextFull:
            return {"pages": 0, "chars": out.chars, "problem": "its text is longer than is kept"}
        except NotReadable as exc:
            return {"pages": 0, "chars": out.chars, "problem": str(exc)}


def read_office(source: BinaryIO, media_type: str, out: TextOut, max_unpacked: int) -> int:
    """Write the document's text to `out`; the number of pages (slides, sheets) it has.

    Raises NotReadable, and TextFull where `out` takes no more.
    """
    budget = _Budget(max_unpacked)
    try:
        with zipfile.ZipFile(source) as container:
            names = [name for name in container.namelist() if re.fullmatch(_PARTS[media_type], name)]
            names = sorted(dict.fromkeys(names), key=_reading_order)[:MAX_PARTS]
            paged = media_type.endswith(("presentationml.presentation", "spreadsheetml.sheet"))
            strings = _shared_strings(container, budget) if media_type.endswith("spreadsheetml.sheet") else []
            pages = 0
            for number, name in enumerate(names):
                if number and paged:
                    out.write("\f")
                reader = _Reader(out, media_type, strings)
                _parse(container, name, budget, reader.start, reader.end, reader.text)
                pages += max(reader.pages, 1 if paged or not number else 0)
            out.flush()
    except (TextFull, NotReadable):
        raise
    except Exception as exc:  # zipfile lets through what zlib, lzma, bz2, struct and expat raise
        raise NotReadable(f"it is damaged ({type(exc).__name__})") from exc
    return pages


def _reading_order(name: str) -> tuple[int, int, str]:
    """Body first, notes and headers after it; numbered parts by number, not by spelling."""
    number = re.search(r"(\d+)\.xml$", name)
    return (0 if "document" in name or "content" in name else 1, int(number[1][:9]) if number else 0, name)


def _parse(
    container: zipfile.ZipFile,
    name: str,
    budget: _Budget,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], None],
) -> None:
    depth = 0

    def opened(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise NotReadable("its XML is nested too deep")
        start(_local(tag), {_local(key): value for key, value in attributes.items()})

    def closed(tag: str) -> None:
        nonlocal depth
        depth -= 1
        end(_local(tag))

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = opened, closed, text
    # No office format has a DTD: one is there to blow up entities or to reach for other files.
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    with container.open(name) as member:
        while piece := member.read(CHUNK):
            budget.left -= len(piece)
            if budget.left < 0:
                raise NotReadable("it unpacks to more than is allowed")
            parser.Parse(piece, False)
        parser.Parse(b"", True)


def _refuse(*_: object) -> int:
    raise NotReadable("its XML declares a document type")


def _local(tag: str) -> str:
    return tag.rpartition(" ")[2]


def _shared_strings(container: zipfile.ZipFile, budget: _Budget) -> list[str]:
    found: list[str] = []
    pieces: list[str] = []
    reading: list[str] = []  # open elements that matter: `t` is text, `rPh` is its pronunciation

    def start(tag: str, _: dict[str, str]) -> None:
        if tag in {"t", "rPh"}:
            reading.append(tag)

    def end(tag: str) -> None:
        if tag in {"t", "rPh"}:
            reading.pop()
        elif tag == "si":
            found.append("".join(pieces))
            pieces.clear()

    def text(piece: str) -> None:
        if reading == ["t"]:
            budget.strings -= len(piece)
            if budget.strings < 0:
                raise NotReadable("its shared strings are too many")
            pieces.append(piece)

    if "xl/sharedStrings.xml" in container.namelist():
        _parse(container, "xl/sharedStrings.xml", budget, start, end, text)
    return found


# Elements whose content the reader of the document does not see, or would see twice.
_SKIPPED = frozenset({"Fallback", "tracked-changes", "rPh", "annotation", "f"})
_RUNS = frozenset({"t", "v"})  # OOXML: the text of a run, the value of a cell
_PARAGRAPHS = frozenset({"p", "h"})
_MARKS = {"br": "\n", "cr": "\n", "line-break": "\n", "tab": "\t"}
_CELLS = frozenset({"c", "tc", "table-cell"})
_ROWS = frozenset({"row", "tr", "table-row"})
_PAGES = {ODF + "presentation": "page", ODF + "spreadsheet": "table"}


class _Reader:
    """What one part says, in its own order."""

    def __init__(self, out: TextOut, media_type: str, strings: list[str]) -> None:
        self.pages = 0  # that elements of this part begin
        self._out, self._strings = out, strings
        self._text_in = _PARAGRAPHS if media_type.startswith(ODF) else _RUNS
        self._page_tag = _PAGES.get(media_type, "")
        self._skip = self._open = 0  # depth inside skipped elements; inside elements whose characters are text
        self._shared: list[bool] = []  # for each open cell: whether it holds the number of a shared string
        self._index = ""
        self._gap = ""  # between paragraphs of one cell: only written when there is a next one

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._skip or tag in _SKIPPED:
            self._skip += 1
        elif tag in self._text_in:
            self._open += 1
        elif tag == "s" and self._open:  # ODF: a number of spaces
            self.text(" " * min(int(attributes.get("c", "1")), MAX_SPACES))
        elif tag in _CELLS:
            self._shared.append(attributes.get("t") == "s")
        elif tag == self._page_tag:
            self.pages += 1
            if self.pages > 1:
                self._out.write("\f")

    def end(self, tag: str) -> None:
        if self._skip:
            self._skip -= 1
            return
        if tag in self._text_in:
            self._open -= 1
        if tag in _PARAGRAPHS:
            if self._shared:
                self._gap = " "
            else:
                self._out.write("\n")
        elif tag in _MARKS:
            self._out.write(_MARKS[tag])
        elif tag == "v" and self._index:
            self._look_up()
        elif tag in _CELLS and self._shared:
            self._shared.pop()
            self._gap = ""
            self._out.write("\t")
        elif tag in _ROWS:
            self._out.write("\n")

    def text(self, piece: str) -> None:
        if self._skip or not self._open:
            return
        if self._shared and self._shared[-1]:
            self._index = (self._index + piece)[:32]
            return
        if self._gap:
            self._out.write(self._gap)
            self._gap = ""
        self._out.write(piece)

    def _look_up(self) -> None:
        index, self._index = self._index.strip(), ""
        if index.isascii() and index.isdigit() and len(index) < 10 and int(index) < len(self._strings):
            self._out.write(self._strings[int(index)])
