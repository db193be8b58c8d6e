"""`/v1/uploads/uppy`: what `@uppy/aws-s3` expects of its `endpoint`, so that an Uppy page needs no server code.

    uppy.use(AwsS3, { endpoint: `${airlock}/v1/uploads/uppy`, headers: { authorization: `Bearer ${key}` } })

Versions 4 to 6 of the plug-in (the last calls it `companionEndpoint`). The plug-in does not tell a file's size: a page
that sets it (`uppy.setFileMeta(file.id, { size: file.size })`) has the upload held to it. `key` is ours, and only
compared when it comes back.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from ingest_api.auth import Principal, Writer
from ingest_api.problems import InvalidParameters, Stalled, UnsupportedContent, correlation_of, documented
from ingest_api.uploads.alike import AlikeRoute
from ingest_api.uploads.bodies import read_json
from ingest_api.uploads.presigned import PARTS_BYTES
from ingest_api.uploads.presigned_asked import CompleteRequest, UploadRequest, read_as
from ingest_api.uploads.presigned_shapes import PATH, request_headers
from ingest_api.web import Web, web_of
from pipeline import parts as in_parts
from pipeline import presigned
from pipeline.documents import Upload, UploadMethod
from pipeline.errors import (
    BadRequest,
    Conflict,
    EmptyFile,
    Forbidden,
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
from pipeline.parts import PartUrl
from pipeline.presigned import Wanted, WhatToDo
from pipeline.services import Services
from pipeline.storage.abilities import SignedForm
from pipeline.storage.base import SignedPut
from pipeline.uploads import find

UNSAID = frozenset({"", "null", "undefined", "none"})
AT_ONCE = 100  # parts that one request signs

router = APIRouter(prefix=f"{PATH}/uppy/s3", tags=["uploads"], route_class=AlikeRoute)

_COMMON = (Unauthorized, Forbidden, LedgerUnavailable, InvalidParameters, StoreError, StoreUnavailable)
_NEW = documented(*_COMMON, EmptyFile, TooLarge, TypeNotAllowed, NoSuchWay, QuotaExceeded)
_BODY = (BadRequest, TooLarge, Stalled, UnsupportedContent)
_ONE = (*_COMMON, NotFound, UploadGone, Conflict)

Key = Annotated[str, Query(max_length=1024, description="As it was answered.")]


def _described(example: dict[str, Any] | list[Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "As the plug-in reads it.", "content": {"application/json": {"example": example}}}}


@router.get(
    "/params",
    summary="Uppy: one file in one request",
    response_model=None,
    responses={**_described({"method": "POST", "url": "https://...", "fields": {"key": "..."}}), **_NEW},
)
async def params(request: Request, who: Writer, filename: str | None = None, type: str | None = None) -> Response:  # noqa: A002 - its name
    """A signed form where the store has such, else a signed PUT (which version 6 does not send). `metadata[size]` and
    `metadata[sha256]` count."""
    query = request.query_params
    told = {name: query.get(f"metadata[{name}]") for name in ("name", "type", "size", "sha256")}
    wanted = _wanted(filename, type, told, (UploadMethod.POST, UploadMethod.PUT))
    upload, todo = await _begin(request, who, wanted)
    more = {"upload": str(upload.id), "document": f"/v1/documents/{upload.id}"}
    if isinstance(todo, SignedForm):
        return JSONResponse({"method": "POST", "url": todo.url, "fields": dict(todo.fields), **more})
    if not isinstance(todo, SignedPut):
        raise TypeError("neither a form nor a PUT")
    # Of the fields version 5 sends none with a PUT, but gives the key to the page.
    return JSONResponse(
        {
            "method": todo.method,
            "url": todo.url,
            "headers": request_headers(todo),
            "fields": {"key": upload.key},
            **more,
        }
    )


@router.post(
    "/multipart",
    summary="Uppy: one file in parts",
    response_model=None,
    responses={**_described({"key": "...", "uploadId": "..."}), **_NEW, **documented(*_BODY)},
    openapi_extra={
        "requestBody": {
            "content": {
                "application/json": {
                    "schema": {"type": "object"},
                    "example": {"filename": "report.pdf", "type": "application/pdf", "metadata": {"size": 48213}},
                }
            }
        }
    },
)
async def create(request: Request, who: Writer) -> Response:
    """`uploadId` is the upload's id, and its document's."""
    body = await read_json(request)
    metadata = body.get("metadata")
    told = metadata if isinstance(metadata, dict) else {}
    wanted = _wanted(body.get("filename"), body.get("type"), told, (UploadMethod.MULTIPART,))
    upload, _ = await _begin(request, who, wanted)
    document = f"/v1/documents/{upload.id}"
    return JSONResponse({"key": upload.key, "uploadId": str(upload.id), "document": document})


def _wanted(name: object, kind: object, metadata: dict[str, Any], methods: tuple[UploadMethod, ...]) -> Wanted:
    """What the plug-in says; it sends the words `null` and `undefined` for what it does not know."""

    def said(*values: object) -> object:
        return next((value for value in values if str(value if value is not None else "").lower() not in UNSAID), None)

    size = said(metadata.get("size"))
    if isinstance(size, str) and size.isascii() and size.isdecimal() and len(size) < 20:
        size = int(size)
    members = {
        "name": said(name, metadata.get("name")),
        "type": said(kind, metadata.get("type")),
        "size": size,
        "sha256": said(metadata.get("sha256")),
        "methods": [way.value for way in methods],
    }
    return read_as(UploadRequest, {name: value for name, value in members.items() if value is not None}).wanted()


async def _begin(request: Request, who: Principal, wanted: Wanted) -> tuple[Upload, WhatToDo]:
    web = web_of(request)

    def go() -> tuple[Upload, WhatToDo]:
        correlation_id = correlation_of(request.scope)
        upload, _ = presigned.begin(wanted, who.tenant, web.services, correlation_id=correlation_id)
        if upload.method is UploadMethod.MULTIPART:
            return upload, None
        return upload, presigned.what_to_do(upload, web.services)

    try:
        return await web.threads.bytes(go)
    except NoSuchWay as exc:
        raise NoSuchWay(
            "This store takes no parts: set shouldUseMultipart to false, or use the plug-in @uppy/tus."
            if wanted.methods == (UploadMethod.MULTIPART,) and wanted.size is not None
            else "The file's size has to be known: uppy.setFileMeta(file.id, { size: file.size }). Or use @uppy/tus.",
            **exc.extra,
        ) from None


def _mine(upload_id: UUID, key: str, tenant: str, services: Services) -> Upload:
    """Raises NotFound also where the key is another one's."""
    upload = find(upload_id, tenant, services)
    if upload.key != key or upload.method is not UploadMethod.MULTIPART:
        raise NotFound("there is no such upload")
    return upload


@router.get(
    "/multipart/{upload_id:uuid}",
    summary="Uppy: parts that have arrived",
    response_model=None,
    responses={**_described([{"PartNumber": 1, "Size": 5242880, "ETag": '"..."'}]), **documented(*_ONE)},
)
async def listed(request: Request, who: Writer, upload_id: UUID, key: Key) -> Response:
    """All of them."""
    web = web_of(request)

    def go() -> list[dict[str, Any]]:
        sent = in_parts.sent_parts(_mine(upload_id, key, who.tenant, web.services), web.services)
        return [{"PartNumber": part.number, "Size": part.size, "ETag": f'"{part.tag}"'} for part in sent]

    return JSONResponse(await web.threads.bytes(go))


@router.get(
    "/multipart/{upload_id:uuid}/batch",
    summary="Uppy: URLs of several parts",
    response_model=None,
    responses={**_described({"presignedUrls": {"1": "https://..."}}), **documented(*_ONE, BadRequest)},
)
async def batch(
    request: Request,
    who: Writer,
    upload_id: UUID,
    key: Key,
    partNumbers: Annotated[str, Query(max_length=1000)],  # noqa: N803 - its name
) -> Response:
    """As version 3 asks for them."""
    named = partNumbers.split(",")
    if len(named) > AT_ONCE or not all(one.isascii() and one.isdecimal() and len(one) < 6 for one in named):
        raise BadRequest(f"partNumbers are up to {AT_ONCE} numbers, by commas.")
    urls = await _signed(web_of(request), who, upload_id, key, [int(one) for one in named])
    return JSONResponse({"presignedUrls": {str(url.number): url.put.url for url in urls}})


@router.get(
    "/multipart/{upload_id:uuid}/{number:int}",
    summary="Uppy: a part's URL",
    response_model=None,
    responses={**_described({"url": "https://...", "expires": 3600}), **documented(*_ONE, BadRequest)},
)
async def sign(request: Request, who: Writer, upload_id: UUID, number: int, key: Key) -> Response:
    """Of any size: the plug-in cuts as the page says."""
    web = web_of(request)
    [url] = await _signed(web, who, upload_id, key, [number])
    return JSONResponse({"url": url.put.url, "expires": web.services.settings.presign_seconds})


async def _signed(web: Web, who: Principal, upload_id: UUID, key: str, numbers: list[int]) -> list[PartUrl]:
    def go() -> list[PartUrl]:
        upload = presigned.prepare(_mine(upload_id, key, who.tenant, web.services), web.services)
        return [
            url
            for number in dict.fromkeys(numbers)
            for url in in_parts.part_urls(upload, web.services, first=number, limit=1, sized=False)
        ]

    return await web.threads.bytes(go)


@router.post(
    "/multipart/{upload_id:uuid}/complete",
    summary="Uppy: all parts have arrived",
    response_model=None,
    responses={**_described({"location": "https://...", "key": "..."}), **documented(*_ONE, *_BODY, UploadIncomplete)},
    openapi_extra={
        "requestBody": {
            "content": {
                "application/json": {
                    "schema": {"type": "object"},
                    "example": {"parts": [{"PartNumber": 1, "ETag": '"..."'}]},
                }
            }
        }
    },
)
async def complete(request: Request, who: Writer, upload_id: UUID, key: Key) -> Response:
    """`location` is the document's address. Asked again, the same answer."""
    web = web_of(request)
    claimed = read_as(CompleteRequest, await read_json(request, PARTS_BYTES)).claimed()

    def go() -> tuple[Upload, bool]:
        _mine(upload_id, key, who.tenant, web.services)
        return presigned.complete(upload_id, who.tenant, web.services, claimed=claimed)

    upload, made = await web.threads.bytes(go)
    if made:
        web.metrics.accepted(1, upload.offset)
    document = f"/v1/documents/{upload.id}"
    location = f"{web.services.settings.base_url}{document}"
    return JSONResponse({"location": location, "key": upload.key, "document": document})


@router.delete(
    "/multipart/{upload_id:uuid}",
    summary="Uppy: give an upload up",
    response_model=None,
    responses={**_described({}), **documented(*_ONE)},
)
async def delete(request: Request, who: Writer, upload_id: UUID, key: Key) -> Response:
    """200 and an empty object, which the plug-in reads."""
    web = web_of(request)

    def go() -> None:
        _mine(upload_id, key, who.tenant, web.services)
        presigned.abort(upload_id, who.tenant, web.services)

    await web.threads.rows(go)
    return JSONResponse({})
