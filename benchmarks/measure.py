"""Interleaved rounds, medians, peak memory, and the table: what every benchmark here has in common.

The machine is never ours alone, so an absolute figure says little. Each figure is a ratio of two sides that took turns
in one run: whatever else goes on slows both down.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import psutil

MIB = 1 << 20
Run = Callable[[], float]


def rounds(sides: Mapping[str, Run], count: int) -> dict[str, list[float]]:
    """What each side returned, `count` times; they take turns, and the one that goes first changes every round."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(count):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(sides[name]())
    return found


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios: a slow moment hits both sides of its round."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def difference(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' differences."""
    return statistics.median(a - b for a, b in zip(mine, theirs, strict=True))


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def rss(pid: int) -> float:
    """What a process and its children have in memory, in MiB; pages that they share count for each."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total / MIB


def reset_peak(pid: int) -> None:
    """Let the kernel begin a new high-water mark for one process. Linux only."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> float:
    """The high-water mark of one process's resident memory since `reset_peak`, in MiB: the kernel misses nothing."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this kernel keeps no high-water mark")


@dataclass
class Watch:
    """The most that a process tree had in memory while watched, in MiB."""

    most: float = 0.0


@contextlib.contextmanager
def watched(pid: int, every: float = 0.02) -> Iterator[Watch]:
    """Look at a tree's memory again and again until the block ends. Spikes shorter than `every` seconds are missed."""
    watch, over = Watch(), threading.Event()

    def look() -> None:
        while not over.wait(every):
            watch.most = max(watch.most, rss(pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


class Mark(StrEnum):
    """How a line stands."""

    MET = "met"
    SHORT = "SHORT"
    NONE = "n/a"


@dataclass(frozen=True)
class Line:
    """One goal and what was measured. `number` is the goal's; lines that belong to it and have no goal have no mark."""

    number: str
    goal: str
    measured: str
    mark: Mark | None = None


@dataclass
class Report:
    """The lines as they come; each is printed at once, since a whole run takes long."""

    lines: list[Line] = field(default_factory=list)

    def reached(self, number: str, goal: str, measured: str, met: bool) -> None:
        """A goal that was measured."""
        self.add(Line(number, goal, measured, Mark.MET if met else Mark.SHORT))

    def aside(self, number: str, what: str, measured: str) -> None:
        """A figure that explains a goal's."""
        self.add(Line(number, what, measured))

    def none(self, number: str, goal: str, why: str) -> None:
        """A goal that could not be measured here."""
        self.add(Line(number, goal, why, Mark.NONE))

    def add(self, line: Line) -> None:
        """Keep it and print it."""
        self.lines.append(line)
        print(f"{line.number:>3}  {line.mark or '':5}  {line.goal}: {line.measured}", flush=True)

    def table(self) -> str:
        """All lines as a Markdown table, in the goals' order."""
        ordered = sorted(self.lines, key=lambda line: int(line.number.rstrip("abcdefgh")))
        bar = "\\|"  # a bar inside a cell would end it
        cells = [[one.number, one.goal, one.measured, one.mark or ""] for one in ordered]
        rows = [f"| {' | '.join(cell.replace('|', bar) for cell in row)} |" for row in cells]
        return "\n".join(["| # | goal | measured | |", "|---|---|---|---|", *rows])
