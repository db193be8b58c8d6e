"""The health gate: nothing is judged by a scanner that is not known to be fit right now."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from pipeline.errors import EngineUnavailable
from pipeline.telemetry import logger
from scanners.base import Fitness, Scanner, ScanResult

log = logger(__name__)


class Gate:
    """Asks each scanner that can tell, at most every `fresh` seconds (an unfit one every `retry` seconds)."""

    def __init__(self, scanners: Sequence[Scanner], *, fresh: float = 30.0, retry: float = 2.0) -> None:
        self._scanners = scanners
        self._fresh = fresh
        self._retry = retry
        self._lock = threading.Lock()
        self._until = 0.0
        self._answers: tuple[Fitness, ...] = ()

    def fitness(self) -> tuple[Fitness, ...]:
        """Each scanner's last answer, asked again when it is no longer fresh. Never raises."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._answers = tuple(
                    check() for scanner in self._scanners if (check := getattr(scanner, "check", None)) is not None
                )
                fit = all(answer.fit for answer in self._answers)
                self._until = time.monotonic() + (self._fresh if fit else self._retry)
                for answer in self._answers:
                    if not answer.fit:
                        log.error("scanner unfit", scanner=answer.scanner, problems=list(answer.problems))
            return self._answers

    def require(self) -> None:
        """Raises EngineUnavailable (the document waits) unless every scanner is fit to judge."""
        problems = [problem for answer in self.fitness() if not answer.fit for problem in answer.problems]
        if problems or not all(answer.fit for answer in self._answers):
            raise EngineUnavailable(" ".join(problems) or "A scanner is not fit to judge.")

    def vouch(self, results: Sequence[ScanResult]) -> None:
        """Ask again about an engine that is not the one that was found fit: its signatures were replaced meanwhile.

        Raises EngineUnavailable if, asked again, it is not fit: its verdict counts for nothing.
        """
        known = {answer.scanner: answer.engine for answer in self.fitness() if answer.engine is not None}
        if any(result.scanner in known and result.engine != known[result.scanner] for result in results):
            self.doubt()
            self.require()

    def doubt(self) -> None:
        """Forget the last answer: an engine has just failed, so the next document asks again."""
        with self._lock:
            self._until = 0.0
