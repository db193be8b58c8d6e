"""The verdict on what a sample is: on the policy's list, and what its name and Content-Type say it is."""

from __future__ import annotations

import time

from scanners.base import Engine, Finding, Sample, ScanResult, Verdict
from scanners.inspector import Inspector, Look
from scanners.types import (
    ALSO_DECLARED,
    ENCRYPTED_OFFICE,
    GENERIC,
    HARMLESS_TEXT,
    TypeRules,
    canonical,
    suffix_of,
)

ENGINE = Engine("airlock-types", "1")
OFFICE = "application/vnd.openxmlformats-officedocument."
KNOWN = "another known type"  # for people: a type from no table of ours is not repeated, it is client text


class MimeScanner:
    """Compares what the bytes are with what the sender says, and with what the policy takes."""

    name = "mime"

    def __init__(self, inspector: Inspector, rules: TypeRules | None = None) -> None:
        self._inspector = inspector
        self._rules = rules or TypeRules()

    def scan(self, sample: Sample) -> ScanResult:
        """See Scanner.scan. `media_type` of the result is what was detected."""
        started = time.monotonic()
        if sample.size == 0:
            return ScanResult(self.name, Verdict.REFUSED, "the file is empty", Finding.EMPTY, ENGINE)
        look = self._inspector.look(sample)
        detected = self._settle(look, sample.declared.name, sample.declared.media_type)
        verdict, finding, detail = self._judge(look, detected, sample.declared.name, sample.declared.media_type)
        return ScanResult(
            scanner=self.name,
            verdict=verdict,
            finding=finding,
            detail=detail,
            engine=ENGINE,
            coverage={"bytes": sample.size},
            media_type=detected,
            duration_ms=(time.monotonic() - started) * 1000,
        )

    def _settle(self, look: Look, name: str | None, declared: str | None) -> str:
        """What a text is called is what it is, within the harmless kinds of text."""
        if look.media_type not in HARMLESS_TEXT:
            return look.media_type
        called = [*self._rules.extensions.get(suffix_of(name), ()), canonical(declared or "")]
        wanted = next((each for each in called if each in HARMLESS_TEXT), look.media_type)
        # A web page under a harmless name stays one. Mail carries pages as parts, and Markdown may begin with a tag.
        if look.html and look.media_type == "text/plain":
            lenient = {"first": wanted in {"text/markdown", "text/csv"}, "inside": wanted != "text/plain"}
            if not lenient.get(look.html, False):
                return "text/html"
        return wanted

    def _judge(
        self, look: Look, detected: str, name: str | None, declared: str | None
    ) -> tuple[Verdict, Finding | None, str]:
        rules = self._rules
        suffix = suffix_of(name)
        expected = rules.extensions.get(suffix)
        if look.media_type == ENCRYPTED_OFFICE:
            return Verdict.INCOMPLETE, Finding.ENCRYPTED, "an encrypted office document: what it is cannot be told"
        if suffix and expected is None:
            return Verdict.REFUSED, Finding.TYPE_NOT_ALLOWED, "the name's suffix belongs to no type that is taken"
        if expected is not None and detected not in expected:
            return Verdict.REFUSED, Finding.TYPE_MISMATCH, f"it is {detected}, its suffix .{suffix} says {expected[0]}"
        said = canonical(declared or "")
        if said not in GENERIC and not _agrees(said, detected):
            known = said if any(said in each for each in rules.extensions.values()) else KNOWN
            return Verdict.REFUSED, Finding.TYPE_MISMATCH, f"it is {detected}, its Content-Type says {known}"
        if detected not in rules.allowed:
            return Verdict.REFUSED, Finding.TYPE_NOT_ALLOWED, f"{detected} is not taken"
        if look.macros and not rules.macros:
            return Verdict.REFUSED, Finding.TYPE_NOT_ALLOWED, "documents with macros are not taken"
        return Verdict.CLEAN, None, ""


def _agrees(said: str, detected: str) -> bool:
    """Senders' guesses about text are worth nothing, as long as all of them are harmless."""
    if said == detected or said in ALSO_DECLARED.get(detected, ()):
        return True
    return detected in HARMLESS_TEXT and said in HARMLESS_TEXT
