"""Tesseract inside the sandbox's own processes: loaded once in the zygote, forked for each reading.

So a page pays for no program's start and no model's loading. A reading has a process of its own all the same, as it had
with the command line: what crashes, hangs or eats memory in it is a failed reading, and an earlier one stands.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from scanners.ocr_tesseract import PageFailed, Reading, Tesseract, ask_program, collect
from scanners.ocr_values import PRELOAD
from scanners.sandbox_child import die_with_parent, sandboxed

DEFAULT_PROGRAM = "tesseract"  # only this one has a twin in process: whoever names another program gets that program
DEBIAN = "tesseract-ocr/*/tessdata"
LIST_SECONDS = 15.0
ORIENTATION_ONLY = 0  # a page segmentation mode


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the zygote has ready."""

    languages: tuple[str, ...]
    version: str
    reader: Any  # tesserocr.PyTessBaseAPI with the languages' models
    compass: Any  # another with the model that tells orientation


_loaded: _Loaded | None = None  # filled by `prepare`, before the first fork and never after


def prepare() -> None:
    """In the zygote, before it forks: load the models that PRELOAD names. Without them the command line reads."""
    global _loaded
    languages = tuple(filter(None, os.environ.get(PRELOAD, "").split("+")))
    try:
        _loaded = _load(languages) if languages else None
    except Exception:  # noqa: BLE001 - whatever is missing: `tesseract_facts` says which engine it is then
        _loaded = None


def engine_for(program: str, languages: Sequence[str], deadline: float) -> InProcess | Tesseract:
    """What reads with these settings: the same answer for every page of a zygote."""
    if _loaded is not None and program == DEFAULT_PROGRAM and _loaded.languages == tuple(languages):
        return InProcess(_loaded, deadline)
    return Tesseract(program, tuple(languages), deadline)


@sandboxed
def tesseract_facts(args: dict[str, Any], _: list[int]) -> dict[str, Any]:
    """Version, way and languages of what reads args["languages"] with args["program"]; {"problem"} if it won't say."""
    engine = engine_for(args["program"], args["languages"], time.monotonic() + args["seconds"])
    if isinstance(engine, Tesseract):
        return ask_program(engine) | {"how": "command line"}
    return {"version": engine.loaded.version, "languages": [*engine.loaded.languages, "osd"], "how": "in process"}


@dataclass(frozen=True, slots=True)
class InProcess:
    """Does what `Tesseract` does, without a program. `deadline` is on time.monotonic()'s clock."""

    loaded: _Loaded
    deadline: float

    def read(self, page: Path, *, mode: int, turned: int = 0, pdf: bool = False) -> Reading:
        """Recognize the TIFF file `page`. `mode` is Tesseract's page segmentation mode. Raises PageFailed."""
        base = f"{page.stem}-{mode}"
        self._apart(lambda: self._recognize(page, base, mode, pdf))
        return collect(base, turned, pdf)

    def orientation(self, page: Path) -> int:
        """By how many degrees (clockwise) the page has to be turned to stand upright. Raises PageFailed."""
        said = Path(f"{page.stem}-osd.txt")
        self._apart(lambda: self._orient(page, said))
        return int(said.read_text())

    def _recognize(self, page: Path, base: str, mode: int, pdf: bool) -> None:
        reader = self.loaded.reader
        reader.SetPageSegMode(mode)
        reader.SetVariable("tessedit_create_pdf", str(int(pdf)))
        # The way the program takes: one recognition gives the text, the PDF, and then the table.
        if not reader.ProcessPages(base, str(page)):
            raise PageFailed("Tesseract could not read the page")
        Path(base + ".tsv").write_text(reader.GetTSVText(0), encoding="utf-8")

    def _orient(self, page: Path, said: Path) -> None:
        with Image.open(page, formats=["TIFF"]) as image:
            self.loaded.compass.SetImageBytes(image.tobytes(), image.width, image.height, 1, image.width)
        self.loaded.compass.SetSourceResolution(300)
        found = self.loaded.compass.DetectOrientationScript()
        if not found:
            raise PageFailed("too few characters")
        said.write_text(str(-int(found["orient_deg"]) % 360))

    def _apart(self, work: Callable[[], None]) -> None:
        """Run `work` in a fork, to the end or the deadline. Raises PageFailed."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise PageFailed("there was no time left")
        try:
            pid = os.fork()
        except OSError as exc:
            raise PageFailed(f"Tesseract could not be started ({type(exc).__name__})") from None
        if pid == 0:
            _run(work)
        pidfd = os.pidfd_open(pid)
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        in_time = bool(ended.poll(left * 1000))
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(pidfd)
        if not in_time:
            raise PageFailed("Tesseract did not finish in time")
        if code:
            raise PageFailed(f"Tesseract ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}")


def _run(work: Callable[[], None]) -> NoReturn:
    """The fork's whole life. Nothing escapes from it into the code of the process that it is a copy of."""
    code = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; then a cut text would pass for a whole one
        work()
        code = 0
    finally:
        os._exit(code)


def _load(languages: tuple[str, ...]) -> _Loaded | None:
    import tesserocr

    folder = next(
        (each for each in _folders() if all((each / f"{name}.traineddata").is_file() for name in (*languages, "osd"))),
        None,
    )
    if folder is None:
        return None
    # The engine mode is left at the default, as the program does it.
    reader = tesserocr.PyTessBaseAPI(path=str(folder), lang="+".join(languages))
    if set(languages) - set(reader.GetLoadedLanguages()):  # it goes on without one that it cannot load
        return None
    for name, value in (("user_defined_dpi", "300"), ("tessedit_create_txt", "1"), ("textonly_pdf", "1")):
        if not reader.SetVariable(name, value):
            return None
    compass = tesserocr.PyTessBaseAPI(path=str(folder), lang="osd", psm=ORIENTATION_ONLY)
    version = re.search(r"(\d+(?:\.\d+)+)", tesserocr.tesseract_version())
    return _Loaded(languages, version[1], reader, compass) if version else None


def _folders() -> list[Path]:
    """Where trained data may be: where the program looks (it heeds TESSDATA_PREFIX), then where Debian has it."""
    found = []
    try:
        said = subprocess.run(
            [DEFAULT_PROGRAM, "--list-langs"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIST_SECONDS,
            check=False,
        )
        found = re.findall(r'available languages in "([^"\n]+)"', said.stdout.decode(errors="replace"))
    except (OSError, subprocess.TimeoutExpired):
        pass
    return [*map(Path, found), *sorted(Path("/usr/share").glob(DEBIAN), reverse=True)]
