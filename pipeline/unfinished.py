"""What the sweeper does about uploads: end those whose time is over, land those that nobody told of, leave nothing.

Like all of the sweeper's work this may run twice, at the same time, anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from pipeline.appending import complete, is_whole, key_in_store
from pipeline.concatenation import pieces_of
from pipeline.documents import Upload, UploadMethod, UploadState
from pipeline.errors import AirlockError, LedgerUnavailable, NotFound, ObjectNotFound, StoreUnavailable
from pipeline.landing import DROP, SENT_WHOLE, Outcome, land_drop, land_upload
from pipeline.services import Services
from pipeline.steps.assemble import sources_of
from pipeline.storage.abilities import OpensSessions, Progress, Resumable, SignsParts
from pipeline.telemetry import logger
from pipeline.uploads import piece_key

log = logger(__name__)

BATCH = 500
KEPT = timedelta(days=7)  # for how long an upload that is over can still be asked about


def take_drops(services: Services) -> int:
    """Make documents of what lies in drop folders and no event told of."""
    taken = 0
    quiet = services.settings.drop_after_seconds
    for stat in services.quarantine.list(DROP):
        try:
            taken += land_drop(stat.ref.key, None, services, actor="sweeper", quiet=quiet) is Outcome.TAKEN
        except (LedgerUnavailable, StoreUnavailable):
            raise
        except AirlockError as exc:
            log.warning("drop left as it is", error=exc.code, detail=str(exc))
    return taken


def land_uploads(services: Services) -> int:
    """Make documents of open uploads whose object has arrived, where neither an event nor their sender has told."""
    landed, last = 0, None
    while True:
        with services.ledger.reading() as tx:
            waiting = tx.open_uploads_by(SENT_WHOLE, after=last, limit=BATCH)
        if not waiting:
            return landed
        last = waiting[-1].id
        for upload in waiting:
            try:
                landed += land_upload(upload, services, actor="sweeper") is Outcome.TAKEN
            except (LedgerUnavailable, StoreUnavailable):
                raise
            except AirlockError as exc:
                log.warning("upload not looked after", error=exc.code, upload=str(upload.id))


def expire_uploads(services: Services) -> int:
    """End open uploads whose time is up. One whose bytes have arrived all the same is landed instead."""
    with services.ledger.reading() as tx:
        due = tx.expired_uploads(BATCH)
    ended = 0
    for upload in due:
        if upload.method in SENT_WHOLE and land_upload(upload, services, actor="sweeper") is not Outcome.GONE:
            continue
        if is_whole(upload) and _completed(upload, services):
            continue
        with services.ledger.begin() as tx:
            ended += tx.expire_upload(upload.id)
    return ended


def _completed(upload: Upload, services: Services) -> bool:
    """Complete an upload whose last request was stopped before its end; False: it cannot be."""
    try:
        complete(upload, services)
    except (LedgerUnavailable, StoreUnavailable):
        raise
    except AirlockError as exc:
        log.warning("whole upload not completed", error=exc.code, detail=str(exc), upload=str(upload.id))
        return False
    return True


def clean_uploads(services: Services) -> int:
    """Remove from the store what uploads that are over have left and nobody needs; how many uploads."""
    with services.ledger.reading() as tx:
        left = tx.uploads_to_clean(BATCH)
    return sum(_each(left, lambda upload: _clean(upload, services)))


def forget_uploads(services: Services) -> int:
    """Drop the rows of uploads that were over and clean long ago."""
    with services.ledger.begin(durable=False) as tx:
        return tx.forget_uploads(older_than=KEPT)


def _each(uploads: list[Upload], work: Callable[[Upload], None]) -> list[bool]:
    done: list[bool] = []
    for upload in uploads:
        try:
            work(upload)
        except (LedgerUnavailable, StoreUnavailable):
            raise
        except AirlockError as exc:
            log.warning("upload not cleaned up", error=exc.code, detail=str(exc), upload=str(upload.id))
            continue
        done.append(True)
    return done


def _clean(upload: Upload, services: Services) -> None:
    """The store first, the tick behind it: a crash in between does it again."""
    store = services.quarantine
    if upload.progress and upload.method in (UploadMethod.TUS, UploadMethod.TUS_PARTIAL):
        if isinstance(store, Resumable):
            store.drop(key_in_store(upload), Progress(upload.offset, upload.progress))
    elif upload.progress and upload.method is UploadMethod.MULTIPART and isinstance(store, SignsParts):
        store.drop_parts(upload.key, upload.progress)
    elif upload.progress and upload.method is UploadMethod.SESSION and isinstance(store, OpensSessions):
        store.close_session(upload.progress)
    for left in list(store.list(piece_key(upload.key, ""))):
        store.delete(left.ref)
    if upload.method is UploadMethod.DROP:
        for ref in sources_of(upload, store.bucket):
            store.delete(ref)
    if upload.method is UploadMethod.TUS_FINAL:
        with services.ledger.reading() as tx:
            pieces = tx.uploads(pieces_of(upload), tenant=upload.tenant)
        for piece in pieces.values():
            _clean(piece, services)
    if upload.state is UploadState.ABORTED:
        _delete_unless_a_document(upload, services)
    with services.ledger.begin(durable=False) as tx:
        tx.upload_cleaned(upload.id)


def _delete_unless_a_document(upload: Upload, services: Services) -> None:
    """What was sent to a signed URL although its sender had given the upload up."""
    with services.ledger.reading() as tx:
        if tx.known({upload.id}):
            return
    store = services.quarantine
    try:
        while store.delete(store.head(upload.key).ref):  # each covers the one before, in a bucket with versions
            pass
    except ObjectNotFound:
        return


def upload_behind(document_id: UUID, services: Services) -> Upload | None:
    """The upload that an object without a document may belong to."""
    with services.ledger.reading() as tx:
        try:
            return tx.upload(document_id)
        except NotFound:
            return None
