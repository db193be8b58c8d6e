"""One request's stretch of an upload whose bytes come in order, over many requests, to any process.

    take -> write, write, ... -> settle     every byte is kept; the last one makes the document
                              -> drop       nothing is kept that was not noted

One request at a time holds the upload, by a lease in the ledger that is renewed only while bytes come: a client whose
connection broke without a word waits no longer than LEASE. A holder looks at the clock before it writes, and every note
is fenced by its name: one that was superseded writes nothing that counts.

Bytes are acknowledged by what the ledger has noted, and noted once the store has them for good.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from pipeline.documents import Upload, UploadMethod, UploadState
from pipeline.errors import (
    AirlockError,
    BadRequest,
    Misconfigured,
    NotAppendable,
    NotFound,
    ObjectNotFound,
    OffsetMismatch,
    UploadGone,
    UploadLocked,
)
from pipeline.quota import charge_bytes
from pipeline.services import Services
from pipeline.storage.abilities import Progress, Resumable, ResumableWriter
from pipeline.telemetry import logger
from pipeline.uploads import admit, give_up, lifetime, must_be_open, piece_key, receive

if TYPE_CHECKING:
    from pipeline.ledger.queries import Transaction

log = logger(__name__)

IN_ORDER = frozenset({UploadMethod.TUS, UploadMethod.TUS_PARTIAL})
LEASE = timedelta(seconds=6)  # shorter than all tries of tus-js-client, which gives up after nine
SPARE = 1.5  # seconds before its end in which a lease is not trusted: what begins now takes a while
NOTE_SECONDS = 2.0  # this much, or NOTE_BYTES, is all that has to be sent again when a process is killed
NOTE_BYTES = 128 << 20
AGAIN = 2  # seconds after which it is worth asking whether the holder is gone


def take(
    upload_id: UUID, tenant: str, services: Services, *, offset: int, size: int | None = None, checked: bool = False
) -> Stretch:
    """Hold the upload at `offset`. `size` sets the length of one that had none. `checked`: nothing is noted on the way.

    Raises:
        NotFound, UploadGone, Conflict, NotAppendable: it is not there, over, complete, or made of others.
        UploadLocked: another request holds it.
        OffsetMismatch: it stands elsewhere; `offset` says where.
        BadRequest, TooLarge, EmptyFile, QuotaExceeded: it cannot have this length.
    """
    owner = f"{services.owner}:{secrets.token_hex(4)}"
    asked = time.monotonic()
    with services.ledger.begin(durable=False) as tx:
        _must_take_bytes(tx.upload(upload_id, tenant=tenant))
        if not tx.lock_upload(upload_id, owner=owner, lease=LEASE):
            raise UploadLocked("Another request is sending to this upload.", retry_after=AGAIN)
        upload = tx.upload(upload_id)  # as its last holder left it
        if offset != upload.offset:
            raise OffsetMismatch(f"The upload stands at byte {upload.offset}.", offset=upload.offset)
        if size is not None and size != upload.size:
            upload = _sized(tx, upload, size, owner, services)
    return Stretch(upload, owner, services, until=asked + LEASE.total_seconds(), checked=checked)


def _must_take_bytes(upload: Upload) -> None:
    if upload.method is UploadMethod.TUS_FINAL:
        raise NotAppendable("This upload is made of others: send bytes to those.")
    if upload.method not in IN_ORDER:
        raise NotFound("there is no such upload")
    must_be_open(upload)


def _sized(tx: Transaction, upload: Upload, size: int, owner: str, services: Services) -> Upload:
    if upload.size is not None:
        raise BadRequest(f"The upload's length is {upload.size}; once said it cannot be changed.")
    if size < upload.offset:
        raise BadRequest(f"The upload has {upload.offset} bytes already: it cannot have {size} in all.")
    admit(services.policy, name=None, declared_type=None, size=size)
    charge_bytes(tx, upload.tenant, size - upload.offset, services.policy)
    tx.advance_upload(
        upload.id,
        owner=owner,
        offset=upload.offset,
        progress=upload.progress,
        lease=LEASE,
        size=size,
        expires_in=LEASE if size == upload.offset else None,
    )
    return replace(upload, size=size)


class Stretch:
    """What one request appends. Its methods block; call them from one thread at a time."""

    def __init__(self, upload: Upload, owner: str, services: Services, *, until: float, checked: bool) -> None:
        """`take` makes it."""
        self.upload = upload
        self._owner = owner
        self._services = services
        self._until = until
        self._checked = checked
        self._kept = Progress(upload.offset, upload.progress)
        self._written = 0  # since the last note
        self._noted_at = time.monotonic()
        self._writer: ResumableWriter | None = None
        self._held = True

    def write(self, piece: Iterable[bytes]) -> None:
        """Append.

        Raises:
            UploadLocked, UploadGone, Conflict: somebody else went on with it meanwhile, or ended it.
            QuotaExceeded: it never said how long it will be, and is longer than the tenant may have.
            StoreError.
        """
        if time.monotonic() > self._until - SPARE:
            self._note(self._kept)
        writer = self._opened()
        for chunk in piece:
            writer.write(chunk)
            self._written += len(chunk)
        late = time.monotonic() > self._noted_at + NOTE_SECONDS
        if self._checked:
            if late:
                self._note(self._kept)  # only the lease: whether these bytes count is not known before the last one
        elif late or self._written >= NOTE_BYTES:
            self._note(writer.checkpoint(partial=False))

    def settle(self) -> Upload:
        """Keep every byte and let others in; the last byte makes the document. The upload as it is now.

        Raises as `write` does; TooLarge: the policy takes less by now.
        """
        try:
            progress = self._kept
            if self._writer is not None:
                progress = self._writer.checkpoint()
                self._close()
            if progress.offset == self.upload.size:
                return self._complete(progress)
            upload = self._note(progress, release=True)
            self._held = False
            return upload
        finally:
            self.drop()

    def drop(self) -> None:
        """Forget what was not noted, and let others in. Idempotent; never raises for what the ledger cannot do now."""
        self._close()
        if not self._held:
            return
        self._held = False
        try:
            with self._services.ledger.begin(durable=False) as tx:
                tx.unlock_upload(self.upload.id, owner=self._owner)
        except AirlockError as exc:
            log.warning("an upload stays locked until its lease ends", error=exc.code, upload=str(self.upload.id))

    def _opened(self) -> ResumableWriter:
        if self._writer is None:
            store, key = resumable(self._services), key_in_store(self.upload)
            if not self._kept.state:
                # Noted before the first byte: what nobody knows of is taken for left behind, and aborted.
                self._note(store.begin(key, size=self.upload.size), durable=False)
            try:
                self._writer = store.resume(key, self._kept)
            except ObjectNotFound:
                give_up(self.upload, self._services, owner=self._owner)
                raise UploadGone("What was sent of this upload is no longer there. Begin a new one.") from None
        return self._writer

    def _note(self, progress: Progress, *, durable: bool = True, release: bool = False) -> Upload:
        asked = time.monotonic()
        whole = progress.offset == self.upload.size
        with self._services.ledger.begin(durable=durable) as tx:
            ours = tx.advance_upload(
                self.upload.id,
                owner=self._owner,
                offset=progress.offset,
                progress=progress.state,
                lease=LEASE,
                # Should we be killed before it is completed, the sweeper looks at it soon.
                expires_in=LEASE if whole else lifetime(self._services),
            )
            if ours and self.upload.size is None and progress.offset > self._kept.offset:
                charge_bytes(tx, self.upload.tenant, 0, self._services.policy)  # its own bytes are counted by now
            if ours and release:
                tx.unlock_upload(self.upload.id, owner=self._owner)
            upload = tx.upload(self.upload.id)
        if not ours:
            raise self._lost(upload)
        self._written = 0
        self._kept, self._noted_at, self._until = progress, asked, asked + LEASE.total_seconds()
        return upload

    def _lost(self, upload: Upload) -> AirlockError:
        self._held = False
        try:
            must_be_open(upload)
        except AirlockError as exc:
            return exc
        return UploadLocked("Another request went on with this upload.", retry_after=AGAIN)

    def _complete(self, progress: Progress) -> Upload:
        upload = replace(self.upload, offset=progress.offset, progress=progress.state)
        if upload.method is UploadMethod.TUS_PARTIAL:
            self._note(progress)  # behind `finish` nothing is left to go on with: whoever comes next must know
        ours = complete(upload, self._services, owner=self._owner)
        with self._services.ledger.reading() as tx:
            upload = tx.upload(upload.id)
        same = (upload.state, upload.offset, upload.progress) == (UploadState.COMPLETED, *_pair(progress))
        if not ours and not same:  # else somebody who looked at it has just done this for us
            raise self._lost(upload)
        self._held = False
        return upload

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _pair(progress: Progress) -> tuple[int, str]:
    return progress.offset, progress.state


def is_whole(upload: Upload) -> bool:
    """Whether it is open although it has all its bytes: whoever brought the last one was stopped before its end."""
    open_yet = upload.state is UploadState.OPEN and upload.method in IN_ORDER
    return open_yet and bool(upload.progress) and upload.offset == upload.size


def complete(upload: Upload, services: Services, *, owner: str | None = None) -> bool:
    """Close an upload that has all its bytes: it becomes a document, or a finished piece of one. False: it was closed
    already. Idempotent; for a request, and for the sweeper about one that `is_whole`.

    Raises:
        TooLarge: the policy takes less by now.
        StoreError: the piece could not be finished.
    """
    if upload.method is UploadMethod.TUS:
        event = receive(upload, services, size=upload.offset, owner=owner, progress=upload.progress)
        return event is not None
    store = resumable(services)
    stat = store.finish(key_in_store(upload), Progress(upload.offset, upload.progress))
    with services.ledger.begin() as tx:
        return tx.end_upload(
            upload.id,
            UploadState.COMPLETED,
            owner=owner,
            version=stat.ref.version,
            expires_in=lifetime(services),  # to be joined with others
        )


def resumable(services: Services) -> Resumable:
    """The quarantine store. Raises Misconfigured where it cannot grow objects."""
    store = services.quarantine
    if not isinstance(store, Resumable):
        raise Misconfigured("This store cannot take an upload in several requests.")
    return store


def key_in_store(upload: Upload) -> str:
    """Where its bytes become an object: the document's own place, or a piece's beside it."""
    return upload.key if upload.method is UploadMethod.TUS else piece_key(upload.key, 0)
