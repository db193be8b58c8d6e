"""Whatever a name holds, it becomes one header of printable ASCII that says the name."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.disposition import attachment

pytestmark = [pytest.mark.asvs("5.4.1"), pytest.mark.asvs("5.4.2"), pytest.mark.cwe("CWE-113")]


@pytest.mark.parametrize(
    "name", ["a.pdf", "é\"quote'.pdf", "a\r\nSet-Cookie: x.pdf", "\u202egpj.exe", "📄.pdf", "100%.txt"]
)
def test_known_nasty_names(name: str) -> None:
    check(name)


@given(st.text(min_size=1, max_size=300).filter(lambda text: text.encode("utf-8", "replace").decode() == text))
def test_any_name(name: str) -> None:
    check(name)


def check(name: str) -> None:
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    plain, _, extended = header.removeprefix('attachment; filename="').partition("\"; filename*=UTF-8''")
    assert '"' not in plain
    assert unquote(extended) == name


def test_no_name_is_still_an_attachment() -> None:
    assert attachment(None) == "attachment"
