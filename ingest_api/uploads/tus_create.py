"""How a tus upload begins: alone, with its first bytes, as a piece of another one, or made of such pieces."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from fastapi import Request
from fastapi.responses import Response

from ingest_api.auth import Principal
from ingest_api.problems import UnsupportedContent, correlation_of
from ingest_api.uploads.idempotency import idempotency_key
from ingest_api.uploads.stream import refuse_coded
from ingest_api.uploads.tus_answers import created
from ingest_api.uploads.tus_append import append_to, too_long
from ingest_api.uploads.tus_headers import CHUNK, Checksum, Concat, Metadata, announced_length, is_chunk, number_in
from ingest_api.web import Web
from pipeline.concatenation import concatenate
from pipeline.documents import Upload, UploadMethod, UploadState
from pipeline.errors import AirlockError
from pipeline.services import Services
from pipeline.uploads import give_up, new_upload, record, record_once


async def begin(request: Request, web: Web, who: Principal) -> Response:
    """Answer a creation. Raises what CREATED lists in tus_openapi.py."""
    correlation_id = correlation_of(request.scope)
    concat, metadata = Concat.of(request.headers), Metadata.of(request.headers)
    if concat is not None and concat.partials:
        upload = await web.threads.bytes(_concatenate, web.services, who, concat, metadata, correlation_id)
        if upload.correlation_id == correlation_id:
            web.metrics.accepted(1, upload.offset)
        return created(web, upload)
    length, checksum, sends = announced_length(request.headers), Checksum.of(request.headers), _sends(request)
    upload = _new(web.services, who, length, concat, metadata, correlation_id)
    if sends and length is not None and (number_in(request.headers, "Content-Length") or 0) > length:
        raise too_long(upload, length)
    upload, before = await web.threads.rows(_record, web.services, upload, idempotency_key(request.headers))
    if before or not sends or upload.state is not UploadState.OPEN:
        return created(web, upload, before=before)
    try:
        upload = await append_to(request, web, upload.id, who.tenant, offset=0, size=None, checksum=checksum)
    except AirlockError:
        await web.threads.rows(give_up, upload, web.services)  # its sender is never told where it is
        raise
    return created(web, upload)


def _sends(request: Request) -> bool:
    """Whether the first bytes come along."""
    if is_chunk(request.headers):
        refuse_coded(request.headers)
        return True
    if request.headers.get("content-length", "0") != "0":
        raise UnsupportedContent(f"Send the first bytes as {CHUNK}, or none.")
    return False


def _new(
    services: Services,
    who: Principal,
    length: int | None,
    concat: Concat | None,
    metadata: Metadata,
    correlation_id: str,
) -> Upload:
    empty = concat is not None and length == 0  # a client that cuts a tiny file into many pieces makes such
    upload = new_upload(
        services,
        who.tenant,
        UploadMethod.TUS if concat is None else UploadMethod.TUS_PARTIAL,
        name=metadata.name,
        declared_type=metadata.declared_type,
        size=None if empty else length,
        declared_sha256=metadata.sha256,
        details={"metadata": metadata.raw},
        correlation_id=correlation_id,
    )
    return replace(upload, size=0, state=UploadState.COMPLETED) if empty else upload


def _record(services: Services, upload: Upload, key: str | None) -> tuple[Upload, bool]:
    if key is None:
        return record(upload, services), False
    asked = [upload.method, upload.size, upload.details.get("metadata")]
    fingerprint = hashlib.sha256(json.dumps(["tus", *asked]).encode()).hexdigest()
    return record_once(upload, services, key=key, fingerprint=fingerprint)


def _concatenate(services: Services, who: Principal, concat: Concat, metadata: Metadata, correlation_id: str) -> Upload:
    return concatenate(
        concat.partials,
        who.tenant,
        services,
        name=metadata.name,
        declared_type=metadata.declared_type,
        declared_sha256=metadata.sha256,
        details={"metadata": metadata.raw},
        correlation_id=correlation_id,
    )
