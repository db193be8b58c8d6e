"""CLEAN -> RECOGNIZED: read what can be read. The text's bytes are new, so the engine looks at them first."""

from __future__ import annotations

import hashlib
import time
from datetime import timedelta
from pathlib import Path

from pipeline.documents import Advance, Job, Part, VerdictRecord
from pipeline.errors import EngineUnavailable, ObjectExists, StepError
from pipeline.hand import Hand
from pipeline.scanning import DERIVED, scan_all
from pipeline.services import Services
from pipeline.states import Reason, State
from pipeline.steps import leftovers
from pipeline.storage.base import ObjectHeaders
from pipeline.storage.keys import key_of
from scanners.base import Declared, Sample, ScannerError, Verdict

PIECE = 1 << 20
MEDIA_TYPES = {"text": "text/plain; charset=utf-8", "pdf": "application/pdf"}


def recognize(job: Job, hand: Hand, services: Services) -> Advance:
    """Store the document's text (pages parted by form feeds), and a searchable PDF where the policy asks for one.

    Reading that fails does not hold a clean document back unless the policy requires text.

    Raises:
        EngineUnavailable: Tesseract or the scanner is missing or down; the document waits.
        StepError: the recognizer was killed; tried again.
    """
    document, recognizer = job.document, services.recognizer
    kind = document.detected_type
    required = services.policy.recognize.mode == "required"
    if recognizer is None or kind is None or not recognizer.reads(kind):
        return Advance(State.RECOGNIZED)
    started = time.monotonic()
    try:
        into = hand.folder / "reading"
        into.mkdir()
        reading = recognizer.recognize(hand.sample, kind, into)
    except ScannerError as exc:
        if exc.waits and required:
            raise EngineUnavailable(str(exc)) from exc
        if required:
            raise StepError(str(exc)) from exc
        return Advance(State.RECOGNIZED, facts={"problem": exc.code})
    if required and not reading.complete:
        return Advance(
            State.REJECTED,
            Reason.OCR_FAILED,
            "The policy requires the text of every page, and some could not be read.",
            erase_in=timedelta(days=services.policy.retention.rejected_days),
        )
    parts: list[Part] = []
    verdicts: list[VerdictRecord] = []
    withheld: list[str] = []
    for name, path in (("text", reading.text), ("pdf", reading.pdf)):
        if path is None:
            continue
        sample = _sample(path, MEDIA_TYPES[name])
        if sample.size == 0:
            continue
        if sample.sha256 == document.sha256:
            # A plain text is its own text: these bytes have their verdict, and one object can be both.
            parts.append(Part(name, document.source, sample.size, sample.sha256, MEDIA_TYPES[name]))
            continue
        services.gate.require()
        engines = [scanner for scanner in services.scanners if scanner.name in DERIVED]
        results = scan_all(sample, engines, services)
        verdicts += [VerdictRecord(name, sample.sha256, result) for result in results]
        if any(result.verdict is not Verdict.CLEAN for result in results):
            withheld.append(name)  # the original stays clean: exactly its bytes were called so
            continue
        parts.append(_keep(job, name, sample, services))
    return Advance(
        State.RECOGNIZED,
        verdicts=tuple(verdicts),
        parts=tuple(parts),
        text_length=reading.text_length if any(part.name == "text" for part in parts) else 0,
        pages=len(reading.pages) or None,
        facts={
            "complete": reading.complete,
            "problem": reading.problem,
            "withheld": list(withheld),
            "ms": round((time.monotonic() - started) * 1000, 1),
        },
    )


def _sample(path: Path, media_type: str) -> Sample:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return Sample(path, path.stat().st_size, digest.hexdigest(), Declared(None, media_type))


def _keep(job: Job, name: str, sample: Sample, services: Services) -> Part:
    """Put a derived part beside the original, in quarantine: it is promoted with it or not at all."""
    document, store = job.document, services.quarantine
    key = key_of(document.retention, document.tenant, document.id, name)
    headers = ObjectHeaders(content_type=MEDIA_TYPES[name], content_disposition="inline" if name == "text" else None)
    for last in (False, True):
        try:
            with store.create(key, headers, size=sample.size) as writer, sample.open() as file:
                while chunk := file.read(PIECE):
                    writer.write(chunk)
                stat = writer.commit(sample.sha256)
            return Part(name, stat.ref, sample.size, sample.sha256, MEDIA_TYPES[name])
        except ObjectExists:
            # Left by an attempt that did not settle; or we are the one who was taken for dead.
            if (ref := leftovers.same_bytes(store, key, sample.sha256)) is not None:
                return Part(name, ref, sample.size, sample.sha256, MEDIA_TYPES[name])
            if last:
                raise
            leftovers.remove(store, key, job, services)
    raise AssertionError
