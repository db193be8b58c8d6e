"""The verdict on what is inside a sample: counted, bounded, nothing taken on trust."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from scanners.base import Engine, Finding, Sample, Scanner, ScanResult, Verdict
from scanners.inspector import Inspector, Wrong

ENGINE = Engine("airlock-structure", "1")


class StructureScanner:
    """Refuses bombs, encryption, damage and hidden parts; has `inner` scan a PDF's attachments (clamd misses some).

    Without `inner`, a PDF with attachments is INCOMPLETE. They lie in `scratch` while they are scanned.
    """

    name = "structure"

    def __init__(self, inspector: Inspector, *, inner: Scanner | None = None, scratch: Path | None = None) -> None:
        self._inspector = inspector
        self._inner = inner
        self._scratch = scratch

    def scan(self, sample: Sample) -> ScanResult:
        """See Scanner.scan."""
        started = time.monotonic()
        look = self._inspector.look(sample)
        result = ScanResult(self.name, Verdict.CLEAN, engine=ENGINE, coverage=look.coverage)
        wrong: Wrong | None = look.wrong
        if wrong is None and look.coverage.get("attachments"):
            wrong = self._attachments(sample)
        if wrong is not None:
            result = replace(result, verdict=wrong.verdict, finding=wrong.finding, detail=wrong.detail)
        return replace(result, duration_ms=(time.monotonic() - started) * 1000)

    def _attachments(self, sample: Sample) -> Wrong | None:
        if self._inner is None:
            return Wrong(Verdict.INCOMPLETE, Finding.LIMIT_EXCEEDED, "no scanner looks at the attached files")
        with tempfile.TemporaryDirectory(prefix="airlock-", dir=self._scratch) as folder:
            into = Path(folder)
            number = self._inspector.extract(sample, into)
            if isinstance(number, Wrong):
                return number
            for index in range(number):
                part = into / str(index)
                # A parser wrote this directory: what is not a plain file of ours is not opened.
                if part.is_symlink() or not part.is_file():
                    return Wrong(Verdict.INCOMPLETE, Finding.DAMAGED, "an attached file could not be taken out")
                result = self._inner.scan(Sample(part, part.stat().st_size, ""))
                if result.finding is not None:
                    return Wrong(result.verdict, result.finding, f"in an attached file: {result.detail}"[:200])
        return None
