"""What is answered about uploads that go to the bucket itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from ingest_api.uploads.tus_answers import PATH as TUS_PATH
from ingest_api.uploads.tus_headers import VERSION
from ingest_api.web import Web
from pipeline.documents import Document, Upload, UploadMethod, UploadState
from pipeline.parts import MOST, PartUrl, count_of
from pipeline.presigned import WhatToDo
from pipeline.states import Reason, State
from pipeline.storage.abilities import SentPart, SignedForm, SignsParts
from pipeline.storage.base import SignedPut

PATH = "/v1/uploads"
GRAIN = 256 << 10  # Cloud Storage takes pieces of a session in multiples of this
PAGE = 100  # part URLs in one answer, unless more are asked for


class SignedRequest(BaseModel):
    """Send the bytes by this method to this URL, with exactly these headers. It needs no key."""

    method: str = "PUT"
    url: str
    headers: dict[str, str]
    expires_at: datetime


class FormOut(BaseModel):
    """POST a form to this URL: these fields first, and last the file, as the field `file`. It needs no key."""

    method: str = "POST"
    url: str
    fields: dict[str, str]
    file_field: str = "file"
    expires_at: datetime


class PartOut(SignedRequest):
    """Where one part goes. Keep the ETag of the answer, or ask `sent` for it."""

    number: int
    size: int | None = Field(None, description="Bytes; signed.")


class PartPage(BaseModel):
    """URLs of parts, signed just now."""

    parts: list[PartOut]
    next: str | None = Field(None, description="Where the next ones are; absent on the last page.")


class MultipartOut(PartPage):
    """Cut the file into parts of `part_size`, send each to its URL, in any order, several at once; then complete."""

    part_size: int = Field(description="Bytes of every part but the last.")
    part_count: int | None = Field(None, description="How many there will be, where the size is known.")
    least_size: int = Field(description="Bytes that every part but the last must have.")
    most_parts: int


class SessionOut(BaseModel):
    """A resumable session of Cloud Storage. Whoever has the URL may send these bytes, once; it needs no key."""

    method: str = "PUT"
    url: str
    grain: int = Field(GRAIN, description="Pieces but the last are multiples of so many bytes.")


class TusOut(BaseModel):
    """Go on by tus with this upload, with the API key."""

    url: str
    headers: dict[str, str]
    request_bytes: int | None = Field(None, description="The most bytes of one request here.")


class SentPartOut(BaseModel):
    """A part that the bucket has."""

    number: int
    size: int
    etag: str


class SentParts(BaseModel):
    """All parts that have arrived, in order."""

    parts: list[SentPartOut]


class DocumentState(BaseModel):
    """The document that the upload became."""

    id: UUID
    state: State
    reason: Reason | None = None
    detail: str | None = None


class UploadOut(BaseModel):
    """An upload, and what to do next. Members that have no value are left out."""

    id: UUID = Field(description="The document's id, too.")
    state: UploadState
    method: UploadMethod
    name: str | None = None
    size: int | None = None
    declared_type: str | None = None
    declared_sha256: str | None = None
    offset: int = Field(description="Bytes that have come by way of this service, or in all once it is complete.")
    created_at: datetime
    expires_at: datetime | None = Field(None, description="When it is given up unless it is complete by then.")
    document: DocumentState | None = None
    put: SignedRequest | None = None
    post: FormOut | None = None
    multipart: MultipartOut | None = None
    session: SessionOut | None = None
    tus: TusOut | None = None
    links: dict[str, str]


def upload_out(web: Web, upload: Upload, document: Document | None = None, todo: WhatToDo = None) -> UploadOut:
    """An upload as its tenant sees it; with `todo` also what to do next."""
    base, is_open = f"{PATH}/{upload.id}", upload.state is UploadState.OPEN
    links = {"self": base}
    if is_open:
        links |= {"complete": f"{base}/complete", "sign": f"{base}/sign"}
        if upload.method is UploadMethod.MULTIPART:
            links |= {"parts": f"{base}/parts", "sent": f"{base}/parts/sent"}
    if document is not None:
        links |= {"document": f"/v1/documents/{document.id}", "events": f"/v1/documents/{document.id}/events"}
    out = UploadOut(
        id=upload.id,
        state=upload.state if document is None else UploadState.COMPLETED,
        method=upload.method,
        name=upload.name,
        size=upload.size,
        declared_type=upload.declared_type,
        declared_sha256=upload.declared_sha256,
        offset=upload.offset,
        created_at=upload.created_at,
        expires_at=upload.expires_at if is_open else None,
        document=DocumentState.model_validate(document, from_attributes=True) if document else None,
        links=links,
    )
    return out.model_copy(update=_next(web, upload, todo)) if is_open else out


def _next(web: Web, upload: Upload, todo: WhatToDo) -> dict[str, Any]:
    match todo:
        case SignedPut():
            return {"put": SignedRequest(**_signed(todo))}
        case SignedForm():
            return {"post": FormOut(url=todo.url, fields=dict(todo.fields), expires_at=todo.expires_at)}
        case list():
            return {"multipart": _multipart(web, upload, todo)}
        case str():
            return {"session": SessionOut(url=todo)}
    if upload.method is UploadMethod.TUS:
        settings = web.services.settings
        url = f"{settings.base_url}{TUS_PATH}/{upload.id}"
        return {"tus": TusOut(url=url, headers={"Tus-Resumable": VERSION}, request_bytes=settings.body_limit)}
    return {}


def _signed(put: SignedPut) -> dict[str, Any]:
    return {"method": put.method, "url": put.url, "headers": request_headers(put), "expires_at": put.expires_at}


def request_headers(put: SignedPut) -> dict[str, str]:
    """What the client has to send. Its length it computes itself, and a browser lets nobody else set it."""
    return {name: value for name, value in put.headers.items() if name.lower() != "content-length"}


def _multipart(web: Web, upload: Upload, urls: Sequence[PartUrl]) -> MultipartOut:
    store = web.services.quarantine
    if not isinstance(store, SignsParts):
        raise TypeError("parts of a store that has none")
    part_size = upload.details["part_bytes"]
    page = part_page(upload, urls, limit=PAGE)
    return MultipartOut(
        parts=page.parts,
        next=page.next,
        part_size=part_size if isinstance(part_size, int) else store.least_part,
        part_count=count_of(upload),
        least_size=store.least_part,
        most_parts=store.most_parts,
    )


def part_page(upload: Upload, urls: Sequence[PartUrl], *, limit: int) -> PartPage:
    """A page of part URLs, and where the next one is."""
    last = urls[-1].number
    more = last < (count_of(upload) or MOST)
    following = f"{PATH}/{upload.id}/parts?from={last + 1}&limit={limit}" if more else None
    return PartPage(
        parts=[PartOut(number=url.number, size=url.size, **_signed(url.put)) for url in urls], next=following
    )


def sent_shown(parts: Sequence[SentPart]) -> SentParts:
    """What has arrived."""
    return SentParts(parts=[SentPartOut(number=part.number, size=part.size, etag=f'"{part.tag}"') for part in parts])
