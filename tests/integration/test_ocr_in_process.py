"""Tesseract in the sandbox's own processes: it reads what the program reads, and its faults cost as little."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from scanners import ocr_in_process
from scanners.ocr import OcrOptions, Recognition, Recognizer, reading_sandbox
from scanners.ocr_tesseract import Tesseract
from scanners.ocr_values import PRELOAD
from scanners.sandbox import Limits, Sandbox
from tests.integration.ocr_hostile import FAULTS
from tests.integration.ocr_samples import WORDS, noisy, page, recall, sample, scan
from tests.servers.process import need

OPTIONS = OcrOptions(jobs=2)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    need("tesseract", "apt install tesseract-ocr")
    made = reading_sandbox(OPTIONS.languages)
    yield made
    made.close()


@pytest.fixture(scope="module")
def hostile() -> Iterator[Sandbox]:
    made = Sandbox(modules=("tests.integration.ocr_hostile",))
    yield made
    made.close()


def engine_of(recognizer: Recognizer) -> str:
    fitness = recognizer.check()
    assert fitness.fit
    assert fitness.engine is not None
    return fitness.engine.version


def read(recognizer: Recognizer, path: Path, into: Path) -> tuple[str, Recognition]:
    into.mkdir()
    found = recognizer.recognize(sample(path), "application/pdf", into)
    assert found.text is not None
    return found.text.read_text(), found


def test_it_says_which_engine_reads(sandbox: Sandbox) -> None:
    assert engine_of(Recognizer(OPTIONS, sandbox)).endswith("(in process)")
    program = need("tesseract", "apt install tesseract-ocr")
    assert engine_of(Recognizer(OPTIONS, sandbox, tesseract=str(program))).endswith("(command line)")
    # Languages that this sandbox has not loaded are read all the same.
    assert engine_of(Recognizer(replace(OPTIONS, languages=("eng", "osd")), sandbox)).endswith("(command line)")


@pytest.mark.parametrize("searchable", [False, True])
def test_both_engines_read_the_same(sandbox: Sandbox, tmp_path: Path, searchable: bool) -> None:
    program = str(need("tesseract", "apt install tesseract-ocr"))
    pages = [page(), noisy(page()), page().rotate(90, expand=True), page(WORDS[:1], height=120).rotate(180)]
    path = scan(tmp_path / "pages.pdf", pages)
    options = replace(OPTIONS, searchable_pdf=searchable)
    ours, found = read(Recognizer(options, sandbox), path, tmp_path / "ours")
    theirs, other = read(Recognizer(options, sandbox, tesseract=program), path, tmp_path / "theirs")
    assert (found.engine.version.split()[1], other.engine.version.split()[1]) == ("(in", "(command")
    for mine, plain in zip(ours.split("\f"), theirs.split("\f"), strict=True):
        assert recall([plain], mine) > 0.9
    assert [text.chars > 0 for text in found.pages] == [True] * 4
    assert [text.confidence for text in found.pages] == pytest.approx([text.confidence for text in other.pages], abs=9)
    assert (found.pdf is not None) is searchable


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_reading_stands_whatever_a_closer_look_does(hostile: Sandbox, tmp_path: Path, fault: str) -> None:
    limits = Limits(seconds=30, memory=256 << 20, file_bytes=4 << 20, processes=4)
    # Only what hangs needs a short time; the rest would lose its fault to it on a busy machine.
    args = {"fault": fault, "seconds": 2 if fault in {"hangs", "leaves"} else 25}
    said = hostile.call("read_with_fault", args, scratch=tmp_path, limits=limits)
    assert said == {"text": "first", "turned": 0}
    assert hostile._zygote is not None
    assert psutil.Process(hostile._zygote.process.pid).children(recursive=True) == []


def test_what_takes_too_long_is_a_problem_of_its_page(sandbox: Sandbox, tmp_path: Path) -> None:
    dense = page(WORDS * 20, width=2480, height=3508, size=16)
    path = scan(tmp_path / "dense.pdf", [dense], dpi=300)
    into = tmp_path / "into"
    into.mkdir()
    found = Recognizer(replace(OPTIONS, page_seconds=0.2), sandbox).recognize(sample(path), "application/pdf", into)
    assert (found.text, found.complete) == (None, False)
    assert found.pages[0].problem
    assert sandbox._zygote is not None
    assert psutil.Process(sandbox._zygote.process.pid).children(recursive=True) == []


def test_trained_data_that_is_broken_ends_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    need("tesseract", "apt install tesseract-ocr")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("eng", "osd"):
            (Path(folder) / f"{name}.traineddata").write_bytes(b"nothing of the kind" * 100)
        Path(folder).chmod(0o755)
        monkeypatch.setenv("TESSDATA_PREFIX", folder)
        broken = reading_sandbox(OPTIONS.languages)
        try:
            assert engine_of(Recognizer(OPTIONS, broken)).endswith("(command line)")
        finally:
            broken.close()


def test_without_the_library_the_command_line_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr_in_process, "_loaded", None)
    monkeypatch.setenv(PRELOAD, "eng")
    monkeypatch.setitem(sys.modules, "tesserocr", None)
    ocr_in_process.prepare()
    assert isinstance(ocr_in_process.engine_for("tesseract", ["eng"], 0.0), Tesseract)
