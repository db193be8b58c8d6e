"""`/v1/uploads/tus`: tus 1.0, an upload in as many requests as it takes (https://tus.io/protocols/resumable-upload).

Offset and lock are in the ledger, the bytes go into the store's own unfinished upload, so any process may take any
request. The request that brings the last byte makes the document.
"""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ingest_api.auth import Writer
from ingest_api.problems import MethodNotAllowed, UnsupportedContent
from ingest_api.uploads import tus_openapi as told
from ingest_api.uploads.direct import admit
from ingest_api.uploads.stream import refuse_coded
from ingest_api.uploads.tus_answers import PATH, TusRoute, base_of, state_of
from ingest_api.uploads.tus_append import append_to
from ingest_api.uploads.tus_create import begin
from ingest_api.uploads.tus_headers import CHUNK, DIGESTS, EXTENSIONS, VERSION, Checksum, is_chunk, number_in
from ingest_api.web import web_of
from pipeline.appending import IN_ORDER, complete, is_whole
from pipeline.concatenation import pieces_of
from pipeline.documents import Upload, UploadMethod, UploadState
from pipeline.errors import AirlockError, BadRequest, Conflict, NotFound
from pipeline.services import Services
from pipeline.telemetry import logger
from pipeline.uploads import find, give_up, must_be_open

log = logger(__name__)

OURS = IN_ORDER | {UploadMethod.TUS_FINAL}
OVER = frozenset({UploadState.ABORTED, UploadState.EXPIRED})
VERBS = "DELETE, HEAD, OPTIONS, PATCH"

router = APIRouter(prefix=PATH, tags=["uploads"], route_class=TusRoute)


@router.options("/{upload_id}", include_in_schema=False)
@router.options("/", include_in_schema=False)
@router.options("", summary="What of tus is spoken", status_code=204, response_class=Response, responses=told.OPTIONS)
async def options(request: Request) -> Response:
    """Versions, extensions, checksums and the most bytes. Takes no key."""
    headers = {
        "Tus-Version": VERSION,
        "Tus-Extension": ",".join(EXTENSIONS),
        "Tus-Max-Size": str(web_of(request).services.policy.limits.bytes),
        "Tus-Checksum-Algorithm": ",".join(DIGESTS),
    }
    return Response(status_code=204, headers=headers)


@router.post("/", include_in_schema=False)
@router.post(
    "",
    summary="Begin a resumable upload",
    status_code=201,
    response_class=Response,
    responses=told.CREATED,
    openapi_extra=told.CREATE,
)
async def create(request: Request, who: Writer) -> Response:
    """Point a tus client (tus-js-client, Uppy, tuspy, ...) here. The first bytes may come along."""
    web = web_of(request)
    await admit(web, who)
    return await begin(request, web, who)


@router.head(
    "/{upload_id}",
    summary="How far has it got?",
    response_class=Response,
    responses=told.FOUND,
    openapi_extra=told.HEAD,
)
async def head(request: Request, who: Writer, upload_id: UUID) -> Response:
    """Upload-Offset is what is stored durably: go on from there. Of a complete upload it is the length, and
    Airlock-Document names the document."""
    web = web_of(request)
    await web.holdings.make_way(upload_id, who.tenant)
    upload = await web.threads.rows(_tus_upload, upload_id, who.tenant, web.services)
    if upload.state in OVER:
        must_be_open(upload)
    if is_whole(upload):
        upload = await web.threads.bytes(_completed, upload, web.services)
    headers = state_of(upload)
    headers |= {"Upload-Defer-Length": "1"} if upload.size is None else {"Upload-Length": str(upload.size)}
    if raw := upload.details.get("metadata"):
        headers["Upload-Metadata"] = str(raw)
    if upload.method is UploadMethod.TUS_PARTIAL:
        headers["Upload-Concat"] = "partial"
    elif pieces := pieces_of(upload):
        headers["Upload-Concat"] = "final;" + " ".join(f"{base_of(web)}/{one}" for one in pieces)
    return Response(status_code=200, headers=headers)


@router.patch(
    "/{upload_id}",
    summary="Send bytes of it",
    status_code=204,
    response_class=Response,
    responses=told.APPENDED,
    openapi_extra=told.PATCH,
)
async def patch(request: Request, who: Writer, upload_id: UUID) -> Response:
    """Whatever ends the request, every byte that arrived is kept, and HEAD says how many; but with Upload-Checksum all
    or none. Of two requests at once for one upload one is answered 423."""
    web = web_of(request)  # what may come was settled when the upload began: it counts against the quota since then
    if not is_chunk(request.headers):
        raise UnsupportedContent(f"Send the bytes as {CHUNK}.", _headers={"Accept-Patch": CHUNK})
    refuse_coded(request.headers)
    offset, size = number_in(request.headers, "Upload-Offset"), number_in(request.headers, "Upload-Length")
    if offset is None:
        raise BadRequest("Upload-Offset is missing: it says where these bytes belong.")
    checksum = Checksum.of(request.headers)
    await web.holdings.make_way(upload_id, who.tenant)
    upload = await append_to(request, web, upload_id, who.tenant, offset=offset, size=size, checksum=checksum)
    return Response(status_code=204, headers=state_of(upload))


@router.delete(
    "/{upload_id}",
    summary="Give it up",
    status_code=204,
    response_class=Response,
    responses=told.ENDED,
    openapi_extra=told.HEAD,
)
async def delete(request: Request, who: Writer, upload_id: UUID) -> Response:
    """What was sent is removed. A complete upload is a document, which has a DELETE of its own: 409."""
    web = web_of(request)
    await web.threads.rows(_end, upload_id, who.tenant, web.services)
    return Response(status_code=204)


@router.post("/{upload_id}", include_in_schema=False)
async def override(request: Request, who: Writer, upload_id: UUID) -> Response:
    """For networks that let no PATCH through: X-HTTP-Method-Override says what a POST is meant to be."""
    calls = {"PATCH": patch, "DELETE": delete, "HEAD": head}
    meant = request.headers.get("x-http-method-override", "").upper()
    if meant not in calls:
        raise MethodNotAllowed(f"This address takes {VERBS}.", _headers={"Allow": VERBS})
    return await calls[meant](request, who, upload_id)


def _tus_upload(upload_id: UUID, tenant: str, services: Services) -> Upload:
    upload = find(upload_id, tenant, services)
    if upload.method not in OURS:
        raise NotFound("there is no such upload")
    return upload


def _completed(upload: Upload, services: Services) -> Upload:
    """One whose last request was stopped before its end."""
    try:
        complete(upload, services)
    except AirlockError as exc:
        log.warning("whole, but not completed yet", error=exc.code, upload=str(upload.id))
    return find(upload.id, upload.tenant, services)


def _end(upload_id: UUID, tenant: str, services: Services) -> None:
    upload = _tus_upload(upload_id, tenant, services)
    if upload.state is UploadState.OPEN and give_up(upload, services):
        return
    if upload.method is UploadMethod.TUS_PARTIAL and upload.state is UploadState.COMPLETED:
        with services.ledger.begin() as tx:
            if tx.discard_piece(upload.id):
                return
    upload = find(upload_id, tenant, services)
    if upload.state in OVER:
        must_be_open(upload)
    raise Conflict("This upload is complete: delete its document instead.", state=upload.state.value)
