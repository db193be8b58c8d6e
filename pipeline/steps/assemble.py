"""RECEIVED -> QUARANTINED: put together what came in parts, by the store itself, and pin it.

May run twice: every store recognises what an earlier run made of the same parts, and nothing is visible before it is
whole.
"""

from __future__ import annotations

from datetime import timedelta

from pipeline.documents import Advance, Job, Upload, UploadMethod, UploadPart
from pipeline.errors import ObjectExists, ObjectNotFound, PreconditionFailed, StepRefused
from pipeline.hand import Hand
from pipeline.services import Services
from pipeline.states import Reason, State
from pipeline.storage.abilities import Composable, Progress, Resumable, SentPart, SignsParts
from pipeline.storage.base import ObjectRef, ObjectStat
from pipeline.uploads import piece_ref


def assemble(job: Job, _hand: Hand, services: Services) -> Advance:
    """Have the store make one object of the upload's parts.

    Raises:
        StoreError: it could not; the parts are still there, and it is tried again.
        StepRefused: the key is taken by other bytes, or the store cannot do this.
    """
    if job.document.size > services.policy.limits.bytes:
        # Dropped, or announced under an earlier policy: a copy of it might fill the store before anybody looks at it.
        limit = services.policy.limits.bytes
        return _refused(Reason.TOO_LARGE, f"The limit is {limit} bytes in one file.", services)
    with services.ledger.reading() as tx:
        upload = tx.upload(job.document.id)
        parts = tx.upload_parts(upload.id)
    try:
        stat = _put_together(upload, parts, services)
    except (ObjectNotFound, PreconditionFailed):
        return _refused(Reason.SOURCE_CHANGED, "Parts of the upload are no longer in quarantine.", services)
    except ObjectExists as exc:
        raise StepRefused("The place in quarantine is taken by other bytes.") from exc
    if upload.method is not UploadMethod.DROP and stat.size != job.document.size:
        raise StepRefused("What the parts became has another size than they had together.")
    return Advance(State.QUARANTINED, source=stat.ref, size=stat.size, facts={"parts": len(parts)})


def _put_together(upload: Upload, parts: list[UploadPart], services: Services) -> ObjectStat:
    store = services.quarantine
    match upload.method:
        case UploadMethod.TUS if isinstance(store, Resumable):
            return store.finish(upload.key, Progress(upload.offset, upload.progress))
        case UploadMethod.CHUNKS if isinstance(store, Composable):
            return store.compose([piece_ref(upload, part, store.bucket) for part in parts], upload.key)
        case UploadMethod.TUS_FINAL | UploadMethod.DROP if isinstance(store, Composable):
            return store.compose(sources_of(upload, store.bucket), upload.key)
        case UploadMethod.MULTIPART if isinstance(store, SignsParts):
            sent = [SentPart(part.number, part.size, part.version) for part in parts]
            return store.finish_parts(upload.key, upload.progress, sent)
    raise StepRefused("This store cannot put together what came in parts.")


def sources_of(upload: Upload, bucket: str) -> list[ObjectRef]:
    """The objects that the upload is made of, as its details name them: `sources`, each with `key` and `version`."""
    sources = upload.details.get("sources")
    if not isinstance(sources, list):
        raise StepRefused("The upload does not say what it is made of.")
    return [ObjectRef(bucket, str(one["key"]), str(one["version"])) for one in sources if isinstance(one, dict)]


def _refused(reason: Reason, detail: str, services: Services) -> Advance:
    return Advance(State.REJECTED, reason, detail, erase_in=timedelta(days=services.policy.retention.rejected_days))
