"""The contract of every scanner: a sample in, one verdict out, or an exception.

A verdict exists only because an engine gave it. No answer is an exception, never a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Protocol


class ScannerError(Exception):
    """The engine gave no verdict.

    `waits` tells an engine that is down or unfit (the document waits, however long) from one that choked on this
    sample (the attempt counts, and after enough of them the document is FAILED).
    """

    code = "scanner-error"
    waits = False


class ScannerUnavailable(ScannerError):
    """The engine cannot be reached, or is not fit to judge now (stale signatures, failed canary)."""

    code = "scanner-unavailable"
    waits = True


class SampleTimeout(ScannerError):
    """The engine did not finish this sample within its time limit."""

    code = "scanner-timeout"


class Verdict(StrEnum):
    """What an engine said of exactly these bytes."""

    CLEAN = "clean"
    INFECTED = "infected"
    REFUSED = "refused"  # the policy does not take this
    INCOMPLETE = "incomplete"  # some of it was not looked at: a limit, encryption, a damaged container


# Worst last: the verdict of several scanners is the worst of them.
SEVERITY: Mapping[Verdict, int] = {Verdict.CLEAN: 0, Verdict.INCOMPLETE: 1, Verdict.REFUSED: 2, Verdict.INFECTED: 3}


class Finding(StrEnum):
    """Why a verdict is not CLEAN: a closed list, because clients branch on it."""

    INFECTED = "infected"
    TYPE_NOT_ALLOWED = "type_not_allowed"  # what it is, is not on the policy's list
    TYPE_MISMATCH = "type_mismatch"  # what it is differs from what its name or Content-Type says
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    ENCRYPTED = "encrypted"
    LIMIT_EXCEEDED = "limit_exceeded"  # depth, members, unpacked bytes, pixels or pages over a limit
    DAMAGED = "damaged"  # a container that cannot be read to its end


@dataclass(frozen=True, slots=True)
class Engine:
    """Which engine judged, and with which signatures: a later re-scan knows by it what is stale."""

    name: str
    version: str = ""
    signatures: str = ""  # the database's own version, e.g. "27432"
    signatures_at: datetime | None = None  # when the database was built


@dataclass(frozen=True, slots=True)
class Declared:
    """What the sender says the bytes are. Never trusted, only compared."""

    name: str | None = None
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """The pinned bytes in hand, in a local file that nobody writes any more.

    Open as often as needed; the bucket was read once. `path` may be a `/proc/self/fd/N` style path only inside the
    process that holds it; pass `open_fd()` to another process.
    """

    path: Path
    size: int
    sha256: str
    declared: Declared = Declared()

    def open(self) -> BinaryIO:
        """A new read-only handle at offset 0; the caller closes it."""
        return self.path.open("rb")


@dataclass(frozen=True, slots=True)
class ScanResult:
    """One engine's verdict on one sample.

    `coverage` is the evidence of what was looked at, e.g. {"bytes": 1024, "members": 3}: small JSON values only.
    `detail` is for people (a signature's name, a limit) and never holds text from the sample or the client.
    """

    scanner: str
    verdict: Verdict
    detail: str = ""
    finding: Finding | None = None
    engine: Engine | None = None
    coverage: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    media_type: str | None = None  # set by the scanner that detects types
    duration_ms: float = 0.0

    def __post_init__(self) -> None:
        if (self.verdict is Verdict.CLEAN) != (self.finding is None):
            raise ValueError(
                f"a {self.verdict} verdict with finding {self.finding}: CLEAN has none, all others have one"
            )


@dataclass(frozen=True, slots=True)
class Fitness:
    """Is this scanner fit to judge right now? `fit` is False whenever that is not known."""

    scanner: str
    fit: bool
    engine: Engine | None = None
    problems: tuple[str, ...] = ()  # one sentence each, says what to do
    warnings: tuple[str, ...] = ()  # e.g. "only test signatures are loaded"


class Scanner(Protocol):
    """One engine. Streams, keeps nothing between calls, safe to call from several threads."""

    name: str

    def scan(self, sample: Sample) -> ScanResult:
        """Judge the sample. Raises ScannerError (see `waits`) when the engine gave no verdict; never guesses."""
        ...


class Checkable(Protocol):
    """A scanner that can tell whether it is fit (reachable, fresh, canaries found). Never raises."""

    def check(self) -> Fitness: ...
