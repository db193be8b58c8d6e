"""A Tesseract that hangs, forks, eats memory, dies or lies: its page says so, the other pages are read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scanners.ocr import OUT_OF_TIME, SANDBOXED, OcrOptions, Recognition, Recognizer
from scanners.sandbox import Sandbox
from tests.integration.ocr_samples import WORDS, is_kept_text, page, recall, sample, scan
from tests.servers.process import need

MARK = "airlock-ocr-fault"  # an argument that tells our strays from everybody else's
# The narrow page is the one that goes wrong: its pixels are a small file.
SCRIPT = """#!/bin/sh
case "$1" in --version|--list-langs) exec {real} "$@";; esac
[ "$(stat -c %s "$1")" -gt 100000 ] && exec {real} "$@"
{fault}
"""
FAULTS = {
    "hangs": f'exec sh -c "while :; do sleep 1000; done" {MARK}',
    "spins": f'exec sh -c "while :; do :; done" {MARK}',
    "forks": f'bomb() {{ sh -c "sleep 1000; :" {MARK} & bomb & }}; bomb; bomb; wait',
    "leaves its group": f'setsid sh -c "sleep 1000; :" {MARK} & setsid sh -c "sleep 1000; :" {MARK} & wait',
    "eats memory": "exec tail /dev/zero",
    "crashes": "kill -SEGV $$",
    "fails": "exit 1",
    "is killed": "kill -KILL $$",
    "writes nothing": "exit 0",
    "fills the disk": 'exec cat /dev/zero > "$2.txt"',
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(modules=SANDBOXED)
    yield made
    made.close()


@pytest.fixture
def programs() -> Iterator[Path]:
    """A directory that the sandbox's user can reach, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def recognize(sandbox: Sandbox, programs: Path, tmp_path: Path, fault: str, **options: float) -> Recognition:
    real = need("tesseract", "apt install tesseract-ocr")
    program = programs / "tesseract"
    program.write_text(SCRIPT.format(real=real, fault=fault))
    program.chmod(0o755)
    pages = [page(WORDS[:1], height=120), page(WORDS[1:2], width=300, height=120), page(WORDS[2:3], height=120)]
    path = scan(tmp_path / "three.pdf", pages, dpi=200)
    into = tmp_path / "into"
    into.mkdir()
    made = OcrOptions(jobs=2, memory=512 << 20, **{"page_seconds": 5.0, **options})  # type: ignore[arg-type]
    return Recognizer(made, sandbox, tesseract=str(program)).recognize(sample(path), "application/pdf", into)


def strays() -> list[int]:
    return [process.pid for process in psutil.process_iter(["cmdline"]) if MARK in (process.info["cmdline"] or ())]


@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_page_costs_one_page(sandbox: Sandbox, programs: Path, tmp_path: Path, fault: str) -> None:
    found = recognize(sandbox, programs, tmp_path, FAULTS[fault])
    assert [text.source for text in found.pages] == ["ocr", "none", "ocr"]
    assert found.pages[1].problem
    assert found.problem == f"page 2: {found.pages[1].problem}"
    assert not found.complete
    assert found.text is not None
    first, second, third = found.text.read_text().split("\f")
    assert (recall(WORDS[:1], first), second, recall(WORDS[2:3], third)) == (1.0, "", 1.0)
    assert strays() == []
    assert {left.name for left in (tmp_path / "into").iterdir()} == {"text.txt"}


@pytest.mark.cwe(176)
def test_bytes_that_are_no_text_do_not_reach_the_text(sandbox: Sandbox, programs: Path, tmp_path: Path) -> None:
    lie = "printf 'ok\\377\\376\\000\\033[31m\\014\\360\\237' > \"$2.txt\"; printf 'x\\377' > \"$2.tsv\""
    found = recognize(sandbox, programs, tmp_path, lie)
    assert found.complete
    assert found.text is not None
    text = found.text.read_text(encoding="utf-8")
    assert is_kept_text(text)
    assert text.split("\f")[1] == "ok[31m\n"


def test_a_document_that_takes_too_long_keeps_what_was_read(sandbox: Sandbox, programs: Path, tmp_path: Path) -> None:
    found = recognize(sandbox, programs, tmp_path, FAULTS["hangs"], page_seconds=60.0, document_seconds=3.0)
    assert not found.complete
    assert found.pages[1].problem
    assert found.text is not None


def test_pages_that_no_time_is_left_for(sandbox: Sandbox, programs: Path, tmp_path: Path) -> None:
    found = recognize(sandbox, programs, tmp_path, "exit 1", document_seconds=0.001)
    assert not found.complete
    assert found.text is None
    assert found.pages == () or {text.problem for text in found.pages} == {OUT_OF_TIME}
