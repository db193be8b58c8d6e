"""What a look inside can end with: one sentence of ours, and the words of scanners/base.py for it."""

from __future__ import annotations

from scanners.base import Finding, Verdict


class Found(Exception):
    """Stop looking: this is the verdict. `detail` never holds text of the sample."""

    def __init__(self, verdict: Verdict, finding: Finding, detail: str) -> None:
        super().__init__(detail)
        self.verdict, self.finding, self.detail = verdict, finding, detail


def damaged(detail: str) -> Found:
    """It cannot be read to its end, so part of it was not looked at."""
    return Found(Verdict.INCOMPLETE, Finding.DAMAGED, detail)


def encrypted(detail: str) -> Found:
    """It cannot be looked into without a password."""
    return Found(Verdict.INCOMPLETE, Finding.ENCRYPTED, detail)


def over_limit(detail: str) -> Found:
    """It holds more than the policy takes."""
    return Found(Verdict.REFUSED, Finding.LIMIT_EXCEEDED, detail)


def unseen(detail: str) -> Found:
    """Part of it is more than our engines look at."""
    return Found(Verdict.INCOMPLETE, Finding.LIMIT_EXCEEDED, detail)
