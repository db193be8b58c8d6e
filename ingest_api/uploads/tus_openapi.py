"""What the OpenAPI document says of tus: headers of requests and answers."""

from __future__ import annotations

from typing import Any

from ingest_api.problems import ChunkMismatch, Stalled, TusVersion, UnsupportedContent, documented
from ingest_api.uploads.tus_headers import CHUNK, DIGESTS, VERSION
from pipeline.errors import (
    BadRequest,
    Conflict,
    EmptyFile,
    Forbidden,
    IdempotencyConflict,
    LedgerUnavailable,
    NotAppendable,
    NotFound,
    OffsetMismatch,
    QuotaExceeded,
    StoreUnavailable,
    TooLarge,
    TypeNotAllowed,
    Unauthorized,
    UploadGone,
    UploadIncomplete,
    UploadLocked,
)

Node = dict[str, Any]
Answers = dict[int | str, Node]


def _sent(name: str, description: str, example: str | None = None, **more: Any) -> Node:
    schema: Node = {"type": "string", **({"example": example} if example else {})}
    return {"name": name, "in": "header", "schema": schema, "description": description, **more}


def _told(**headers: str) -> Node:
    return {
        name.replace("_", "-"): {"schema": {"type": "string"}, "description": text} for name, text in headers.items()
    }


RESUMABLE = _sent("Tus-Resumable", "The version of tus that the client speaks.", VERSION, required=True)
CHECKSUM = _sent(
    "Upload-Checksum",
    f"An algorithm ({', '.join(DIGESTS)}), a space, and the digest of this request's bytes in Base64. Where they "
    "differ, or the request breaks off, all of its bytes are discarded.",
)
BYTES: Node = {
    "description": "Bytes of the upload, from Upload-Offset on.",
    "content": {CHUNK: {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}},
}
WHERE = _told(
    Upload_Offset="How many bytes are stored durably: go on from here.",
    Upload_Expires="When the upload is given up unless more comes.",
    Airlock_Document="Once all bytes are here: the id of the document. Link leads to it.",
)
_ANYWHERE = (BadRequest, Unauthorized, Forbidden, TusVersion, LedgerUnavailable)
_ONE = (*_ANYWHERE, NotFound, UploadGone)

OPTIONS: Answers = {
    204: {
        "description": "What is spoken here.",
        "headers": _told(
            Tus_Version="The versions of the protocol.",
            Tus_Extension="The extensions.",
            Tus_Max_Size="The most bytes of one upload.",
            Tus_Checksum_Algorithm="What Upload-Checksum may name.",
        ),
    }
}
CREATE: Node = {
    "parameters": [
        RESUMABLE,
        _sent("Upload-Length", "Bytes of the whole upload.", "48213"),
        _sent("Upload-Defer-Length", "1: the length comes with a later PATCH."),
        _sent(
            "Upload-Metadata",
            "Keys and Base64 values, by commas: `filename` (or `name`), `filetype` (or `type`, `contentType`), "
            "`sha256` (hexadecimal, of the whole: compared before it is cleared). HEAD gives all of it back.",
            "filename cmVwb3J0LnBkZg==",
        ),
        _sent(
            "Upload-Concat",
            "`partial`: a piece of an upload to come. `final;` and the URLs of finished partial uploads, with spaces "
            "between: the upload that they become, in this order. Each can be used once.",
        ),
        CHECKSUM,
        _sent("Idempotency-Key", "Sent again, the same upload comes back, and where it stands."),
    ],
    "requestBody": {**BYTES, "required": False},
}
CREATED: Answers = {
    201: {"description": "The upload.", "headers": {**_told(Location="Where its bytes go."), **WHERE}},
    **documented(
        *_ANYWHERE,
        EmptyFile,
        NotFound,
        UploadIncomplete,
        Conflict,
        UploadGone,
        TooLarge,
        TypeNotAllowed,
        UnsupportedContent,
        IdempotencyConflict,
        QuotaExceeded,
        ChunkMismatch,
        StoreUnavailable,
    ),
}
HEAD: Node = {"parameters": [RESUMABLE]}
FOUND: Answers = {
    200: {
        "description": "Where the upload stands.",
        "headers": {
            **WHERE,
            **_told(
                Upload_Length="Bytes of the whole, once they are known.",
                Upload_Defer_Length="1, as long as they are not.",
                Upload_Metadata="As it was sent.",
                Upload_Concat="As it was sent.",
            ),
        },
    },
    **documented(*_ONE),
}
PATCH: Node = {
    "parameters": [
        RESUMABLE,
        _sent("Upload-Offset", "Where these bytes belong: where the upload stands.", "0", required=True),
        _sent("Upload-Length", "The length of an upload that was begun without one."),
        CHECKSUM,
    ],
    "requestBody": {**BYTES, "required": True},
}
APPENDED: Answers = {
    204: {"description": "All of it is stored durably.", "headers": WHERE},
    **documented(
        *_ONE,
        NotAppendable,
        Stalled,
        OffsetMismatch,
        Conflict,
        TooLarge,
        UnsupportedContent,
        UploadLocked,
        QuotaExceeded,
        ChunkMismatch,
        StoreUnavailable,
    ),
}
ENDED: Answers = {204: {"description": "It is gone."}, **documented(*_ONE, Conflict)}
