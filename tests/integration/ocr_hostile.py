"""Runs inside the sandbox for tests/integration/test_ocr_in_process.py: a Tesseract in process that goes wrong."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scanners import ocr_page
from scanners.ocr_in_process import InProcess, _Loaded
from scanners.sandbox_child import sandboxed

DOUBTFUL = "5\t1\t1\t1\t1\t1\t0\t0\t9\t9\t50.0\tfirst\n"


def _eat() -> None:
    held = []
    while True:
        held.append(bytes(1 << 20))


def _fill() -> None:
    with Path("full").open("wb") as file:
        while True:
            file.write(bytes(1 << 20))


def _leave() -> None:
    os.setsid()
    subprocess.run(["sleep", "1000"], check=False)


def _lie() -> None:
    for base in ("turned90-3", "smooth-3"):
        Path(base + ".txt").write_text("half")
        Path(base + ".tsv").write_text(DOUBTFUL.replace("50.0\tfirst", "95.0\tsomething longer"))
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS: dict[str, Callable[[], object]] = {
    "hangs": lambda: ctypes.CDLL(None).sleep(1000),  # in C, where no signal of Python's gets through
    "leaves": _leave,
    "crashes": lambda: ctypes.string_at(0),
    "aborts": lambda: ctypes.CDLL(None).abort(),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "eats memory": _eat,
    "fills the disk": _fill,
    "raises": lambda: 1 // 0,
    "exits": lambda: os._exit(0),
    "is killed when all is written": _lie,
}


class Faulty:
    """Reads a word of which it is in doubt; on the closer look it goes wrong."""

    def __init__(self, fault: str) -> None:
        self._fault = fault

    def SetPageSegMode(self, mode: int) -> None:  # noqa: N802 - Tesseract's names
        pass

    def SetVariable(self, name: str, value: str) -> bool:  # noqa: N802
        return True

    def ProcessPages(self, base: str, page: str) -> bool:  # noqa: N802
        if page != "page.tif":
            FAULTS[self._fault]()
        Path(base + ".txt").write_text("first")
        return True

    def GetTSVText(self, _: int) -> str:  # noqa: N802
        return DOUBTFUL


class Turned:
    """Says which way up the page is, but not by a number of its own."""

    def SetImageBytes(self, *_: object) -> None:  # noqa: N802
        pass

    def SetSourceResolution(self, _: int) -> None:  # noqa: N802
        pass

    def DetectOrientationScript(self) -> dict[str, int]:  # noqa: N802
        return {"orient_deg": 270}


@sandboxed
def read_with_fault(args: dict[str, Any], _: list[int]) -> dict[str, Any]:
    """What is made of a page whose closer looks end by args["fault"]."""
    from PIL import Image

    Image.new("L", (20, 20), 255).save("page.tif")
    engine = InProcess(_Loaded(("eng",), "5", Faulty(args["fault"]), Turned()), time.monotonic() + args["seconds"])
    reading = ocr_page._read(engine, Path("page.tif"), enlarged=False, pdf=False)
    return {"text": reading.text, "turned": reading.turned}
