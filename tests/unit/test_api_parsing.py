"""Names, digests, keys, ranges and boundaries: what the API reads before it believes anything."""

from __future__ import annotations

import base64
import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.auth import AT_MOST, KeyCache
from ingest_api.objects import _range
from ingest_api.problems import RangeNotSatisfiable
from ingest_api.uploads.digests import Checks, digests_in
from ingest_api.uploads.form import boundary_of
from ingest_api.uploads.idempotency import idempotency_key
from ingest_api.uploads.names import declared_type, name_in_disposition, name_of_raw
from pipeline.disposition import attachment
from pipeline.errors import BadRequest, DigestMismatch
from pipeline.names import LONGEST, clean_name
from pipeline.services import Services
from pipeline.settings import Settings

BODY = b"what was sent"
SHA256 = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
SHA512 = base64.b64encode(hashlib.sha512(BODY).digest()).decode()


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\report.pdf", "report.pdf"),
        ("..", None),
        (".", None),
        ("", None),
        ("/", None),
        ("   ", None),
        ("\x00\r\n\t", None),
        ("a\x00b\r\nSet-Cookie: x", "abSet-Cookie: x"),
        ("invoice\u202egpj.exe", "invoicegpj.exe"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("e\x00\u0301.txt", "\u00e9.txt"),  # composes once the NUL between is gone
        ("報告書 📄.pdf", "報告書 📄.pdf"),
        ("bad\ud800.txt", "bad.txt"),
        (None, None),
    ],
)
@pytest.mark.asvs("5.4.1")
@pytest.mark.cwe("CWE-451")
def test_names_lose_what_could_mislead(raw: str | None, clean: str | None) -> None:
    assert clean_name(raw) == clean


@pytest.mark.parametrize("letter", ["a", "é", "漢", "📄"])
def test_a_long_name_is_cut_and_keeps_its_extension(letter: str) -> None:
    cut = clean_name(letter * 10_000 + ".pdf")
    assert cut is not None
    assert len(cut.encode()) <= LONGEST
    assert len(cut.encode()) > LONGEST - 4
    assert cut.endswith(letter + ".pdf")


def test_an_extension_that_is_none_is_cut_too() -> None:
    assert clean_name("x." + "y" * 10_000) == "x." + "y" * (LONGEST - 2)


@given(st.text(alphabet=st.characters(codec=None), max_size=600))
@pytest.mark.asvs("5.3.2")
def test_cleaning_is_final_and_within_bounds(raw: str) -> None:
    name = clean_name(raw)
    assert clean_name(name) == name
    if name is not None:
        assert 0 < len(name.encode()) <= LONGEST
        assert not {"/", "\\", "\x00", "\r", "\n", "\u202e"} & set(name)
        assert unicodedata.is_normalized("NFC", name)


@given(st.text(alphabet=st.characters(codec=None), max_size=300))
@pytest.mark.asvs("5.4.2")
@pytest.mark.cwe("CWE-113")
def test_a_disposition_is_one_header_that_leads_back_to_the_name(raw: str) -> None:
    name = clean_name(raw)
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    assert name_in_disposition(header) == name


@pytest.mark.parametrize(
    ("headers", "query", "name"),
    [
        ({"content-disposition": 'attachment; filename="a b.txt"'}, {}, "a b.txt"),
        ({"content-disposition": "attachment; filename=a.txt"}, {}, "a.txt"),
        ({"content-disposition": "attachment; filename=\"x\"; filename*=UTF-8''%E6%BC%A2.txt"}, {}, "漢.txt"),
        ({"content-disposition": "attachment; filename*=iso-8859-1'en'%A3.txt"}, {}, "£.txt"),
        ({"content-disposition": "attachment; filename*=utf-8''%ff%fe%00.txt"}, {}, "��.txt"),
        ({"content-disposition": 'attachment; filename="' + "漢".encode().decode("latin-1") + '.txt"'}, {}, "漢.txt"),
        ({"content-disposition": 'attachment; filename="\xe9.txt"'}, {}, "é.txt"),
        ({"content-disposition": "attachment"}, {"name": "ignored.txt"}, None),
        ({"x-file-name": "%E6%BC%A2.txt"}, {}, "漢.txt"),
        ({}, {"name": "../b.txt"}, "b.txt"),
        ({}, {}, None),
    ],
)
def test_a_raw_body_is_named_in_three_ways(headers: dict[str, str], query: dict[str, str], name: str | None) -> None:
    assert name_of_raw(headers, query) == name


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("Text/Plain; charset=utf-8", "text/plain"),
        ("application/x-www-form-urlencoded", None),
        ("application/octet-stream", None),
        ("nonsense", None),
        ("a/b/c", None),
        ("text/plain\x00", None),
        ("x" * 300 + "/y", None),
        ("", None),
        (None, None),
    ],
)
def test_a_declared_type_is_one_or_none(value: str | None, kind: str | None) -> None:
    assert declared_type(value) == kind


@pytest.mark.parametrize(
    "headers",
    [
        {"content-digest": f"sha-256=:{SHA256}:"},
        {"content-digest": f"sha-512=:{SHA512}:"},
        {"repr-digest": f"sha-256=:{SHA256}:, sha-512=:{SHA512}:"},
        {"digest": f"SHA-256={SHA256}"},
        {"digest": f"sha-512={SHA512},md5=HUXZLQLMuI/KZ5KDcJPcOA=="},
        {"content-digest": "md5=:HUXZLQLMuI/KZ5KDcJPcOA==:, unixsum=:AAA=:"},
        {},
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_digests_that_match_pass(headers: dict[str, str], alone: bool) -> None:
    checks = Checks(digests_in(headers), alone=alone)
    checks.update(BODY[:5])
    checks.update(BODY[5:])
    checks.verify(b"" if alone else hashlib.sha256(BODY).digest())


@pytest.mark.parametrize(
    "headers",
    [
        {"content-digest": f"sha-256=:{SHA256}:"},
        {"content-digest": f"sha-512=:{SHA512}:"},
        {"repr-digest": f"md5=:HUXZLQLMuI/KZ5KDcJPcOA==:, sha-512=:{SHA512}:"},
        {"digest": f"sha-256={SHA256}"},
    ],
)
def test_digests_of_other_bytes_do_not(headers: dict[str, str]) -> None:
    checks = Checks(digests_in(headers))
    checks.update(b"other")
    with pytest.raises(DigestMismatch):
        checks.verify(hashlib.sha256(b"other").digest())


@pytest.mark.parametrize(
    "headers",
    [
        {"content-digest": "nonsense"},
        {"content-digest": f"sha-256={SHA256}"},
        {"content-digest": "sha-256=:AAAA:"},
        {"content-digest": f"sha-256=:{SHA512}:"},
        {"content-digest": "sha-256=:!!!!:"},
        {"content-digest": ","},
        {"digest": "sha-256="},
    ],
)
def test_digests_that_cannot_be_read_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        digests_in(headers)


@pytest.mark.parametrize(
    ("value", "key"),
    [('"8e03978e-40d5"', "8e03978e-40d5"), ("8e03978e", "8e03978e"), (r'"a\"b\\c"', r"a\"b\\c".replace("\\", "", 1))],
)
def test_idempotency_keys_in_both_forms(value: str, key: str) -> None:
    found = idempotency_key({"idempotency-key": value})
    assert found is not None
    assert found == (key if '"' not in key else 'a"b\\c')


@pytest.mark.parametrize("value", ["", '""', '"', "a b", "x" * 256, "é", "a\x00b", '"a"b"'])
def test_idempotency_keys_that_cannot_be(value: str) -> None:
    with pytest.raises(BadRequest):
        idempotency_key({"idempotency-key": value})


def test_what_is_a_form() -> None:
    assert boundary_of("multipart/form-data; boundary=abc") == "abc"
    assert boundary_of('Multipart/Form-Data; boundary="a b"') == "a b"
    assert boundary_of("text/plain") is None
    assert boundary_of(None) is None


@pytest.mark.parametrize(
    "value",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 71,
        'multipart/form-data; boundary="é"',
        "multipart/mixed; boundary=abc",
    ],
)
def test_forms_without_a_usable_boundary(value: str) -> None:
    with pytest.raises(BadRequest):
        boundary_of(value)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-0", (0, 1, 206)),
        ("bytes=2-", (2, 10, 206)),
        ("bytes=-3", (7, 10, 206)),
        ("bytes=-99", (0, 10, 206)),
        ("bytes=5-99", (5, 10, 206)),
        ("bytes=5-2", (0, 10, 200)),
        ("bytes=-", (0, 10, 200)),
        ("bytes=0-1,3-4", (0, 10, 200)),
        ("lines=1-2", (0, 10, 200)),
        ("bytes=" + "9" * 30 + "-", (0, 10, 200)),
    ],
)
def test_single_ranges(header: str, wanted: tuple[int, int, int]) -> None:
    assert _range(header, 10) == wanted


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_ranges_beyond_the_end(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        _range(header, 10)


def test_keys_tried_at_random_push_out_the_oldest_and_no_more() -> None:
    now = [0.0]
    cache = KeyCache(Services(Settings()), clock=lambda: now[0])
    for number in range(AT_MOST + 10):
        cache.keep(str(number), None)
    assert len(cache._kept) == AT_MOST
    assert cache.kept("9") == (False, None)
    assert cache.kept("10") == (True, None)
    now[0] += 3600
    assert cache.kept("10") == (False, None)
