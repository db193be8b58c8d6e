"""`/v1/batches`: many documents and one answer. What becomes of the items is not this request's work."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated
from uuid import UUID

import anyio
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from ingest_api.auth import Principal, Reader, Writer
from ingest_api.batch_bodies import BODY, JSON, Given, of_json, read_manifest
from ingest_api.batch_schemas import (
    CANCELLED_FROM,
    RETRIED_FROM,
    BatchCreated,
    BatchOut,
    BatchPage,
    created,
    shown,
)
from ingest_api.problems import InvalidParameters, Stalled, UnsupportedContent, correlation_of, documented
from ingest_api.uploads.bodies import read_body
from ingest_api.uploads.idempotency import idempotency_key
from ingest_api.uploads.stream import refuse_coded, unstalled
from ingest_api.web import Web, web_of
from pipeline.batches import Batch, BatchState, ItemState, Source
from pipeline.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    IdempotencyConflict,
    LedgerUnavailable,
    NotFound,
    ObjectExists,
    QuotaExceeded,
    TooLarge,
    Unauthorized,
)
from pipeline.loading import Loader
from pipeline.manifest import Format
from pipeline.names import clean_name

router = APIRouter(prefix="/v1/batches", tags=["batches"])

JSON_BYTES = 4 << 20  # longer lists are sent as manifests

_COMMON = documented(Unauthorized, Forbidden)
_ONE = documented(Unauthorized, Forbidden, NotFound)


@router.post(
    "",
    status_code=202,
    summary="Make a batch",
    response_model=None,
    responses={
        202: {"model": BatchCreated, "description": "It is written down, and will be worked off."},
        **documented(
            BadRequest,
            Unauthorized,
            Forbidden,
            NotFound,
            Stalled,
            TooLarge,
            UnsupportedContent,
            IdempotencyConflict,
            InvalidParameters,
            QuotaExceeded,
            LedgerUnavailable,
        ),
    },
    openapi_extra=BODY,
)
async def create(
    request: Request,
    who: Writer,
    name: Annotated[str | None, Query(max_length=1024, description="Of a manifest.")] = None,
) -> Response:
    """The answer comes as soon as the items are written down. Follow `events` until it is `completed`.

    An item that is not there, is another tenant's or lies elsewhere fails by itself, and always in the same way.
    """
    web = web_of(request)
    refuse_coded(request.headers)
    key = idempotency_key(request.headers)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (JSON, *Format):
        raise UnsupportedContent(f"A batch is {JSON}, or a manifest in {Format.CSV.value} or {Format.NDJSON.value}.")
    earlier = await web.threads.rows(_earlier, web, who, key) if key is not None else None
    digest = sha256(f"batch\n{kind}\n{name or ''}\n".encode())
    loader: Loader | None = None
    try:
        if earlier is not None:
            async for piece in unstalled(request.stream()):
                digest.update(piece)
            return await _again(web, who, earlier, digest.hexdigest())
        given = Given(Source.MANIFEST, name)
        if kind == JSON:
            body = await read_body(request, JSON_BYTES)
            digest.update(body)
            given = await web.threads.rows(of_json, body)
        loader = Loader(
            web.services,
            who.tenant,
            given.source,
            correlation_id=correlation_of(request.scope),
            name=clean_name(given.name),
            prefix=given.prefix,
        )
        if kind == JSON:
            await web.threads.rows(loader.add, given.items)
        else:
            await read_manifest(web.threads, unstalled(request.stream()), Format(kind), loader, digest)
        batch = await web.threads.rows(loader.start, None if key is None else (key, digest.hexdigest()))
        return _answer(created(batch, loader))
    except ObjectExists:
        await _drop(web, loader)
        first = await web.threads.rows(_earlier, web, who, key or "")
        if first is None:
            raise Conflict("Another request with this Idempotency-Key was under way. Try again.") from None
        return await _again(web, who, first, digest.hexdigest())
    except BaseException:
        await _drop(web, loader)
        raise


async def _drop(web: Web, loader: Loader | None) -> None:
    """What it has written goes; should even that fail, the sweeper finds it."""
    if loader is not None:
        with anyio.CancelScope(shield=True):
            await web.threads.rows(loader.drop)


def _earlier(web: Web, who: Principal, key: str) -> tuple[str, UUID] | None:
    with web.services.ledger.reading() as tx:
        found = tx.replay_of(who.tenant, key)
    return None if found is None else (found.fingerprint, found.document_ids[0])


async def _again(web: Web, who: Principal, earlier: tuple[str, UUID], fingerprint: str) -> Response:
    if fingerprint != earlier[0]:
        raise IdempotencyConflict("This Idempotency-Key stands for another request. Use a new key for a new batch.")
    batch = await web.threads.rows(_one, web, who, earlier[1])
    return _answer(shown(batch), **{"Idempotency-Replayed": "true"})


def _answer(body: BatchOut, **headers: str) -> Response:
    headers["Location"] = body.links["self"]
    return Response(body.model_dump_json(exclude_none=True), 202, headers, media_type=JSON)


def _one(web: Web, who: Principal, batch_id: UUID) -> Batch:
    with web.services.ledger.reading() as tx:
        return tx.batch(batch_id, tenant=who.tenant)


@router.get(
    "",
    summary="List batches, newest first",
    response_model=BatchPage,
    response_model_exclude_none=True,
    responses={**_COMMON, **documented(BadRequest)},
)
async def listing(
    request: Request,
    who: Reader,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")] = None,
) -> BatchPage:
    """A page of the tenant's batches."""
    web = web_of(request)

    def look() -> tuple[list[Batch], str | None]:
        with web.services.ledger.reading() as tx:
            return tx.batches(who.tenant, limit=limit, cursor=cursor)

    page, following = await web.threads.rows(look)
    return BatchPage(batches=[shown(batch) for batch in page], next_cursor=following)


@router.get(
    "/{batch_id}",
    summary="One batch and how far it is",
    response_model=BatchOut,
    response_model_exclude_none=True,
    responses=_ONE,
)
async def one(request: Request, who: Reader, batch_id: UUID) -> BatchOut:
    """Costs one row, however many items it has."""
    web = web_of(request)
    return shown(await web.threads.rows(_one, web, who, batch_id))


@router.post(
    "/{batch_id}/cancel",
    summary="Begin nothing more",
    status_code=202,
    response_model=BatchOut,
    response_model_exclude_none=True,
    responses={**_ONE, **documented(Conflict)},
)
async def cancel(request: Request, who: Writer, batch_id: UUID) -> BatchOut:
    """Items that have not begun are `cancelled`. Documents that are on their way were accepted, and go on to their end:
    delete them by themselves. 409 once it has ended."""
    return await _asked(web_of(request), who, batch_id, BatchState.CANCELLING)


@router.post(
    "/{batch_id}/retry",
    summary="Try again what failed",
    status_code=202,
    response_model=BatchOut,
    response_model_exclude_none=True,
    responses={**_ONE, **documented(Conflict)},
)
async def retry(request: Request, who: Writer, batch_id: UUID) -> BatchOut:
    """Failed documents go back to the step that failed, and what was not there is looked for anew; the batch ends once
    more. 409 where nothing has failed. Rejected ones stay rejected."""
    return await _asked(web_of(request), who, batch_id, BatchState.RETRYING)


async def _asked(web: Web, who: Principal, batch_id: UUID, to: BatchState) -> BatchOut:
    def ask() -> Batch:
        with web.services.ledger.begin() as tx:
            batch = tx.batch(batch_id, tenant=who.tenant)
            if to is BatchState.RETRYING and batch.state is not to and not batch.count(ItemState.FAILED):
                raise Conflict("Nothing in this batch has failed.", state=batch.state.value)
            start = RETRIED_FROM if to is BatchState.RETRYING else CANCELLED_FROM
            return tx.ask_batch(batch_id, tenant=who.tenant, to=to, start=start)

    return shown(await web.threads.rows(ask))
