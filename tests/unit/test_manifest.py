"""Manifests, whatever is in them and wherever they are cut."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches import NewItem
from pipeline.errors import BadRequest
from pipeline.manifest import LINE, Format, ManifestReader

ID = UUID("0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55")
SHA = "AB" * 32


def read(body: bytes, format: Format = Format.CSV, cut: int = 0) -> list[NewItem]:  # noqa: A002
    reader = ManifestReader(format)
    found = [*reader.feed(body[:cut]), *reader.feed(body[cut:])]
    return [*found, *reader.close()]


CSV = (
    "\ufeffKey, version ,name,TYPE,sha256,note\r\n"
    f'drop/acme/ü.pdf,v1,"Rechnung, Mai.pdf",Application/PDF,{SHA},x\r\n'
    "\r\n"
    "drop/acme/b.pdf\n"
    'drop/acme/c.pdf,,"say ""hi"""'
).encode()


@pytest.mark.parametrize("cut", range(0, len(CSV), 7))
def test_a_csv_is_read_wherever_it_is_cut(cut: int) -> None:
    assert read(CSV, cut=cut) == [
        NewItem("drop/acme/ü.pdf", None, "v1", "Rechnung, Mai.pdf", "application/pdf", SHA.lower(), 2),
        NewItem("drop/acme/b.pdf", line=4),
        NewItem("drop/acme/c.pdf", name='say "hi"', line=5),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiters_that_spreadsheets_write(delimiter: str) -> None:
    [item] = read(f"id{delimiter}name\n{ID}{delimiter}a.pdf\n".encode())
    assert (item.document_id, item.name) == (ID, "a.pdf")


def test_ndjson_is_objects_or_bare_keys() -> None:
    lines = [{"key": "drop/a/b", "size": 3}, "drop/a/c", {"id": str(ID), "name": None}]
    body = "\n".join(map(json.dumps, lines)).encode()
    assert read(body, Format.NDJSON) == [
        NewItem("drop/a/b", line=1),
        NewItem("drop/a/c", line=2),
        NewItem(document_id=ID, line=3),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'"unfinished', "quotes"),
        (b"a,b,c,d,e,f,g", "7 values"),
        (b"\xff\xfe", "UTF-8"),
        (b",", "one of them"),
        (b"drop/a,no-uuid", "one of them"),
        (b",no-uuid", "given out here"),
        (b"drop/a,,,nothing", "media type"),
        (b"drop/a,,,,123", "hexadecimal"),
        (b"drop/a,,a\0b", "cannot be kept"),
        (b"k" * 1025, "longer than 1024"),
        (b"drop/a,," + b"n" * 1025, "longer than 1024"),
        (b"x" * (LINE + 1), f"longer than {LINE}"),
        (b"x" * (3 * LINE), f"longer than {LINE}"),
    ],
)
def test_a_bad_line_is_told_by_its_number_and_stops_no_other(line: bytes, problem: str) -> None:
    body = b"key,id,name,type,sha256,version\ndrop/a/1\n" + line + b"\ndrop/a/3\n"
    for cut in (0, 40, len(body) - 12):
        first, bad, last = read(body, cut=cut)
        assert (first.key, first.line, last.key, last.line) == ("drop/a/1", 2, "drop/a/3", 4)
        assert bad.line == 3
        assert problem in (bad.problem or "")
        assert (bad.key, bad.document_id) == (None, None)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not JSON"),
        (b"[1]", "neither"),
        (b'{"key": 1}', "no text"),
        (b'{"key": "a", "name": ["b"]}', "no text"),
        (b'{"key": "\\ud800"}', "cannot be kept"),
        (b"[" * 5000, "not JSON"),
        (b"{}", "one of them"),
    ],
)
def test_a_bad_line_of_json(line: bytes, problem: str) -> None:
    [bad, good] = read(line + b'\n{"key": "drop/a"}', Format.NDJSON)
    assert problem in (bad.problem or "")
    assert good.key == "drop/a"


@pytest.mark.parametrize("body", [b"name,size\na,1\n", b"drop/acme/a.pdf\n", b'"key\n', b"\x00\n"])
def test_a_csv_without_a_header_is_no_manifest(body: bytes) -> None:
    with pytest.raises(BadRequest, match="first line"):
        read(body)


def test_nothing_at_all_is_no_item() -> None:
    assert read(b"") == read(b"key\n") == read(b"\n\n", Format.NDJSON) == []


@given(st.binary(max_size=300), st.integers(0, 300), st.sampled_from(Format))
def test_any_bytes_give_the_same_items_wherever_they_are_cut(body: bytes, cut: int, format: Format) -> None:  # noqa: A002
    body = b"key,id\n" + body if format is Format.CSV else body
    assert read(body, format, cut) == read(body, format)


def test_a_long_manifest_takes_no_more_memory_than_a_short_one() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"key,name\n"
        for at in range(0, 50_000, 1000):
            yield b"".join(b"drop/acme/%d.pdf,file %d.pdf\n" % (number, number) for number in range(at, at + 1000))

    reader, many = ManifestReader(Format.CSV), 0
    tracemalloc.start()
    try:
        for piece in pieces():
            many += sum(1 for _ in reader.feed(piece))
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert many == 50_000
