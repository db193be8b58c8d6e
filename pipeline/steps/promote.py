"""APPROVED -> AVAILABLE: the only way into serving.

The order is what makes a crash harmless: verdicts are read back from the ledger, then each part is copied (create-only,
pinned, its checksum compared), then the receipt is signed, then one commit makes the document AVAILABLE. Until that
commit nothing hands out a URL; after it a second run finds the same copies and changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from pipeline.disposition import attachment
from pipeline.documents import Advance, Job, Part, VerdictRecord
from pipeline.errors import ObjectExists, ObjectNotFound, PreconditionFailed, StepRefused
from pipeline.hand import Hand
from pipeline.scanning import required_of
from pipeline.services import Services
from pipeline.states import Reason, State
from pipeline.steps import leftovers
from pipeline.storage.base import ObjectHeaders
from pipeline.storage.keys import key_of
from scanners.base import Verdict


def promote(job: Job, _hand: Hand, services: Services) -> Advance:
    """Copy the original and its derived parts to serving and sign the receipt.

    Raises:
        StepRefused: the ledger holds no clean verdict from a required scanner on exactly these bytes, or a derived
            part is gone; a replay begins anew.
        StoreError: the copy failed or holds other bytes; it was removed, and nothing is served.
    """
    document = job.document
    with services.ledger.reading() as tx:
        verdicts = tx.verdicts(document.id)
    if document.sha256 is None or document.detected_type is None:
        raise StepRefused("The document was never inspected.")
    original = Part("original", document.source, document.size, document.sha256, document.detected_type)
    for part in (original, *document.parts):
        _cleared(part, verdicts, services)
    try:
        served = _copy(job, original, services)
    except (ObjectNotFound, PreconditionFailed):
        return Advance(
            State.REJECTED,
            Reason.SOURCE_CHANGED,
            "The bytes that were scanned are no longer in quarantine.",
            erase_in=timedelta(0),
        )
    try:
        parts = tuple(
            replace(part, served=served.served)
            if part.source == original.source  # one object is both
            else _copy(job, part, services)
            for part in document.parts
        )
    except (ObjectNotFound, PreconditionFailed) as exc:
        # What was sent is still there: it is not rejected for the loss of something that can be made again.
        raise StepRefused("What was made out of the document is no longer in quarantine.") from exc
    retention = services.policy.retention
    return Advance(
        State.AVAILABLE,
        parts=parts,
        served=served.served,
        receipt=services.receipts.sign(document, (original, *document.parts), verdicts, services.policy),
        expires_in=timedelta(days=retention.days),
        erase_in=timedelta(0),
    )


def _cleared(part: Part, verdicts: list[VerdictRecord], services: Services) -> None:
    """The promise itself: exactly these bytes, every required scanner, clean, and nobody said otherwise."""
    about = [record for record in verdicts if record.sha256 == part.sha256]
    clean = {record.result.scanner for record in about if record.result.verdict is Verdict.CLEAN}
    if not about or any(record.result.verdict is not Verdict.CLEAN for record in about):
        raise StepRefused(f"The {part.name} has no clean verdict.")
    if missing := required_of(part.name, services.policy) - clean:
        raise StepRefused(f"The {part.name} lacks a clean verdict from {', '.join(sorted(missing))}.")


def _copy(job: Job, part: Part, services: Services) -> Part:
    document = job.document
    key = key_of(document.retention, document.tenant, document.id, part.name)
    headers = None
    if part.name == "original":
        # The type that was detected is what is served, never the one that was claimed.
        headers = ObjectHeaders(part.media_type, attachment(document.name))
    try:
        stat = services.serving.copy(part.source, key, headers, sha256=part.sha256)
    except ObjectExists:
        # Other bytes, and no row refers to them: the document was never available. Left by an attempt whose text read
        # otherwise, or by a foreign hand.
        leftovers.remove(services.serving, key, job, services)
        stat = services.serving.copy(part.source, key, headers, sha256=part.sha256)
    return replace(part, served=stat.ref)
