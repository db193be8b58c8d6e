"""`/v1/batches`: many documents and one answer. What becomes of the items is not this request's work."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from ingest_api.auth import Principal, Reader, Writer
from ingest_api.batch_schemas import (
    CANCELLED_FROM,
    EXAMPLE,
    RETRIED_FROM,
    BatchCreated,
    BatchOut,
    BatchPage,
    created,
    shown,
)
from ingest_api.problems import InvalidParameters, Stalled, UnsupportedContent, correlation_of, documented
from ingest_api.uploads.bodies import read_body, wrong
from ingest_api.uploads.idempotency import idempotency_key
from ingest_api.uploads.stream import refuse_coded, unstalled
from ingest_api.web import Web, web_of
from pipeline.batches import Batch, BatchState, ItemState, NewItem, Source
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
from pipeline.manifest import Format, ManifestReader, item_of
from pipeline.names import clean_name

router = APIRouter(prefix="/v1/batches", tags=["batches"])

JSON_BYTES = 4 << 20  # longer lists are sent as manifests
PIECE = 64 << 10  # of a manifest, for one hop into a thread
_JSON = "application/json"

_MANIFEST = {"schema": {"type": "string"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "JSON with one of `uploads`, `objects` and `prefix`; or a manifest, a line an item.",
        "content": {
            _JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "description": "For people."},
                        "uploads": {
                            "type": "array",
                            "items": {"type": "string", "format": "uuid"},
                            "description": "Ids of uploads, open or complete, or of documents.",
                        },
                        "objects": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["key"],
                                "properties": {
                                    member: {"type": "string"}
                                    for member in ("key", "version", "name", "type", "sha256")
                                },
                            },
                            "description": "Objects below `drop/{tenant}/` in the quarantine bucket.",
                        },
                        "prefix": {"type": "string", "description": "All objects below it: `drop/{tenant}/...`."},
                    },
                },
                "examples": {
                    "objects": {"value": {"objects": [{"key": "drop/acme/may/1.pdf", "name": "Invoice 1.pdf"}]}},
                    "prefix": {"value": {"name": "May", "prefix": "drop/acme/may/"}},
                },
            },
            Format.CSV.value: {**_MANIFEST, "example": "key,name,sha256\ndrop/acme/may/1.pdf,Invoice 1.pdf,\n"},
            Format.NDJSON.value: {**_MANIFEST, "example": '{"key": "drop/acme/may/1.pdf", "name": "Invoice 1.pdf"}\n'},
        },
    },
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string", "maxLength": 255},
            "description": "Sent again with the same body, the first answer comes back and there is one batch.",
        },
    ],
}
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
    openapi_extra=_BODY,
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
    if kind not in (_JSON, *Format):
        raise UnsupportedContent(f"A batch is {_JSON}, or a manifest in {Format.CSV.value} or {Format.NDJSON.value}.")
    earlier = await web.threads.rows(_earlier, web, who, key) if key is not None else None
    digest = sha256(f"batch\n{kind}\n{name or ''}\n".encode())
    loader: Loader | None = None
    try:
        if earlier is not None:
            async for piece in unstalled(request.stream()):
                digest.update(piece)
            return await _again(web, who, earlier, digest.hexdigest())
        if kind == _JSON:
            body = await read_body(request, JSON_BYTES)
            digest.update(body)
            loader = await web.threads.rows(_of_json, web, who, correlation_of(request.scope), body)
        else:
            loader = Loader(
                web.services,
                who.tenant,
                Source.MANIFEST,
                correlation_id=correlation_of(request.scope),
                name=clean_name(name),
            )
            await _read_manifest(web, unstalled(request.stream()), Format(kind), loader, digest)
        batch = await web.threads.rows(loader.start, None if key is None else (key, digest.hexdigest()))
    except ObjectExists:
        await _drop(web, loader)
        first = await web.threads.rows(_earlier, web, who, key or "")
        if first is None:
            raise Conflict("Another request with this Idempotency-Key was under way. Try again.") from None
        return await _again(web, who, first, digest.hexdigest())
    except BaseException:
        await _drop(web, loader)
        raise
    return _answer(created(batch, loader))


def _of_json(web: Web, who: Principal, correlation_id: str, body: bytes) -> Loader:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(given, dict):
        raise BadRequest("The body is a JSON object.")
    sources = [source for source in (Source.UPLOADS, Source.OBJECTS, Source.PREFIX) if source.value in given]
    if len(sources) != 1:
        raise BadRequest("A batch is made of one of `uploads`, `objects` and `prefix`.")
    [source], name, prefix = sources, given.get("name"), given.get("prefix")
    if name is not None and not isinstance(name, str):
        wrong("name", "is a string")
    if prefix is not None and (not isinstance(prefix, str) or not 0 < len(prefix.encode("utf-8", "replace")) <= 1024):
        wrong("prefix", "is a string of at most 1024 bytes")
    loader = Loader(
        web.services, who.tenant, source, correlation_id=correlation_id, name=clean_name(name), prefix=prefix
    )
    if source is not Source.PREFIX:
        loader.add(_items(source, given[source.value]))
    return loader


def _items(source: Source, listed: object) -> list[NewItem]:
    if not isinstance(listed, list):
        wrong(source.value, "is a list")
    found: list[NewItem] = []
    for number, one in enumerate(listed):
        members = {"id" if source is Source.UPLOADS else "key": one} if isinstance(one, str) else one
        try:
            if not isinstance(members, dict) or ("key" in members) != (source is Source.OBJECTS):
                raise ValueError("It is not what belongs into this list.")  # noqa: TRY301
            found.append(item_of(members))
        except ValueError as exc:
            wrong(f"{source.value}.{number}", str(exc).rstrip("."))
    return found


async def _read_manifest(
    web: Web,
    stream: AsyncIterator[bytes],
    format: Format,  # noqa: A002
    loader: Loader,
    digest: Any,
) -> None:
    """Pieces as they come, so that a manifest of any length takes the memory of one piece and one block of items."""
    reader, piece = ManifestReader(format), bytearray()
    async for chunk in stream:
        digest.update(chunk)
        piece += chunk
        if len(piece) >= PIECE:
            taken, piece = bytes(piece), bytearray()
            await web.threads.rows(lambda taken=taken: loader.add(reader.feed(taken)))  # type: ignore[misc]
    await web.threads.rows(lambda: loader.add([*reader.feed(bytes(piece)), *reader.close()]))


async def _drop(web: Web, loader: Loader | None) -> None:
    """What it has written goes; should even that fail, the sweeper finds it."""
    if loader is not None:
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
    return Response(body.model_dump_json(exclude_none=True), 202, headers, media_type=_JSON)


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


__all__ = ["EXAMPLE", "router"]
