"""Uploads that take several requests: opened, locked by one request at a time, moved on, ended, cleaned up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from uuid import UUID

from sqlalchemy import and_, bindparam, delete, func, insert, or_, select

from pipeline.documents import Json, Upload, UploadMethod, UploadState
from pipeline.errors import NotFound, ObjectExists
from pipeline.ledger.chain import plain
from pipeline.ledger.clock import now_ms, span_ms
from pipeline.ledger.models import api_keys, documents, upload_parts, uploads
from pipeline.ledger.queries.base import Statements, chunks, locking, updated
from pipeline.ledger.queries.feeding import origin_of
from pipeline.ledger.rows import Columns, upload_of
from pipeline.states import State

ONE = select(uploads).where(uploads.c.id == bindparam("upload_id"))
LOCK_ROW = locking(select(uploads).where(uploads.c.id == bindparam("upload_id")), uploads)
OPEN = uploads.c.state == UploadState.OPEN
WAITS = and_(uploads.c.state == UploadState.COMPLETED, uploads.c.method == UploadMethod.TUS_PARTIAL)
UNLOCKED = or_(uploads.c.lock_until.is_(None), uploads.c.lock_until < now_ms())
MINE = and_(uploads.c.id == bindparam("its_id"), OPEN, uploads.c.lock_owner == bindparam("its_owner"))
LOCK = (
    updated(uploads)
    .where(uploads.c.id == bindparam("its_id"), OPEN, or_(UNLOCKED, uploads.c.lock_owner == bindparam("its_owner")))
    .values(lock_owner=bindparam("owner"), lock_until=now_ms() + bindparam("lease"))
)
UNLOCK = (
    updated(uploads)
    .where(uploads.c.id == bindparam("its_id"), uploads.c.lock_owner == bindparam("its_owner"))
    .values(lock_owner=None, lock_until=None)
)
HELD = updated(uploads).where(MINE)
END = updated(uploads).where(uploads.c.id == bindparam("its_id"), OPEN)
OVERDUE = and_(OPEN, uploads.c.expires_at <= now_ms(), UNLOCKED)
EXPIRE = (
    updated(uploads)
    .where(uploads.c.id == bindparam("its_id"), OVERDUE)
    .values(state=UploadState.EXPIRED, lock_owner=None, lock_until=None)
)
EXPIRED = select(uploads).where(OVERDUE).order_by(uploads.c.expires_at).limit(bindparam("at_most"))
# A document that is not put together yet, or failed at that, still needs what its upload left.
TO_CLEAN = (
    select(uploads)
    .select_from(uploads.outerjoin(documents, documents.c.id == uploads.c.id))
    .where(
        uploads.c.cleaned_at.is_(None),
        uploads.c.state.not_in([UploadState.OPEN, UploadState.JOINED]),
        or_(documents.c.state.is_(None), documents.c.state.not_in([State.RECEIVED, State.FAILED])),
        # A finished piece waits until it is needed, or until its own time is up.
        or_(uploads.c.method != UploadMethod.TUS_PARTIAL, uploads.c.expires_at <= now_ms()),
    )
    .limit(bindparam("at_most"))
)
# A finished piece that nothing has begun to clean up, nor will while it is being taken.
SPARE = timedelta(seconds=60)
PIECE = and_(
    uploads.c.id == bindparam("its_id"),
    WAITS,
    uploads.c.cleaned_at.is_(None),
)
JOIN = updated(uploads).where(PIECE, uploads.c.expires_at > now_ms() + span_ms(SPARE))
DISCARD = updated(uploads).where(PIECE).values(state=UploadState.ABORTED, expires_at=now_ms())
CLEANED = updated(uploads).where(uploads.c.id == bindparam("its_id")).values(cleaned_at=now_ms(), progress="")
LEFT = select(uploads.c.id, uploads.c.progress).where(uploads.c.cleaned_at.is_(None), uploads.c.progress != "")
FORGET = delete(uploads).where(uploads.c.cleaned_at < now_ms() - bindparam("older_than"))
FORGET_PARTS = delete(upload_parts).where(
    upload_parts.c.upload_id.in_(select(uploads.c.id).where(uploads.c.cleaned_at < now_ms() - bindparam("older_than")))
)
# Where no size was announced, what has come so far.
IN_USE = select(func.count(), func.coalesce(func.sum(func.coalesce(uploads.c.size, uploads.c.offset)), 0)).where(
    uploads.c.tenant == bindparam("tenant"),
    or_(OPEN, and_(WAITS, uploads.c.cleaned_at.is_(None))),  # a finished piece has a place in the bucket, too
)

# Whoever uploads has an API key: the first one's row stands for the tenant.
ANY_KEY = (
    select(api_keys.c.id)
    .where(api_keys.c.tenant == bindparam("tenant"), api_keys.c.revoked_at.is_(None))
    .order_by(api_keys.c.id)
    .limit(1)
)
TENANT_ROW = ANY_KEY.with_for_update()
STORED = select(func.count(), func.coalesce(func.sum(documents.c.size), 0)).where(
    documents.c.tenant == bindparam("tenant"),
    documents.c.state.not_in([State.EXPIRED, State.DELETED, State.RECALLED]),
    or_(documents.c.state != State.REJECTED, documents.c.erased_at.is_(None)),
)


class UploadQueries(Statements):
    """Every write names what it expects to find, so a request that comes twice, or too late, changes nothing."""

    def open_upload(self, upload: Upload, *, expires_in: timedelta) -> Upload:
        """Record a new way in. Its times are set here, by the database's clock. ObjectExists: the id is taken."""
        now = self._now()
        row: Columns = {
            "id": upload.id,
            "tenant": upload.tenant,
            "method": upload.method,
            "state": upload.state,
            "key": upload.key,
            "name": upload.name,
            "declared_type": upload.declared_type,
            "size": upload.size,
            "declared_sha256": upload.declared_sha256,
            "offset": upload.offset,
            "progress": upload.progress,
            "details": plain(upload.details),
            "version": upload.version,
            "batch_id": upload.batch_id,
            "correlation_id": upload.correlation_id,
            "created_at": now,
            "expires_at": now + span_ms(expires_in),
            "origin": _origin(upload),
        }
        self._write_once(insert(uploads), row, ObjectExists("there is an upload with this id already"))
        return self.upload(upload.id)

    def upload(self, upload_id: UUID, *, tenant: str | None = None) -> Upload:
        """One upload. NotFound also for another tenant's: nobody is told that it is there."""
        row = self._read(ONE, {"upload_id": upload_id}).one_or_none()
        if row is None or (tenant is not None and row.tenant != tenant):
            raise NotFound("there is no such upload")
        return upload_of(row)

    def uploads(self, ids: list[UUID], *, tenant: str) -> dict[UUID, Upload]:
        """Those of the tenant's uploads that are there, by id."""
        found: dict[UUID, Upload] = {}
        for some in chunks(ids):
            rows = self._read(select(uploads).where(uploads.c.id.in_(some), uploads.c.tenant == tenant))
            found |= {row.id: upload_of(row) for row in rows}
        return found

    def lock_upload(self, upload_id: UUID, *, owner: str, lease: timedelta) -> bool:
        """Keep every other request away for `lease`; the same owner may renew. False: held by another, or not open."""
        values = {"its_id": upload_id, "its_owner": owner, "owner": owner, "lease": span_ms(lease)}
        return self._write(LOCK, values).rowcount == 1

    def unlock_upload(self, upload_id: UUID, *, owner: str) -> None:
        """Let others in; nothing happens where the lock was lost."""
        self._write(UNLOCK, {"its_id": upload_id, "its_owner": owner})

    def advance_upload(
        self,
        upload_id: UUID,
        *,
        owner: str,
        offset: int,
        progress: str,
        lease: timedelta,
        size: int | None = None,
        expires_in: timedelta | None = None,
    ) -> bool:
        """Note how far it has got, and hold the lock on. False: it is not ours any more, or not open; stop writing."""
        values: Columns = {"offset": offset, "progress": progress, "lock_until": now_ms() + span_ms(lease)}
        if size is not None:
            values["size"] = size
        if expires_in is not None:
            values["expires_at"] = now_ms() + span_ms(expires_in)
        return self._write(HELD.values(**values), {"its_id": upload_id, "its_owner": owner}).rowcount == 1

    def end_upload(
        self,
        upload_id: UUID,
        to: UploadState,
        *,
        owner: str | None = None,
        offset: int | None = None,
        progress: str | None = None,
        size: int | None = None,
        version: str | None = None,
        details: Mapping[str, Json] | None = None,
        expires_in: timedelta | None = None,
    ) -> bool:
        """Close an open upload; of any number that try, one gets True. With `owner` only its lock's holder may."""
        values: Columns = {"state": to, "lock_owner": None, "lock_until": None}
        known = {"offset": offset, "progress": progress, "size": size, "version": version}
        values |= {name: value for name, value in known.items() if value is not None}
        if details is not None:
            values["details"] = plain(details)
        if expires_in is not None:
            values["expires_at"] = now_ms() + span_ms(expires_in)
        if owner is None:
            return self._write(END.values(**values), {"its_id": upload_id}).rowcount == 1
        return self._write(HELD.values(**values), {"its_id": upload_id, "its_owner": owner}).rowcount == 1

    def join_piece(self, upload_id: UUID, *, details: Mapping[str, Json]) -> bool:
        """Make a finished partial upload the piece of another one. False: it is none, is one already, or its time is
        up."""
        values: Columns = {"state": UploadState.JOINED, "details": plain(details)}
        return self._write(JOIN.values(**values), {"its_id": upload_id}).rowcount == 1

    def discard_piece(self, upload_id: UUID) -> bool:
        """Have a finished partial upload that nothing is made of removed. False: it is none."""
        return self._write(DISCARD, {"its_id": upload_id}).rowcount == 1

    def hold_upload(self, upload_id: UUID, *, tenant: str | None = None) -> Upload:
        """One upload, which nobody else changes until this transaction ends. NotFound, as `upload` does."""
        row = self._write(LOCK_ROW, {"upload_id": upload_id}).one_or_none()
        if row is None or (tenant is not None and row.tenant != tenant):
            raise NotFound("there is no such upload")
        return upload_of(row)

    def begin_in_store(self, upload_id: UUID, *, progress: str) -> bool:
        """Note what the store calls an open upload, for the first time. False: somebody else has, or it is over."""
        values = {"progress": progress}
        return self._write(END.where(uploads.c.progress == "").values(**values), {"its_id": upload_id}).rowcount == 1

    def keep_upload(self, upload_id: UUID, *, expires_in: timedelta) -> None:
        """Let an open upload stay open for so long from now."""
        self._write(END.values(expires_at=now_ms() + span_ms(expires_in)), {"its_id": upload_id})

    def expired_uploads(self, limit: int) -> list[Upload]:
        """Open uploads whose time is up and that no request is working on."""
        return [upload_of(row) for row in self._read(EXPIRED, {"at_most": limit})]

    def expire_upload(self, upload_id: UUID) -> bool:
        """End an upload that is one of those still. False: a request went on with it since they were listed, and was
        promised more time."""
        return self._write(EXPIRE, {"its_id": upload_id}).rowcount == 1

    def open_uploads_by(self, methods: Collection[UploadMethod], *, after: UUID | None, limit: int) -> list[Upload]:
        """Open uploads of these kinds, by id, behind `after`."""
        wanted = select(uploads).where(OPEN, uploads.c.method.in_(sorted(methods)))
        if after is not None:
            wanted = wanted.where(uploads.c.id > after)
        return [upload_of(row) for row in self._read(wanted.order_by(uploads.c.id).limit(limit))]

    def uploads_to_clean(self, limit: int) -> list[Upload]:
        """Uploads that are over and of which something may be left in the store that nobody needs."""
        return [upload_of(row) for row in self._read(TO_CLEAN, {"at_most": limit})]

    def upload_cleaned(self, upload_id: UUID) -> None:
        """Record that nothing is left."""
        self._write(CLEANED, {"its_id": upload_id})

    def unfinished(self) -> dict[UUID, str]:
        """The store's own words for everything that is still needed, by upload: what a sweep must not abort."""
        return {row.id: row.progress for row in self._read(LEFT)}

    def upload_waits(self, upload_id: UUID) -> bool:
        """Whether more may come to it, or to what it is a piece of."""
        row = self._read(ONE, {"upload_id": upload_id}).one_or_none()
        return row is not None and row.cleaned_at is None

    def forget_uploads(self, *, older_than: timedelta) -> int:
        """Drop the rows of uploads that were cleaned up so long ago; returns how many."""
        values = {"older_than": span_ms(older_than)}
        self._write(FORGET_PARTS, values)
        return self._write(FORGET, values).rowcount

    def open_uploads(self, tenant: str) -> tuple[int, int]:
        """How many uploads of the tenant's are open, or wait to be joined, and how many bytes they have announced, or
        brought so far."""
        count, size = self._read(IN_USE, {"tenant": tenant}).one()
        return int(count), int(size)

    def lock_tenant(self, tenant: str) -> None:
        """Have whoever else counts this tenant's things wait until this transaction ends (SQLite: all writers do)."""
        self._write(TENANT_ROW, {"tenant": tenant})

    def stored(self, tenant: str) -> tuple[int, int]:
        """How many of the tenant's documents have bytes in a bucket, and how many bytes. Reads all of its rows."""
        count, size = self._read(STORED, {"tenant": tenant}).one()
        return int(count), int(size)

    def has_key(self, tenant: str) -> bool:
        """Whether anybody can ask for this tenant's documents."""
        return self._read(ANY_KEY, {"tenant": tenant}).first() is not None


def _origin(upload: Upload) -> str | None:
    """Where a drop lay, so that it is found by that once its object is gone."""
    match upload.method, upload.details.get("sources"):
        case UploadMethod.DROP, [{"key": str(key)}, *_]:
            return origin_of(key)
    return None
