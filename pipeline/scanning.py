"""Runs the scanners that the policy requires, side by side, and turns what they raise into the pipeline's errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import EngineUnavailable, StepError
from pipeline.policy import Policy
from scanners.base import Sample, Scanner, ScannerError, ScanResult

if TYPE_CHECKING:
    from scanners.clamav import ClamAV

    from pipeline.services import Services
    from scanners.sandbox import Sandbox

# What Airlock makes itself out of a clean document (its text, its searchable PDF) has no declared type to compare, but
# its bytes are new: the engine looks at them too. A picture of a virus's text becomes that text.
DERIVED = frozenset({"clamav"})


def required_of(part: str, policy: Policy) -> frozenset[str]:
    """Which scanners must have called this part clean before it is served."""
    return frozenset(policy.scan.required) if part == "original" else DERIVED


def scan_all(sample: Sample, scanners: Sequence[Scanner], services: Services) -> list[ScanResult]:
    """Every scanner's answer on one sample; they run at the same time, and all of them end before this returns.

    Raises:
        EngineUnavailable: one is down or not fit; nothing can be said.
        StepError: one gave no verdict on this sample; nothing can be said.
    """
    futures = [services.pool.submit(scanner.scan, sample) for scanner in scanners[1:]]
    problems: list[ScannerError] = []
    results: list[ScanResult] = []
    for answer in [*([lambda: scanners[0].scan(sample)] if scanners else []), *(future.result for future in futures)]:
        try:
            results.append(answer())
        except ScannerError as exc:
            problems.append(exc)
    if problems:
        services.gate.doubt()
        # A scanner that waits goes first: while it is down, this document is not to blame.
        worst = next((exc for exc in problems if exc.waits), problems[0])
        raise (EngineUnavailable(str(worst)) if worst.waits else StepError(str(worst))) from worst
    if {result.scanner for result in results} != {scanner.name for scanner in scanners} or not results:
        raise EngineUnavailable("Not every scanner that the policy requires has answered.")
    return results


def build_scanners(policy: Policy, sandbox: Sandbox, clamav: ClamAV) -> tuple[Scanner, ...]:
    """The scanners that the policy requires, the slowest first in line for the calling thread."""
    raise NotImplementedError
