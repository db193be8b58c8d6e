"""`POST /v1/documents`: a form or a raw body, streamed from the socket to quarantine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ingest_api.auth import Principal, Writer
from ingest_api.problems import Stalled, UnsupportedContent, correlation_of, documented
from ingest_api.schemas import EXAMPLE, DocumentList, DocumentOut, accepted, shown
from ingest_api.uploads.digests import Checks, digests_in
from ingest_api.uploads.form import boundary_of, read_form
from ingest_api.uploads.idempotency import idempotency_key
from ingest_api.uploads.intake import Intake
from ingest_api.uploads.landing import too_large
from ingest_api.uploads.names import declared_type, name_of_raw
from ingest_api.uploads.recorder import AlreadyUsed
from ingest_api.uploads.stream import refuse_coded, unstalled
from ingest_api.web import Web, web_of
from pipeline.documents import Document, Replay
from pipeline.errors import (
    BadRequest,
    Conflict,
    DigestMismatch,
    EmptyFile,
    Forbidden,
    IdempotencyConflict,
    LedgerUnavailable,
    NoFile,
    QuotaExceeded,
    StoreUnavailable,
    TooLarge,
    Unauthorized,
)
from pipeline.quota import room_for_one

router = APIRouter(tags=["documents"])

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A form with one or several files, or the file itself with any other Content-Type.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "contentMediaType": "application/octet-stream"},
                            "description": "Any number of files, under any field name. Text fields are passed over.",
                        }
                    },
                }
            },
            "application/octet-stream": {
                "schema": {"type": "string", "contentMediaType": "application/octet-stream"},
            },
        },
    },
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string", "maxLength": 255},
            "description": "Sent again with the same body, the first answer comes back and nothing is stored twice.",
        },
        {
            "name": "Content-Digest",
            "in": "header",
            "schema": {"type": "string"},
            "description": "RFC 9530, sha-256 or sha-512, over the request's content; verified. Repr-Digest and Digest "
            "are too, and Content-Digest among the headers of a part, over that part.",
        },
        {
            "name": "Content-Disposition",
            "in": "header",
            "schema": {"type": "string"},
            "description": 'A raw body\'s file name: attachment; filename="report.pdf". X-File-Name (percent-encoded) '
            "and ?name= do the same.",
        },
        {"name": "name", "in": "query", "schema": {"type": "string"}, "description": "A raw body's file name."},
    ],
}

_ANSWER: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "All is stored durably and waits to be looked at. One file: the document; several: a list.",
        "headers": {
            "Location": {"schema": {"type": "string"}, "description": "The (first) document."},
            "Idempotency-Replayed": {
                "schema": {"type": "string", "enum": ["true"]},
                "description": "This request was answered from an earlier one.",
            },
        },
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/DocumentOut"},
                        {"$ref": "#/components/schemas/DocumentList"},
                    ]
                },
                "examples": {
                    "one file": {"value": EXAMPLE},
                    "several files": {"value": {"documents": [EXAMPLE]}},
                },
            }
        },
    }
}


@router.post(
    "/v1/documents",
    status_code=202,
    summary="Upload one or several files",
    response_model=None,
    responses={
        **_ANSWER,
        **documented(
            BadRequest,
            NoFile,
            EmptyFile,
            DigestMismatch,
            Unauthorized,
            Forbidden,
            Stalled,
            TooLarge,
            UnsupportedContent,
            IdempotencyConflict,
            QuotaExceeded,
            LedgerUnavailable,
            StoreUnavailable,
        ),
    },
    openapi_extra=_BODY,
)
async def upload(request: Request, who: Writer) -> Response:
    """Bytes flow from the socket to quarantine and are hashed on the way; nothing is ever held whole.

    The answer is 202: follow `Location`, or its event stream, until the document is settled.
    """
    web = web_of(request)
    await admit(web, who)
    boundary = boundary_of(request.headers.get("content-type"))
    _refuse_unread(request, web, boundary)
    key = idempotency_key(request.headers)
    earlier = await web.threads.rows(_replay_of, web, who, key) if key is not None else None
    intake = Intake(
        web.services, web.threads, web.recorder, who.tenant, correlation_of(request.scope), keep=earlier is None
    )
    try:
        await _receive(request, web, boundary, intake)
        if earlier is not None:
            return await _replayed(web, who, earlier, await intake.compare())
        taken = await intake.record(key)
    except AlreadyUsed:
        await intake.discard()
        first = await web.threads.rows(_replay_of, web, who, key or "")
        if first is None:  # undone, or forgotten, in the same moment
            raise Conflict("Another request with this Idempotency-Key was under way. Try again.") from None
        return await _replayed(web, who, first, intake.fingerprint())
    except BaseException:
        await intake.discard()
        raise
    web.metrics.accepted(len(taken), sum(one.new.size for one in taken))
    return _answer([accepted(one.new, one.event) for one in taken])


async def admit(web: Web, who: Principal) -> None:
    """Whether this tenant may send now, before a byte is read. Raises QuotaExceeded where nothing more would be taken;
    whether these very bytes fit is told when they are here."""
    quota = web.services.policy.quota
    if quota.documents is not None or quota.bytes is not None:

        def ask() -> None:
            with web.services.ledger.reading() as tx:
                room_for_one(tx, who.tenant, web.services.policy)

        await web.threads.rows(ask)


def _refuse_unread(request: Request, web: Web, boundary: str | None) -> None:
    refuse_coded(request.headers)
    length = request.headers.get("content-length")
    limits = web.services.policy.limits
    if length is None:
        return
    if not (length.isascii() and length.isdigit()):
        raise BadRequest("Content-Length is not a number of bytes.")
    if boundary is None and int(length) > limits.bytes:
        raise too_large(limits.bytes)
    if boundary is not None and int(length) > (most := limits.bytes * limits.files + (1 << 20)):
        raise too_large(most, "form_bytes")


async def _receive(request: Request, web: Web, boundary: str | None, intake: Intake) -> None:
    checks = Checks(digests_in(request.headers), alone=boundary is not None)
    stream = unstalled(_counted(request.stream(), web))
    if boundary is not None:
        await read_form(stream, boundary, intake, checks)
        checks.verify()
        return
    length = request.headers.get("content-length")
    landing = await intake.open(
        field="",
        name=name_of_raw(request.headers, request.query_params),
        declared=declared_type(request.headers.get("content-type")),
        size=int(length) if length is not None else None,
        checks=checks,
    )
    async for chunk in stream:
        if chunk:
            await landing.feed(chunk)
    if landing.size == 0:
        raise EmptyFile("The body is empty: send a file's bytes, or a form with a file.")


async def _counted(stream: AsyncIterator[bytes], web: Web) -> AsyncIterator[bytes]:
    async for chunk in stream:
        web.metrics.received(len(chunk))
        yield chunk


def _replay_of(web: Web, who: Principal, key: str) -> Replay | None:
    with web.services.ledger.reading() as tx:
        return tx.replay_of(who.tenant, key)


async def _replayed(web: Web, who: Principal, earlier: Replay, fingerprint: str) -> Response:
    if fingerprint != earlier.fingerprint:
        raise IdempotencyConflict("This Idempotency-Key stands for another body. Use a new key for new content.")

    def look() -> Sequence[Document]:
        with web.services.ledger.reading() as tx:
            return [tx.document(one, tenant=who.tenant) for one in earlier.document_ids]

    return _answer([shown(document) for document in await web.threads.rows(look)], replayed=True)


def _answer(documents: Sequence[DocumentOut], *, replayed: bool = False) -> Response:
    body = documents[0] if len(documents) == 1 else DocumentList(documents=list(documents))
    headers = {"Location": documents[0].links["self"]}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(body.model_dump_json(exclude_none=True), 202, headers, media_type="application/json")
