"""QUARANTINED -> CLEAN or REJECTED: what is it, and does every required scanner call exactly these bytes clean?"""

from __future__ import annotations

from datetime import timedelta

from pipeline.documents import Advance, Job, Json, VerdictRecord
from pipeline.errors import ObjectNotFound
from pipeline.hand import Hand
from pipeline.scanning import scan_all
from pipeline.services import Services
from pipeline.states import Reason, State
from scanners.base import SEVERITY, ScanResult, Verdict


def inspect(job: Job, hand: Hand, services: Services) -> Advance:
    """Scan the sample with every scanner that the policy names.

    All of them look, even when one has already refused: an infected file of a forbidden type is told as infected.

    Raises:
        EngineUnavailable: a scanner is down or not fit to judge; the document waits.
        StepError: a scanner gave no verdict on this sample.
        ChecksumMismatch, StoreError: the bytes could not be read as they were recorded.
    """
    erase_rejected = timedelta(days=services.policy.retention.rejected_days)
    if job.document.size > services.policy.limits.bytes:
        # A way in that cannot be watched let it through; it is not even fetched.
        limit = services.policy.limits.bytes
        return Advance(
            State.REJECTED, Reason.TOO_LARGE, f"The limit is {limit} bytes in one file.", erase_in=erase_rejected
        )
    services.gate.require()
    try:
        sample = hand.sample
    except ObjectNotFound:
        return Advance(
            State.REJECTED,
            Reason.SOURCE_CHANGED,
            "The bytes that were uploaded are no longer in quarantine.",
            erase_in=timedelta(0),
        )
    if job.document.declared_sha256 not in (None, sample.sha256):
        return Advance(
            State.REJECTED,
            Reason.DIGEST_MISMATCH,
            "The bytes that arrived are not the ones that the sender's SHA-256 names. Send them again.",
            sha256=sample.sha256,
            erase_in=erase_rejected,
        )
    results = scan_all(sample, services.scanners, services)
    worst = max(results, key=lambda result: SEVERITY[result.verdict])
    records = tuple(VerdictRecord("original", sample.sha256, result) for result in results)
    detected = next((result.media_type for result in results if result.media_type), None)
    facts: dict[str, Json] = {
        "policy": services.policy.digest,
        "ms": {r.scanner: round(r.duration_ms, 1) for r in results},
    }
    if worst.verdict is not Verdict.CLEAN:
        return Advance(
            State.REJECTED,
            _reason(worst),
            _sentence(worst),
            detected_type=detected,
            sha256=sample.sha256,
            verdicts=records,
            erase_in=erase_rejected,
            facts={**facts, "by": worst.scanner},
        )
    return Advance(State.CLEAN, detected_type=detected, sha256=sample.sha256, verdicts=records, facts=facts)


def _reason(result: ScanResult) -> Reason:
    if result.finding is None:
        raise AssertionError("a verdict other than CLEAN has a finding")
    return Reason(result.finding.value)


def _sentence(result: ScanResult) -> str:
    match result.verdict:
        case Verdict.INFECTED:
            return f"{result.scanner} found {result.detail}."
        case Verdict.INCOMPLETE:
            return f"{result.scanner} could not look at all of it: {result.detail}."
        case _:
            return f"The policy does not take it: {result.detail}."
