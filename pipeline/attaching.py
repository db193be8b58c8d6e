"""Which document is an item's? It is found, landed, or sent back to work; and in the end it says how the item ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from pipeline.batches import Batch, Change, Item, ItemState, item_state
from pipeline.documents import UploadState
from pipeline.errors import (
    AirlockError,
    DigestMismatch,
    NotFound,
    ObjectNotFound,
    PreconditionFailed,
    TooMany,
    UploadGone,
)
from pipeline.landing import Hints, Outcome, drop_id, land_drop
from pipeline.ledger.clock import instant
from pipeline.loading import is_in_drop_folder
from pipeline.services import Services
from pipeline.states import State
from pipeline.storage.base import LocalFiles
from pipeline.telemetry import logger

if TYPE_CHECKING:
    from pipeline.ledger.queries.feeding import Owned

log = logger(__name__)

# An object that is gone may have become a document before the batch was made: an event was faster. But the same name
# may also have been used the month before.
RECENT = timedelta(days=1)


class Attacher:
    """Asks the ledger and the store about items. Writes none of them: what it finds is the feeder's to write."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def look(self, batch: Batch, items: Sequence[Item]) -> list[Change]:
        """Where the documents of items are now; items that are where they were are not named."""
        ids = {item.document_id for item in items if item.document_id is not None}
        with self._services.ledger.reading() as tx:
            found = tx.owned(ids, tenant=batch.tenant)
        changes = [_change(item, item.document_id, _of(found, item.document_id)) for item in items]
        return [change for change in changes if change.to is not change.start]

    def begin(self, batch: Batch, items: Sequence[Item], pool: Executor) -> list[Change]:
        """Give each item its document, if it has one or can have one now.

        Raises:
            Unavailable, StoreUnavailable, QuotaExceeded: not now; what was landed meanwhile is found again.
        """
        by_id = [item for item in items if item.document_id is not None]
        by_key = [item for item in items if item.document_id is None]
        return [*self._known(batch, by_id), *pool.map(lambda item: self._caught(batch, item, self._landed), by_key)]

    def _known(self, batch: Batch, items: Sequence[Item]) -> Iterator[Change]:
        with self._services.ledger.reading() as tx:
            found = tx.owned({item.document_id for item in items if item.document_id}, tenant=batch.tenant)
        for item in items:
            owned = _of(found, item.document_id)
            if owned is None:
                yield self._caught(batch, item, self._upload)
            elif item.state is ItemState.RETRY and owned.state is State.FAILED:
                yield self._caught(batch, item, self._replayed)
            else:
                yield _change(item, item.document_id, owned)

    def _caught(self, batch: Batch, item: Item, find: Callable[[Batch, Item], Change]) -> Change:
        """A part that is away, or a quota that is full, is everybody's trouble; any other error is this item's own."""
        try:
            return find(batch, item)
        except TooMany:
            raise
        except AirlockError as exc:
            if exc.waits:
                raise
            return Change(item.seq, item.state, ItemState.FAILED, error=exc.code)
        except Exception as exc:  # noqa: BLE001  logged: a key can be any text, and no library foresees them all
            # One item must not keep the others of its batch from theirs. Its message may quote the key.
            log.error("item failed", batch=str(batch.id), item=item.seq, error=type(exc).__name__)  # noqa: TRY400
            return Change(item.seq, item.state, ItemState.FAILED, error=AirlockError.code)

    def _upload(self, batch: Batch, item: Item) -> Change:
        """No document has this id: it may be an upload that is not whole yet."""
        assert item.document_id is not None  # noqa: S101
        with self._services.ledger.reading() as tx:
            upload = tx.upload(item.document_id, tenant=batch.tenant)
        if upload.state in (UploadState.ABORTED, UploadState.EXPIRED):
            raise UploadGone
        return Change(item.seq, item.state, ItemState.OPEN)

    def _replayed(self, batch: Batch, item: Item) -> Change:
        assert item.document_id is not None  # noqa: S101
        with self._services.ledger.begin() as tx:
            tx.replay(item.document_id, tenant=batch.tenant, actor="batch")
            events = tx.history(item.document_id)[-1:]
        self._services.announcer.announce(events)
        return Change(item.seq, item.state, ItemState.RUNNING)

    def _landed(self, batch: Batch, item: Item) -> Change:
        """Make a document of an object in the tenant's drop folder, or find the one that it has become."""
        given, store = item.given, self._services.quarantine
        key = given.key or ""
        if not is_in_drop_folder(key, batch.tenant):
            raise ObjectNotFound
        try:
            stat = store.head(key)
        except ObjectNotFound:
            return self._gone(batch, item)
        if given.version is not None and given.version != stat.ref.version:
            try:
                return self._gone(batch, item)
            except ObjectNotFound:
                raise PreconditionFailed from None
        hints = Hints(None, batch.id, given.name, given.declared_type, given.declared_sha256)
        # Somebody who names a key knows that it is there; what was merely found may still be being written, where a
        # store is a folder.
        listed = batch.prefix is not None and isinstance(store, LocalFiles)
        quiet = self._services.settings.drop_after_seconds if listed else 0.0
        match land_drop(key, stat.ref.version, self._services, actor="batch", hints=hints, quiet=quiet):
            case Outcome.NOT_READY:
                return Change(item.seq, item.state, ItemState.OPEN)
            case Outcome.GONE:
                return self._gone(batch, item)
            case Outcome.FOREIGN:
                raise ObjectNotFound
        number = drop_id(stat)
        with self._services.ledger.reading() as tx:
            found = tx.owned({number}, tenant=batch.tenant)
        if number not in found:  # replaced while it was being landed: once more
            return Change(item.seq, item.state, item.state)
        return _change(item, number, found[number])

    def _gone(self, batch: Batch, item: Item) -> Change:
        """The object is not there any more: an event, or an earlier try, may have made a document of it."""
        given = item.given
        since = batch.created_at and batch.created_at - RECENT
        with self._services.ledger.reading() as tx:
            for row in tx.dropped(batch.tenant, given.key or ""):
                sources = row.details.get("sources") or [{}]
                if given.version is not None:
                    same = sources[0].get("version") == given.version
                elif given.declared_sha256 is not None:
                    same = given.declared_sha256 in (row.sha256, row.declared_sha256)
                else:
                    same = since is None or instant(row.created_at) >= since
                if same:
                    return _change(item, row.id, tx.owned({row.id}, tenant=batch.tenant)[row.id])
        raise ObjectNotFound


def _of(found: dict[UUID, Owned], document_id: UUID | None) -> Owned | None:
    return None if document_id is None else found.get(document_id)


def _change(item: Item, document_id: UUID | None, owned: Owned | None) -> Change:
    """What a document makes of its item."""
    if owned is None:
        return Change(item.seq, item.state, ItemState.FAILED, error=NotFound.code)
    to, said = item_state(owned.state), item.given.declared_sha256
    if to is ItemState.AVAILABLE and said is not None and owned.sha256 != said:
        # Whoever landed it did not know of the manifest. The document is what it is; it is not what was asked for.
        return Change(item.seq, item.state, ItemState.FAILED, document_id, DigestMismatch.code)
    return Change(item.seq, item.state, to, document_id, None if to is ItemState.AVAILABLE else owned.reason)
