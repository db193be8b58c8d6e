"""`/v1/documents`: what became of an upload, and the ways out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from ingest_api.auth import Principal, Reader, Writer
from ingest_api.problems import documented
from ingest_api.schemas import DocumentDetail, DocumentOut, DocumentPage, detailed, shown
from ingest_api.web import Web, web_of
from pipeline.documents import Document, Event, Filters
from pipeline.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotAvailable,
    NotFound,
    Unauthorized,
)
from pipeline.states import SERVED, Reason, State
from pipeline.storage.base import ObjectRef

router = APIRouter(prefix="/v1/documents", tags=["documents"])

_COMMON = documented(Unauthorized, Forbidden)
_ONE = documented(Unauthorized, Forbidden, NotFound)
_OUT = documented(Unauthorized, Forbidden, NotFound, NotAvailable)
_ACT = documented(Unauthorized, Forbidden, NotFound, Conflict)


@router.get(
    "",
    summary="List documents, newest first",
    response_model=DocumentPage,
    response_model_exclude_none=True,
    responses={**_COMMON, **documented(BadRequest)},
)
async def listing(
    request: Request,
    who: Reader,
    state: Annotated[list[State], Query(description="Only these states; may be given several times.")] = [],  # noqa: B006
    sha256: Annotated[str | None, Query(pattern="^[0-9a-fA-F]{64}$", description="Only these bytes.")] = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")] = None,
) -> DocumentPage:
    """A page of the tenant's documents. Times without an offset are UTC."""
    web = web_of(request)
    filters = Filters(
        who.tenant, frozenset(state), sha256.lower() if sha256 else None, _utc(created_after), _utc(created_before)
    )

    def look() -> tuple[list[Document], str | None]:
        with web.services.ledger.reading() as tx:
            return tx.documents(filters, limit=limit, cursor=cursor)

    page, following = await web.threads.rows(look)
    return DocumentPage(documents=[shown(document) for document in page], next_cursor=following)


def _utc(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


@router.get(
    "/{document_id}",
    summary="One document with verdicts, history and timings",
    response_model=DocumentDetail,
    response_model_exclude_none=True,
    responses=_ONE,
)
async def one(request: Request, who: Reader, document_id: UUID) -> DocumentDetail:
    """Where the document is and why, what each engine said, and how long each step took."""
    web = web_of(request)

    def look() -> DocumentDetail:
        with web.services.ledger.reading() as tx:
            document = tx.document(document_id, tenant=who.tenant)
            return detailed(document, tx.verdicts(document_id), tx.history(document_id))

    return await web.threads.rows(look)


@router.get(
    "/{document_id}/content",
    summary="Download the document",
    status_code=307,
    response_class=RedirectResponse,
    responses={307: {"description": "`Location` is a signed URL of the bytes that were scanned; short-lived."}, **_OUT},
)
async def content(request: Request, who: Reader, document_id: UUID) -> RedirectResponse:
    """Only an AVAILABLE document has content; of any other the answer is 409 with its state and reason."""
    web = web_of(request)
    document = await available(web, who, document_id)
    return await _signed(web, document.served)


@router.get(
    "/{document_id}/pdf",
    summary="Download the searchable PDF",
    status_code=307,
    response_class=RedirectResponse,
    responses={307: {"description": "`Location` is a signed URL; short-lived."}, **_OUT},
)
async def pdf(request: Request, who: Reader, document_id: UUID) -> RedirectResponse:
    """404 where none was made."""
    web = web_of(request)
    return await _signed(web, _part(await available(web, who, document_id), "pdf"))


@router.get(
    "/{document_id}/text",
    summary="Read the recognized text",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_OUT},
)
async def text(request: Request, who: Reader, document_id: UUID) -> StreamingResponse:
    """UTF-8, streamed from serving. 404 where no text was recognized."""
    web = web_of(request)
    ref = _part(await available(web, who, document_id), "text")
    pieces = web.services.serving.get(ref)
    # The first piece before the first header: a store that cannot answer is a problem document, not half a text.
    first = await web.threads.bytes(next, pieces, b"")
    return StreamingResponse(pieces_of(web, first, pieces), media_type="text/plain; charset=utf-8")


async def pieces_of(web: Web, first: bytes, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The first piece and all others; the iterator is closed even if the client leaves half way."""
    try:
        piece = first
        while piece:
            yield piece
            piece = await web.threads.bytes(next, pieces, b"")
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            with contextlib.suppress(RuntimeError):  # the pools are closed: the process is going down
                await web.threads.bytes(close)


@router.get(
    "/{document_id}/receipt",
    summary="The signed clearance receipt",
    response_class=Response,
    responses={200: {"content": {"application/jose": {"schema": {"type": "string"}}}}, **_OUT},
)
async def receipt(request: Request, who: Reader, document_id: UUID) -> Response:
    """A compact JWS over digests, verdicts and versions; its keys are at /.well-known/airlock-receipt-keys.json."""
    web = web_of(request)

    def look() -> str | None:
        with web.services.ledger.reading() as tx:
            _must_be_available(tx.document(document_id, tenant=who.tenant))
            return tx.receipt(document_id)

    signed = await web.threads.rows(look)
    if signed is None:
        raise NotFound("This document has no receipt.")
    return Response(signed, media_type="application/jose")


@router.delete("/{document_id}", summary="Delete a document", status_code=204, response_class=Response, responses=_ACT)
async def delete(request: Request, who: Writer, document_id: UUID) -> Response:
    """From now on nothing of it is handed out, and its bytes are removed. Deleting it again is 204 again.

    409 where its story has ended otherwise (rejected, expired, recalled): there is nothing left to delete.
    """
    web = web_of(request)

    def go() -> Event | None:
        with web.services.ledger.begin() as tx:
            if tx.document(document_id, tenant=who.tenant).state is State.DELETED:
                return None
            return tx.move(document_id, tenant=who.tenant, to=State.DELETED, actor="api", reason=Reason.REQUESTED)

    event = await web.threads.rows(go)
    if event is not None:
        await web.threads.rows(web.services.announcer.announce, [event])
    return Response(status_code=204)


@router.post(
    "/{document_id}/retry",
    summary="Try a failed document again",
    status_code=202,
    response_model=DocumentOut,
    response_model_exclude_none=True,
    responses=_ACT,
)
async def retry(request: Request, who: Writer, document_id: UUID) -> DocumentOut:
    """Takes a FAILED document back to the step that failed. 409 in any other state."""
    web = web_of(request)

    def go() -> tuple[Document, list[Event]]:
        with web.services.ledger.begin() as tx:
            document = tx.replay(document_id, tenant=who.tenant)
            return document, tx.history(document_id)[-1:]

    document, events = await web.threads.rows(go)
    await web.threads.rows(web.services.announcer.announce, events)
    return shown(document)


async def available(web: Web, who: Principal, document_id: UUID) -> Document:
    """The tenant's document, if it can be downloaded. Raises NotFound, NotAvailable."""

    def look() -> Document:
        with web.services.ledger.reading() as tx:
            return tx.document(document_id, tenant=who.tenant)

    document = await web.threads.rows(look)
    _must_be_available(document)
    return document


def _must_be_available(document: Document) -> None:
    over = document.expires_at is not None and document.expires_at <= datetime.now(UTC)
    if document.state not in SERVED or over:
        state = State.EXPIRED if document.state in SERVED else document.state
        reason = Reason.RETENTION if document.state in SERVED else document.reason
        raise NotAvailable(
            f"The document is {state.value}{f' ({reason.value})' if reason else ''}: it has no content to give.",
            state=state.value,
            **({"reason": reason.value} if reason else {}),
        )


def _part(document: Document, name: str) -> ObjectRef:
    served = next((part.served for part in document.parts if part.name == name), None)
    if served is None:
        raise NotFound(f"This document has no {name}.")
    return served


async def signed_url(web: Web, ref: ObjectRef | None) -> str:
    """A short-lived URL of exactly these bytes. Raises NotFound for none."""
    if ref is None:
        raise NotFound("This document has no content.")
    lives = timedelta(seconds=web.services.settings.download_seconds)
    # In a thread: some clouds sign by asking a server.
    return await web.threads.bytes(web.services.serving.sign_get, ref, lives)


async def _signed(web: Web, ref: ObjectRef | None) -> RedirectResponse:
    url = await signed_url(web, ref)
    # no-store: the URL is a secret while it lives.
    return RedirectResponse(url, 307, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
