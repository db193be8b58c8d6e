"""Uploads that their sender sends to the bucket itself: which ways there are, what to do, and how they end.

    begin -> what_to_do (signed URLs) -> the sender and the store -> complete | an event | the sweeper

A signed URL is good for one key that the service chose, and for a type and a size as far as the store can bind them.
What it cannot bind is looked at when it has landed: the object is pinned and measured then, and whatever comes to the
same key later is another version, which nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from pipeline.documents import Json, Upload, UploadMethod, UploadPart, UploadState
from pipeline.errors import (
    Conflict,
    NoSuchWay,
    UploadIncomplete,
)
from pipeline.landing import SENT_WHOLE, Outcome, land_upload
from pipeline.names import clean_name
from pipeline.parts import ClaimedPart, PartUrl, lifetime, matched, must_fit, part_bytes, part_urls, sent_parts
from pipeline.services import Services
from pipeline.storage.abilities import OpensSessions, SignedForm, SignsForms, SignsParts
from pipeline.storage.base import ObjectHeaders, SignedPut
from pipeline.uploads import admit, find, give_up, must_be_open, new_upload, receive, record, record_once

if TYPE_CHECKING:
    from pipeline.storage.base import ObjectStore

SINGLE = 5 << 30  # bytes that S3 takes in one request
LARGE = 64 << 20  # bytes from which it is worth being able to go on where it broke off
PRESIGNED = SENT_WHOLE | {UploadMethod.MULTIPART}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks for."""

    name: str | None  # not cleaned
    declared_type: str | None
    size: int | None
    sha256: str | None = None
    methods: tuple[UploadMethod, ...] = ()  # that it can do, the best first; none named: any


WhatToDo = SignedPut | SignedForm | list[PartUrl] | str | None


def ways(services: Services, size: int | None) -> list[UploadMethod]:
    """How a file of so many bytes (None: nobody knows) may come here, the best way first."""
    store, limits = services.quarantine, services.policy.limits
    if size is None and services.policy.quota.bytes is not None:
        return [UploadMethod.TUS]  # the only one whose bytes are counted against the quota as they come
    whole, pieces = [], []
    if serves(services):  # and counts the bytes
        if (size or 0) <= (services.settings.body_limit or limits.bytes):
            whole.append(UploadMethod.PUT)
    elif size is not None and size <= SINGLE:
        whole.append(UploadMethod.PUT)
    if isinstance(store, SignsForms) and (size or 0) <= SINGLE:
        whole.append(UploadMethod.POST)
    if isinstance(store, SignsParts):
        pieces.append(UploadMethod.MULTIPART)
    elif isinstance(store, OpensSessions):
        pieces.append(UploadMethod.SESSION)
    if size is None:
        # A PUT last: without a size nothing tells its end from a connection that broke.
        forms = [way for way in whole if way is not UploadMethod.PUT]
        return [*pieces, *forms, UploadMethod.TUS, *(way for way in whole if way is UploadMethod.PUT)]
    return [*(whole + pieces if size <= LARGE else pieces + whole), UploadMethod.TUS]


def serves(services: Services) -> bool:
    """Whether the store's signed URLs lead to this API."""
    return not isinstance(services.quarantine, SignsParts | OpensSessions)


def begin(
    wanted: Wanted,
    tenant: str,
    services: Services,
    *,
    correlation_id: str,
    once: tuple[str, str] | None = None,
    origin: str | None = None,
) -> tuple[Upload, bool]:
    """Open an upload, and whether it was there already. `once`: an Idempotency-Key and the fingerprint of the request.
    `origin` is the web page's that will send to the store.

    Raises:
        NoSuchWay: in none of the ways that the client can do; `methods` lists those that there are.
        TooLarge, EmptyFile, TypeNotAllowed, QuotaExceeded, IdempotencyConflict: as for any upload.
        StoreError: the store could not begin.
    """
    # First: what is refused in every way must not be told that another way might do.
    admit(services.policy, name=clean_name(wanted.name), declared_type=wanted.declared_type, size=wanted.size)
    possible = ways(services, wanted.size)
    method = next((way for way in wanted.methods if way in possible), None) if wanted.methods else possible[0]
    if method is None:
        names = [way.value for way in possible]
        raise NoSuchWay(f"This store takes such a file by {', '.join(names)}.", methods=names)
    details: dict[str, Json] = {}
    if isinstance(store := services.quarantine, SignsParts) and method is UploadMethod.MULTIPART:
        details["part_bytes"] = part_bytes(wanted.size or services.policy.limits.bytes, store)
    upload = new_upload(
        services,
        tenant,
        method,
        name=wanted.name,
        declared_type=wanted.declared_type,
        size=wanted.size,
        declared_sha256=wanted.sha256,
        details=details,
        correlation_id=correlation_id,
    )
    if once is None:
        upload, before = record(upload, services), False
    else:
        upload, before = record_once(upload, services, key=once[0], fingerprint=once[1])
    return prepare(upload, services, origin=origin), before


def prepare(upload: Upload, services: Services, *, origin: str | None = None) -> Upload:
    """Have the store begin what takes several requests, unless it has.

    Whoever is killed in between leaves an unfinished upload that nobody knows of: the sweeper aborts it, and the next
    request begins another.
    """
    store = services.quarantine
    if upload.progress or upload.state is not UploadState.OPEN:
        return upload
    if upload.method is UploadMethod.MULTIPART and isinstance(store, SignsParts):
        begun = store.begin_parts(upload.key, headers_of(upload))
    elif upload.method is UploadMethod.SESSION and isinstance(store, OpensSessions):
        begun = store.open_session(upload.key, headers_of(upload), size=upload.size, origin=origin)
    else:
        return upload
    with services.ledger.begin() as tx:
        ours = tx.begin_in_store(upload.id, progress=begun)
        upload = tx.upload(upload.id)
    if not ours:  # another request was faster
        _drop(store, upload, begun)
    return upload


def _drop(store: ObjectStore, upload: Upload, begun: str) -> None:
    if isinstance(store, SignsParts):
        store.drop_parts(upload.key, begun)
    elif isinstance(store, OpensSessions):
        store.close_session(begun)


def headers_of(upload: Upload) -> ObjectHeaders:
    """What is signed along: the type. The name is only in the ledger."""
    return ObjectHeaders(upload.declared_type or "application/octet-stream")


def what_to_do(upload: Upload, services: Services) -> WhatToDo:
    """What the sender of an open upload does next, by its method: PUT, POST: a signed request. MULTIPART: the first
    parts' URLs. SESSION: its URL. None: tus. Raises as `must_be_open` does."""
    must_be_open(upload)
    store, lives = services.quarantine, lifetime(services)
    match upload.method:
        case UploadMethod.PUT:
            return store.sign_put(upload.key, headers_of(upload), lives, size=upload.size)
        case UploadMethod.POST if isinstance(store, SignsForms):
            least, most = upload.size or 1, upload.size or services.policy.limits.bytes
            return store.sign_form(upload.key, headers_of(upload), lives, least=least, most=most)
        case UploadMethod.MULTIPART:
            return part_urls(upload, services, first=1, limit=100)
        case UploadMethod.SESSION:
            return upload.progress
    return None


def complete(
    upload_id: UUID, tenant: str, services: Services, *, claimed: Sequence[ClaimedPart] | None = None
) -> tuple[Upload, bool]:
    """The sender says that it has sent everything: look, and make the document. The upload as it is then, and whether
    this made its document; of one that is complete, again the same. `claimed`: its parts; not said: all that the store
    has.

    Raises:
        NotFound, UploadGone: it is not there, or is over.
        UploadIncomplete: nothing has arrived yet, or not everything: `missing` parts, or bytes.
        BadRequest: a part is too small to be one. TooLarge: the parts have more bytes than announced, or allowed.
        StoreError: the store could not be asked.
    """
    upload = find(upload_id, tenant, services)
    if _is_document(upload, services):
        return upload, False
    if upload.method in SENT_WHOLE:
        outcome = land_upload(upload, services, actor="upload")
        made = outcome is Outcome.TAKEN
        if outcome is Outcome.GONE and upload.state is UploadState.OPEN:
            raise UploadIncomplete("Nothing has arrived under the upload's URL yet.", missing=[])
    elif upload.method is UploadMethod.MULTIPART:
        must_be_open(upload)
        parts = matched(sent_parts(upload, services), claimed)
        must_fit(upload, parts, services)
        noted = [UploadPart(part.number, part.size, part.tag) for part in parts]
        made = receive(upload, services, size=sum(part.size for part in parts), parts=noted) is not None
    else:
        must_be_open(upload)
        raise UploadIncomplete(
            "This upload is completed by its last byte." if upload.method is UploadMethod.TUS
            else "This upload is completed where it was begun.",
            missing=[],
            expected_bytes=upload.size,
            received_bytes=upload.offset,
        )  # fmt: skip
    upload = find(upload_id, tenant, services)
    if not _is_document(upload, services):
        must_be_open(upload)
    return upload, made


def _is_document(upload: Upload, services: Services) -> bool:
    """Also one whose time was over before its last byte came."""
    if upload.state is UploadState.OPEN:
        return False
    with services.ledger.reading() as tx:
        return bool(tx.known({upload.id}))


def abort(upload_id: UUID, tenant: str, services: Services) -> None:
    """Give an upload up, of whatever kind. Of one that was given up already nothing happens.

    Raises:
        NotFound: it is not there. UploadGone: its time was over. Conflict: it is complete: delete its document.
    """
    upload = find(upload_id, tenant, services)
    if upload.state is UploadState.OPEN and not give_up(upload, services):
        upload = find(upload_id, tenant, services)
    if upload.state is UploadState.EXPIRED:
        must_be_open(upload)
    if upload.state in (UploadState.COMPLETED, UploadState.JOINED):
        raise Conflict("This upload is complete: delete its document instead.", state=upload.state.value)
