"""`/v1/objects/...`: where the local store's signed URLs lead. Clouds serve theirs themselves.

Whoever has the URL has the bytes, so it lives briefly and names one version. Of the two buckets only serving is read
and only quarantine is written, whatever a URL says: what did not pass has no way out here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from ingest_api.documents import pieces_of
from ingest_api.problems import RangeNotSatisfiable, documented
from ingest_api.uploads.digests import Checks, digests_in
from ingest_api.uploads.landing import Incoming, Landing, too_large
from ingest_api.uploads.names import declared_type
from ingest_api.uploads.stream import unstalled
from ingest_api.web import Web, web_of
from pipeline.errors import (
    AirlockError,
    BadRequest,
    Conflict,
    EmptyFile,
    Forbidden,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    TooLarge,
    UploadGone,
)
from pipeline.landing import Outcome, land_key
from pipeline.services import Services
from pipeline.storage.base import ObjectHeaders, ObjectStat
from pipeline.storage.keys import Place, parse
from pipeline.storage.local_signing import Grant
from pipeline.telemetry import logger
from pipeline.unfinished import upload_behind
from pipeline.uploads import must_be_open

log = logger(__name__)

router = APIRouter(prefix="/v1/objects", tags=["objects"])

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)


def _granted(request: Request, web: Web, bucket: str, key: str) -> Grant:
    length = request.headers.get("content-length")
    return web.services.signer.verify(
        request.method,
        bucket,
        key,
        request.query_params,
        datetime.now(UTC),
        content_type=request.headers.get("content-type", ""),
        content_length=int(length) if length is not None and length.isdecimal() else None,
    )


@router.head("/{bucket}/{key:path}", include_in_schema=False)
@router.get(
    "/{bucket}/{key:path}",
    summary="The bytes of a signed URL",
    response_class=StreamingResponse,
    responses={206: {"description": "One range."}, **documented(Forbidden, ObjectNotFound, RangeNotSatisfiable)},
)
async def get_object(request: Request, bucket: str, key: str) -> Response:
    """Takes no API key: the signature is the permission. Single ranges, ETag and If-None-Match work."""
    web = web_of(request)
    grant = _granted(request, web, bucket, key)
    store = web.services.serving
    if bucket != store.bucket:
        raise Forbidden("Nothing is given out of this bucket.")
    stat = await web.threads.bytes(store.head, key, grant.ref.version)
    headers = _headers(stat)
    if _matches(request.headers.get("if-none-match"), stat):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, stat.size, 200
    wanted = request.headers.get("range")
    if wanted is not None and request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
        start, end, status = _range(wanted, stat.size)
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{stat.size}"
    headers["Content-Length"] = str(end - start)
    kind = stat.headers.content_type
    if request.method == "HEAD" or start == end:
        return Response(status_code=status, headers=headers, media_type=kind)
    pieces = store.get(stat.ref, start, end)
    first = await web.threads.bytes(next, pieces, b"")
    return StreamingResponse(pieces_of(web, first, pieces), status, headers, media_type=kind)


def _headers(stat: ObjectStat) -> dict[str, str]:
    disposition = stat.headers.content_disposition or "attachment"
    return {
        "ETag": f'"{stat.ref.version}"',
        "Last-Modified": format_datetime(stat.modified.astimezone(UTC), usegmt=True),
        "Accept-Ranges": "bytes",
        # Never shown by a browser in our name: always saved, never sniffed, never run.
        "Content-Disposition": disposition if disposition.startswith("attachment") else "attachment",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cross-Origin-Resource-Policy": "same-site",
        "Cache-Control": "private, max-age=0, must-revalidate",
        "Referrer-Policy": "no-referrer",
    }


def _matches(header: str | None, stat: ObjectStat) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in (header or "").split(",")}
    return "*" in tags or f'"{stat.ref.version}"' in tags


def _range(value: str, size: int) -> tuple[int, int, int]:
    """(start, end, status). What is not a single range of bytes is passed over, as RFC 9110 allows."""
    match = _RANGE.fullmatch(value.strip())
    if match is None or match[1] == match[2] == "":
        return 0, size, 200
    if match[1] == "":  # the last so many
        start, end = max(size - int(match[2]), 0), size
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < start:
            return 0, size, 200
    if start >= end:
        raise RangeNotSatisfiable(f"The object has {size} bytes.", _headers={"Content-Range": f"bytes */{size}"})
    return start, end, 206


@router.put(
    "/{bucket}/{key:path}",
    summary="Send the bytes for a signed URL",
    status_code=201,
    response_class=Response,
    responses=documented(BadRequest, Forbidden, ObjectExists, Conflict, UploadGone, PreconditionFailed, TooLarge),
)
async def put_object(request: Request, bucket: str, key: str) -> Response:
    """Create-only: a second PUT is refused. Takes no API key: the signature is the permission. An upload that was begun
    at `/v1/uploads` is complete with it."""
    web = web_of(request)
    grant = _granted(request, web, bucket, key)
    place = parse(key)
    if bucket != web.services.quarantine.bucket or place is None:
        raise Forbidden("Nothing is taken into this bucket under this key.")
    if request.headers.get("if-none-match", "*").strip() != "*":
        raise PreconditionFailed("An object is made once: If-None-Match is *.")
    await web.threads.rows(_must_wait, place, web.services)
    limit = min(web.services.policy.limits.bytes, grant.size or web.services.policy.limits.bytes)
    length = request.headers.get("content-length")
    if length is not None and int(length) > limit:
        raise too_large(limit)
    kind = declared_type(request.headers.get("content-type"))
    landing = Landing(
        Incoming(
            place.document_id,
            key,
            "",
            None,
            kind,
            ObjectHeaders(grant.content_type or "application/octet-stream", "attachment"),
            grant.size,
        ),
        web.threads,
        web.services.quarantine,
        limit=limit,
        checks=Checks(digests_in(request.headers)),
    )
    try:
        async for chunk in unstalled(request.stream()):
            if chunk:
                await landing.feed(chunk)
        _must_be_whole(landing.size, grant.size)
        await landing.settle()
        await web.threads.bytes(landing.seal)
    except BaseException:
        await landing.discard()
        raise
    await web.threads.bytes(_land, key, landing.size, web)
    return Response(status_code=201, headers={"ETag": f'"{landing.sealed.ref.version}"'})


def _must_wait(place: Place, services: Services) -> None:
    """Raises UploadGone or Conflict where the upload that this URL was signed for is over."""
    if (upload := upload_behind(place.document_id, services)) is not None:
        must_be_open(upload)


def _land(key: str, size: int, web: Web) -> None:
    """Make the document now. Where that fails the object is there all the same, and the sweeper takes it."""
    try:
        if land_key(key, None, web.services, actor="upload") is Outcome.TAKEN:
            web.metrics.accepted(1, size)
    except AirlockError as exc:
        log.warning("not landed yet, the sweeper will", error=exc.code)


def _must_be_whole(size: int, signed: int | None) -> None:
    if size == 0:
        raise EmptyFile("The body is empty.")
    if signed is not None and size != signed:
        raise BadRequest(f"This URL is for a body of exactly {signed} bytes.")
