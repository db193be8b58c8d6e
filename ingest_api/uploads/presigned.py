"""`/v1/uploads`: the sender asks what to do, and sends its bytes to the bucket itself.

The answer depends on the store and on the file: one signed request, a form, parts, a session, or tus where nothing else
fits. Signed URLs are as good as the bytes that they let in: they live briefly, and are never logged.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from ingest_api.auth import Writer
from ingest_api.problems import InvalidParameters, Stalled, UnsupportedContent, correlation_of, documented
from ingest_api.uploads.bodies import read_json
from ingest_api.uploads.idempotency import idempotency_key
from ingest_api.uploads.presigned_asked import CompleteRequest, UploadRequest, read_as
from ingest_api.uploads.presigned_shapes import (
    PAGE,
    PATH,
    PartPage,
    SentParts,
    UploadOut,
    part_page,
    sent_shown,
    upload_out,
)
from ingest_api.web import Web, web_of
from pipeline import parts as in_parts
from pipeline import presigned
from pipeline.documents import Document, Upload, UploadState
from pipeline.errors import (
    BadRequest,
    Conflict,
    EmptyFile,
    Forbidden,
    IdempotencyConflict,
    LedgerUnavailable,
    NoSuchWay,
    NotFound,
    QuotaExceeded,
    StoreError,
    StoreUnavailable,
    TooLarge,
    TypeNotAllowed,
    Unauthorized,
    UploadGone,
    UploadIncomplete,
)
from pipeline.presigned import WhatToDo
from pipeline.services import Services
from pipeline.uploads import find

PARTS_BYTES = 4 << 20  # of a list of 10,000 parts

router = APIRouter(prefix=PATH, tags=["uploads"])

_COMMON = (Unauthorized, Forbidden, LedgerUnavailable)
_BODY = (BadRequest, InvalidParameters, TooLarge, Stalled, UnsupportedContent)
_ONE = (*_COMMON, NotFound)
_STORE = (StoreError, StoreUnavailable)


def _taking(model: type[UploadRequest] | type[CompleteRequest], example: dict[str, Any], *, required: bool) -> Any:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    if model is CompleteRequest:
        schema["properties"]["parts"] = {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["number"],
                "properties": {
                    "number": {"type": "integer", "description": "From 1 on."},
                    "etag": {"type": "string", "description": "As the bucket's answer to the part had it."},
                    "md5": {"type": "string", "description": "Of its bytes, in hexadecimal or Base64."},
                    "size": {"type": "integer"},
                },
            },
        }
    else:
        schema["properties"]["methods"]["items"] = {"type": "string"}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": required, "content": content}}


_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "Sent again with the same body, the same upload comes back, signed anew.",
}


@router.post(
    "",
    summary="Begin an upload to the bucket",
    status_code=201,
    response_model=UploadOut,
    response_model_exclude_none=True,
    responses=documented(
        *_COMMON, *_BODY, EmptyFile, TypeNotAllowed, NoSuchWay, IdempotencyConflict, QuotaExceeded, *_STORE
    ),
    openapi_extra={
        **_taking(UploadRequest, {"name": "report.pdf", "size": 48213, "type": "application/pdf"}, required=True),
        "parameters": [_KEY],
    },
)
async def begin(request: Request, response: Response, who: Writer) -> UploadOut:
    """`method` says what to do, and the member of that name has what is needed for it. What could never pass is refused
    now: size, type, quota. When all is sent, `complete` makes the document; an event of the bucket does so, too."""
    web = web_of(request)
    asked = read_as(UploadRequest, await read_json(request))
    key = idempotency_key(request.headers)
    # The object of a session is sent from this page, if it is one that may use the API.
    origin = request.headers.get("origin")
    allowed = web.services.settings.cors_origins
    page = origin if origin is not None and (origin in allowed or "*" in allowed) else None

    def go() -> tuple[Upload, bool, WhatToDo]:
        fingerprint = hashlib.sha256(f"presigned {asked.model_dump_json()}".encode()).hexdigest()
        upload, before = presigned.begin(
            asked.wanted(),
            who.tenant,
            web.services,
            correlation_id=correlation_of(request.scope),
            once=None if key is None else (key, fingerprint),
            origin=page,
        )
        return upload, before, _todo(upload, web.services)

    upload, before, todo = await web.threads.bytes(go)
    response.headers["Location"] = f"{PATH}/{upload.id}"
    if before:
        response.headers["Idempotency-Replayed"] = "true"
    return upload_out(web, upload, None if upload.state is UploadState.OPEN else await _document(web, upload), todo)


def _todo(upload: Upload, services: Services) -> WhatToDo:
    return presigned.what_to_do(upload, services) if upload.state is UploadState.OPEN else None


async def _document(web: Web, upload: Upload) -> Document | None:
    def look() -> Document | None:
        with web.services.ledger.reading() as tx:
            try:
                return tx.document(upload.id, tenant=upload.tenant)
            except NotFound:
                return None

    return await web.threads.rows(look)


@router.get(
    "/{upload_id:uuid}",
    summary="Where an upload is",
    response_model=UploadOut,
    response_model_exclude_none=True,
    responses=documented(*_ONE),
)
async def one(request: Request, who: Writer, upload_id: UUID) -> UploadOut:
    """Of any upload, whichever way it comes. Once it is complete, `document` says what became of it."""
    web = web_of(request)
    upload = await web.threads.rows(find, upload_id, who.tenant, web.services)
    return upload_out(web, upload, await _document(web, upload))


@router.post(
    "/{upload_id:uuid}/sign",
    summary="Sign again",
    response_model=UploadOut,
    response_model_exclude_none=True,
    responses=documented(*_ONE, UploadGone, Conflict, *_STORE),
)
async def sign(request: Request, who: Writer, upload_id: UUID) -> UploadOut:
    """For an upload whose URLs are over before its bytes are sent."""
    web = web_of(request)

    def go() -> tuple[Upload, WhatToDo]:
        upload = presigned.prepare(find(upload_id, who.tenant, web.services), web.services)
        return upload, presigned.what_to_do(upload, web.services)

    upload, todo = await web.threads.bytes(go)
    return upload_out(web, upload, None, todo)


@router.get(
    "/{upload_id:uuid}/parts",
    summary="URLs of parts",
    response_model=PartPage,
    response_model_exclude_none=True,
    responses=documented(*_ONE, BadRequest, UploadGone, Conflict, *_STORE),
)
async def parts(
    request: Request,
    who: Writer,
    upload_id: UUID,
    first: Annotated[int, Query(alias="from", ge=1, le=in_parts.MOST, description="The first part's number.")] = 1,
    limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
) -> PartPage:
    """Signed just now, a page at a time."""
    web = web_of(request)

    def go() -> PartPage:
        upload = presigned.prepare(find(upload_id, who.tenant, web.services), web.services)
        return part_page(upload, in_parts.part_urls(upload, web.services, first=first, limit=limit), limit=limit)

    return await web.threads.bytes(go)


@router.get(
    "/{upload_id:uuid}/parts/sent",
    summary="Parts that have arrived",
    response_model=SentParts,
    responses=documented(*_ONE, UploadGone, Conflict, *_STORE),
)
async def sent(request: Request, who: Writer, upload_id: UUID) -> SentParts:
    """As the bucket lists them: what to leave out when an upload goes on."""
    web = web_of(request)

    def go() -> SentParts:
        return sent_shown(in_parts.sent_parts(find(upload_id, who.tenant, web.services), web.services))

    return await web.threads.bytes(go)


@router.post(
    "/{upload_id:uuid}/complete",
    summary="Complete an upload",
    status_code=202,
    response_model=UploadOut,
    response_model_exclude_none=True,
    responses=documented(*_ONE, *_BODY, EmptyFile, UploadIncomplete, Conflict, UploadGone, *_STORE),
    openapi_extra=_taking(
        CompleteRequest, {"parts": [{"number": 1, "etag": '"9bb58f26192e4ba00f01e2e7b136bbd8"'}]}, required=False
    ),
)
async def complete(request: Request, response: Response, who: Writer, upload_id: UUID) -> UploadOut:
    """Everything is sent: what has arrived is measured, and becomes the document in `document`. 409 while it is not all
    there. Asked again, it answers where the document is by then."""
    web = web_of(request)
    claimed = read_as(CompleteRequest, await read_json(request, PARTS_BYTES)).claimed()
    upload, made = await web.threads.bytes(presigned.complete, upload_id, who.tenant, web.services, claimed=claimed)
    if made:
        web.metrics.accepted(1, upload.offset)
    out = upload_out(web, upload, await _document(web, upload))
    response.headers["Location"] = out.links["document"]
    return out


@router.delete(
    "/{upload_id:uuid}",
    summary="Give an upload up",
    status_code=204,
    response_class=Response,
    responses=documented(*_ONE, UploadGone, Conflict),
)
async def delete(request: Request, who: Writer, upload_id: UUID) -> Response:
    """Of any upload that is open, whichever way it comes; what was sent is removed. 204 again for one that was given
    up. A complete one is a document, which has a DELETE of its own: 409."""
    web = web_of(request)
    await web.threads.rows(presigned.abort, upload_id, who.tenant, web.services)
    return Response(status_code=204)
