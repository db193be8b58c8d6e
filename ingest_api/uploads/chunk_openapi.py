"""What the OpenAPI document says of chunk sessions: bodies and answers."""

from __future__ import annotations

from typing import Any

from ingest_api.problems import InvalidParameters, Stalled, UnsupportedContent, documented
from pipeline.errors import (
    BadRequest,
    Conflict,
    DigestMismatch,
    EmptyFile,
    Forbidden,
    IdempotencyConflict,
    LedgerUnavailable,
    NoFile,
    NoSuchWay,
    NotAvailable,
    NotFound,
    QuotaExceeded,
    StoreUnavailable,
    TooLarge,
    TypeNotAllowed,
    Unauthorized,
    UploadGone,
    UploadIncomplete,
)

Node = dict[str, Any]
Answers = dict[int | str, Node]

SESSION = "0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55"
_COMMON = (BadRequest, Unauthorized, Forbidden, InvalidParameters, LedgerUnavailable)
_ONE = (*_COMMON, NotFound)
_SMALL = (Stalled, UnsupportedContent, TooLarge)


def _properties(**members: tuple[str, str]) -> Node:
    return {
        "type": "object",
        "properties": {name: {"type": kind, "description": text} for name, (kind, text) in members.items()},
    }


def _body(
    schema: Node, example: Node, *, required: bool = True, kinds: tuple[str, ...] = ("application/json",)
) -> Node:
    kinds = (*kinds, "application/x-www-form-urlencoded", "multipart/form-data")
    content = {kind: {"schema": schema, **({"example": example} if "json" in kind else {})} for kind in kinds}
    return {"requestBody": {"required": required, "content": content}}


def _ok(description: str, example: Node) -> Answers:
    schema = {"type": "object"}
    return {200: {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}}


_FILE: Node = {
    "sessionId": SESSION,
    "documentId": SESSION,
    "status": "STARTED",
    "state": "received",
    "links": {"self": f"/v1/documents/{SESSION}", "events": f"/v1/documents/{SESSION}/events"},
    "data": {
        "id": SESSION,
        "path": f"/v1/documents/{SESSION}",
        "filename": "report.pdf",
        "size": 48213,
        "sha256": None,
        "content_type": "application/pdf",
        "detail": None,
        "credential": None,
        "download_url": f"https://airlock.example/v1/documents/{SESSION}/content",
        "status": "STARTED",
        "state": "received",
    },
    "message": "",
    "success": True,
}

_WHOLE: dict[str, tuple[str, str]] = {
    "fileName": ("string", "The file's name (also `filename`)."),
    "totalChunks": ("integer", "How many chunks there will be (also `total_chunks`); at most 10,000."),
    "size": ("integer", "Bytes of the whole file (also `fileSize`, `total_size`)."),
    "sha256": ("string", "SHA-256 of the whole file, in hexadecimal or Base64: compared before it is cleared."),
    "type": ("string", "Its media type (also `contentType`)."),
}
INIT: Node = {
    **_body(_properties(**_WHOLE), {"fileName": "report.pdf", "totalChunks": 3, "size": 48213}, required=False),
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string", "maxLength": 255},
            "description": "Sent again, the same session comes back.",
        }
    ],
}
BEGUN: Answers = {
    **_ok(
        "The session.",
        {
            "sessionId": SESSION,
            "chunkSize": 10485760,
            "totalChunks": 3,
            "expiresAt": "2026-01-31T09:30:00+00:00",
            "data": {"upload_id": SESSION, "chunk_size": 10485760, "chunck_size": 10485760},
            "message": "",
            "success": True,
        },
    ),
    **documented(
        *_COMMON, *_SMALL, EmptyFile, TypeNotAllowed, IdempotencyConflict, NoSuchWay, QuotaExceeded, StoreUnavailable
    ),
}
CHUNK: Node = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["sessionId", "chunkIndex", "chunk"],
                    "properties": {
                        "sessionId": {"type": "string", "format": "uuid", "description": "Also `upload_id`."},
                        "chunkIndex": {"type": "integer", "description": "From 0 on. Also `chunk_index`."},
                        "chunk": {
                            "type": "string",
                            "contentMediaType": "application/octet-stream",
                            "description": "The bytes, as a file under any name; best after the other fields.",
                        },
                    },
                }
            }
        },
    }
}
TAKEN: Answers = {
    **_ok(
        "The chunk is stored durably.",
        {
            "sessionId": SESSION,
            "chunkIndex": 0,
            "totalChunks": 3,
            "data": {"chunk_index": 0, "upload_id": SESSION},
            "message": "The chunk is stored.",
            "success": True,
        },
    ),
    **documented(
        *_ONE, *_SMALL, Conflict, UploadGone, DigestMismatch, NoFile, EmptyFile, QuotaExceeded, StoreUnavailable
    ),
}
COMPLETE: Node = _body(
    _properties(
        sessionId=("string", "Also `upload_id`."), **_WHOLE, file_extension=("string", "Where there is no name.")
    ),
    {"sessionId": SESSION},
)
COMPLETED: Answers = {
    **_ok("The document. Follow its `status`, or its events, until it can be fetched.", _FILE),
    **documented(*_ONE, *_SMALL, UploadIncomplete, UploadGone, EmptyFile, TypeNotAllowed),
}
STATUS: Answers = {
    **_ok(
        "Where the session, or its document, is.",
        {
            "sessionId": SESSION,
            "status": "PENDING",
            "state": "open",
            "totalChunks": 3,
            "receivedChunks": 2,
            "missing": [1],
            "missingCount": 1,
            "data": {
                "status": "PENDING",
                "state": "open",
                "total_chunks": 3,
                "received_chunks": 2,
                "received_bytes": 20971520,
                "missing": [1],
                "missing_count": 1,
            },
            "message": "",
            "success": True,
        },
    ),
    **documented(*_ONE),
}
GOT: Answers = {
    **_ok("The document, and where its bytes are.", _FILE),
    307: {"description": "With `download`: `Location` is the signed URL."},
    **documented(*_ONE, NotAvailable),
}
RETRY: Node = _body(_properties(sessionId=("string", "The file's id. Also `file_id`.")), {"sessionId": SESSION})
RETRIED: Answers = {**_ok("It is on its way again.", _FILE), **documented(*_ONE, *_SMALL, Conflict, UploadIncomplete)}
