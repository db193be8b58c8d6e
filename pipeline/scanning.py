"""Runs the scanners that the policy requires, side by side, and turns what they raise into the pipeline's errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from pipeline.errors import EngineUnavailable, Misconfigured, StepError
from pipeline.settings import Settings
from scanners.base import Sample, Scanner, ScannerError, ScanResult

if TYPE_CHECKING:
    from pipeline.policy import Policy
    from pipeline.services import Services
    from scanners.clamav import ClamAV
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
    if not scanners:
        raise EngineUnavailable("No scanner is configured.")
    others = [services.pool.submit(scanner.scan, sample) for scanner in scanners[1:]]
    answers: list[Callable[[], ScanResult]] = [partial(scanners[0].scan, sample), *(one.result for one in others)]
    results: list[ScanResult] = []
    problems: list[Exception] = []
    # All of them have to end, whatever one of them raises: the sample goes when this returns.
    for answer in answers:
        try:
            results.append(answer())
        except Exception as exc:  # noqa: BLE001  raised again below
            problems.append(exc)
    if problems:
        services.gate.doubt()
        _give_up(problems)
    if {result.scanner for result in results} != {scanner.name for scanner in scanners}:
        raise EngineUnavailable("Not every scanner that the policy requires has answered.")
    services.gate.vouch(results)
    return results


def _give_up(problems: Sequence[Exception]) -> NoReturn:
    """Raise the one that says most: a scanner that is down goes first, for then the document is not to blame."""
    known = [exc for exc in problems if isinstance(exc, ScannerError)]
    for exc in sorted(known, key=lambda exc: not exc.waits):
        raise (EngineUnavailable(str(exc)) if exc.waits else StepError(str(exc))) from exc
    raise problems[0]


def build_scanners(settings: Settings, policy: Policy, sandbox: Sandbox, clamav: ClamAV) -> tuple[Scanner, ...]:
    """The scanners that the policy requires; the slowest first, for the calling thread.

    Raises:
        Misconfigured: clamd's own limits would let bytes of an accepted file pass unseen.
    """
    from scanners.inspector import Inspector
    from scanners.mime import MimeScanner
    from scanners.structure.limits import StructureLimits
    from scanners.structure.scanner import StructureScanner
    from scanners.types import TypeRules

    limits = policy.limits
    inspector = Inspector(
        sandbox,
        StructureLimits(
            unpacked_bytes=limits.unpacked_bytes,
            members=limits.members,
            depth=limits.depth,
            pixels=limits.pixels,
            member_bytes=clamd_file_bytes(settings, policy),
        ),
    )
    settings.spool_dir.mkdir(parents=True, exist_ok=True)
    made: dict[str, Scanner] = {
        "clamav": clamav,
        "structure": StructureScanner(inspector, inner=clamav, scratch=settings.spool_dir),
        "mime": MimeScanner(inspector, TypeRules(allowed=policy.accept.types)),
    }
    return tuple(scanner for name, scanner in made.items() if name in policy.scan.required)


def clamd_file_bytes(settings: Settings, policy: Policy) -> int:
    """The largest file that clamd looks at whole: read from its configuration where that can be read.

    Raises:
        Misconfigured: with every setting that does not go with the policy, and what to set instead.
    """
    if settings.clamd_conf is None:
        return settings.clamd_max_file_bytes
    from scanners.clamd_limits import limits_of, problems

    try:
        found = limits_of(settings.clamd_conf)
    except (OSError, ValueError) as exc:
        raise Misconfigured(f"AIRLOCK_CLAMD_CONF cannot be read: {exc}") from exc
    if wrong := problems(found, policy.limits.bytes):
        raise Misconfigured(" ".join(wrong))
    return found.max_file_size or settings.clamd_max_file_bytes
