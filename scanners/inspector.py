"""One sandboxed look at a sample, shared by the scanners that judge by it: its type and what is inside."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scanners.base import Finding, Sample, Verdict
from scanners.sandbox import Limits, Sandbox
from scanners.structure.limits import StructureLimits

REMEMBERED = 16
MEMORY = 768 << 20


@dataclass(frozen=True, slots=True)
class Wrong:
    """The first thing that was found wrong inside."""

    verdict: Verdict
    finding: Finding
    detail: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a file is and holds, by its bytes alone: the same for whatever name it comes under."""

    media_type: str
    text: bool = False
    html: str = ""
    macros: bool = False
    wrong: Wrong | None = None
    coverage: dict[str, int] = field(default_factory=dict)


class Inspector:
    """Looks once at each sample, however many scanners ask; the last few answers are kept by the bytes' digest."""

    def __init__(self, sandbox: Sandbox, limits: StructureLimits | None = None) -> None:
        self._sandbox = sandbox
        self.limits = limits or StructureLimits()
        self._lock = threading.Lock()
        self._looks: OrderedDict[str, Future[Look]] = OrderedDict()

    def look(self, sample: Sample) -> Look:
        """What the sample is. Raises ScannerError when the sandbox gave no answer; that is not remembered."""
        with self._lock:
            future = self._looks.get(sample.sha256)
            mine = future is None
            if future is None:
                future = self._looks[sample.sha256] = Future()
                while len(self._looks) > REMEMBERED:
                    self._looks.popitem(last=False)
        if mine:
            try:
                future.set_result(self._look(sample))
            except BaseException as exc:  # noqa: BLE001 - whoever else waits for this answer gets it too
                with self._lock:
                    if self._looks.get(sample.sha256) is future:
                        del self._looks[sample.sha256]
                future.set_exception(exc)
        return future.result()

    def extract(self, sample: Sample, into: Path) -> Wrong | int:
        """Write a PDF's attachments into the directory as 0, 1, 2...; how many, or what was wrong."""
        limits = replace(self._budget(), file_bytes=self.limits.unpacked_bytes)
        with sample.open() as body:
            answer = self._sandbox.call(
                "extract", asdict(self.limits), fds=[body.fileno()], scratch=into, limits=limits
            )
        return _wrong(answer) or int(answer["attachments"])

    def _look(self, sample: Sample) -> Look:
        with sample.open() as body:
            answer = self._sandbox.call("look", asdict(self.limits), fds=[body.fileno()], limits=self._budget())
        return Look(
            media_type=str(answer["media_type"]),
            text=answer.get("text") is True,
            html=str(answer.get("html", "")),
            macros=answer.get("macros") is True,
            wrong=_wrong(answer),
            coverage={str(name): int(value) for name, value in answer["coverage"].items()},
        )

    def _budget(self) -> Limits:
        return Limits(seconds=self.limits.seconds, memory=MEMORY)


def _wrong(answer: dict[str, Any]) -> Wrong | None:
    found = answer.get("found")
    if found is None:
        return None
    return Wrong(Verdict(found["verdict"]), Finding(found["finding"]), str(found["detail"])[:200])
