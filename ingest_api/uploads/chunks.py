"""`/api/v1/file`: chunk sessions, the API of fastapi-file-management-service (https://github.com/hanieas/
fastapi-file-management-service), for the client code that people have for it.

What differs: every call takes an API key, bodies may be JSON or forms, the file is checked before it can be fetched,
and the status says where it is. `credential` and `detail` are passed over.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from ingest_api.auth import Principal, Reader, Writer
from ingest_api.documents import available, signed_url
from ingest_api.problems import correlation_of
from ingest_api.uploads import chunk_openapi as told
from ingest_api.uploads.bodies import Fields, read_fields
from ingest_api.uploads.chunk_answers import ChunkRoute, answer, begun, document_status, file, session
from ingest_api.uploads.chunk_body import session_in, take_chunk
from ingest_api.uploads.idempotency import idempotency_key
from ingest_api.uploads.names import declared_type
from ingest_api.web import web_of
from pipeline import chunks
from pipeline.chunks import Announced
from pipeline.documents import Document, Event, Upload, UploadPart, UploadState
from pipeline.errors import Conflict, NotFound, UploadIncomplete
from pipeline.services import Services
from pipeline.states import State

PATH = "/api/v1/file"

router = APIRouter(prefix=PATH, tags=["uploads"], route_class=ChunkRoute)


def _announced(fields: Fields) -> Announced:
    name, suffix = fields.text("fileName", "name"), fields.text("file_extension")
    if name is None and suffix is not None:
        name = f"file.{suffix.lstrip('.')}"
    return Announced(
        name,
        declared_type(fields.text("type", "contentType", "fileType", "mimeType")),
        fields.number("totalSize", "fileSize", "size"),
        fields.sha256("sha256", "fileSha256", "checksum"),
        fields.number("totalChunks"),
    )


@router.post("/upload/init", include_in_schema=False)
@router.post(
    "/upload/init/", summary="Begin a chunk session", response_model=None, responses=told.BEGUN, openapi_extra=told.INIT
)
async def init(request: Request, who: Writer) -> Response:
    """The answer's `sessionId` is the id of the document to come. Without a body the name and the number of chunks are
    said when it is completed."""
    web = web_of(request)
    announced = _announced(await read_fields(request))
    key = idempotency_key(request.headers)
    upload = await web.threads.rows(_begin, web.services, who, announced, correlation_of(request.scope), key)
    return begun(web, upload)


def _begin(services: Services, who: Principal, announced: Announced, correlation_id: str, key: str | None) -> Upload:
    asked = ["chunks", announced.name, announced.declared_type, announced.size, announced.sha256, announced.total]
    fingerprint = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    once = None if key is None else (key, fingerprint)
    return chunks.begin(announced, who.tenant, services, correlation_id=correlation_id, once=once)


@router.post("/upload/chunk", include_in_schema=False)
@router.post(
    "/upload/chunk/", summary="Send a chunk", response_model=None, responses=told.TAKEN, openapi_extra=told.CHUNK
)
async def chunk(request: Request, who: Writer) -> Response:
    """In any order, several at once, and again: of two with one number the later one counts. 200 once it is durable."""
    web = web_of(request)
    taken = await take_chunk(request, web, who)
    number, upload_id = taken.number, str(taken.upload.id)
    return answer(
        {"chunk_index": number, "upload_id": upload_id},
        "The chunk is stored.",
        sessionId=upload_id,
        chunkIndex=number,
        totalChunks=chunks.total_of(taken.upload),
    )


@router.post("/upload/complete", include_in_schema=False)
@router.post(
    "/upload/complete/",
    summary="Complete a chunk session",
    response_model=None,
    responses=told.COMPLETED,
    openapi_extra=told.COMPLETE,
)
async def complete(request: Request, who: Writer) -> Response:
    """All chunks are here: the document exists, `received`, and its chunks are put together next. Asked again, it
    answers where the document is by then."""
    web = web_of(request)
    fields = await read_fields(request)
    upload_id, announced = session_in(fields), _announced(fields)

    def go() -> tuple[Upload, Document]:
        upload = chunks.complete(upload_id, who.tenant, announced, web.services)
        with web.services.ledger.reading() as tx:
            return upload, tx.document(upload_id, tenant=who.tenant)

    upload, document = await web.threads.rows(go)
    if document.state is State.RECEIVED:
        web.metrics.accepted(1, upload.offset)
    return file(web, document)


@router.get("/status/{file_id}/", include_in_schema=False)
@router.get("/status/{file_id}", summary="Where a file is", response_model=None, responses=told.STATUS)
async def status(request: Request, who: Reader, file_id: UUID) -> Response:
    """`state` is the session's or the document's; `status` is PENDING while chunks are to come, STARTED while the file
    is on its way, SUCCESS once it can be fetched, FAILURE where it cannot and will not be."""
    web = web_of(request)
    found = await web.threads.rows(_look, web.services, who.tenant, file_id)
    return document_status(found) if isinstance(found, Document) else session(*found)


@router.get("/get/{file_id}/", include_in_schema=False)
@router.get("/get/{file_id}", summary="Fetch a file", response_model=None, responses=told.GOT)
async def get(
    request: Request,
    who: Reader,
    file_id: UUID,
    download: Annotated[bool, Query(description="Redirect to the content.")] = False,
) -> Response:
    """`data.download_url` is a signed URL of the bytes that were scanned; short-lived. 409 unless it is available."""
    web = web_of(request)
    document = await available(web, who, file_id)
    url = await signed_url(web, document.served)
    if download:
        return RedirectResponse(url, 307, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    return file(web, document, url)


@router.post("/upload/retry/", include_in_schema=False)
@router.post(
    "/upload/retry", summary="Try a failed file again", response_model=None, responses=told.RETRIED,
    openapi_extra=told.RETRY,
)  # fmt: skip
async def retry(request: Request, who: Writer) -> Response:
    """Takes a failed document back to the step that failed. 409 in any other state, and while chunks are missing."""
    web = web_of(request)
    file_id = session_in(await read_fields(request))

    def go() -> tuple[Document, list[Event]]:
        found = _look(web.services, who.tenant, file_id)
        if not isinstance(found, Document):
            _refuse(*found)
        with web.services.ledger.begin() as tx:
            return tx.replay(file_id, tenant=who.tenant), tx.history(file_id)[-1:]

    document, events = await web.threads.rows(go)
    await web.threads.rows(web.services.announcer.announce, events)
    return file(web, document)


def _refuse(upload: Upload, parts: list[UploadPart]) -> None:
    if upload.state is UploadState.OPEN:
        lacking = chunks.missing(upload, parts)
        raise UploadIncomplete(
            "The session is not complete: there is nothing to try again yet.",
            missing=lacking[: chunks.NAMED],
            missing_count=len(lacking),
        )
    raise Conflict(f"The session is {upload.state.value}. Begin a new one.", state=upload.state.value)


def _look(services: Services, tenant: str, file_id: UUID) -> Document | tuple[Upload, list[UploadPart]]:
    """The document, or the session that is to become it. Raises NotFound."""
    with services.ledger.reading() as tx:
        try:
            return tx.document(file_id, tenant=tenant)
        except NotFound:
            pass
    return chunks.find(file_id, tenant, services)
