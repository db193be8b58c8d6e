"""What the answers about chunk sessions look like: as clients of fastapi-file-management-service read them.

Two kinds of clients are about: those of the service itself read `data` (snake_case) and show `message`; others read
`sessionId` and its like at the top. Each answer has both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.responses import JSONResponse

from ingest_api.uploads.alike import AlikeRoute
from ingest_api.web import Web
from pipeline.chunks import NAMED, missing, total_of
from pipeline.documents import Document, Upload, UploadPart, UploadState
from pipeline.errors import AirlockError
from pipeline.states import SERVED, State

CHUNK = 10 << 20  # bytes that clients are told to cut
# Around a chunk in its form, where the platform bounds the whole request.
AROUND = 16 << 10
# The service's own words, which are Celery's.
PENDING, STARTED, SUCCESS, FAILURE = "PENDING", "STARTED", "SUCCESS", "FAILURE"
_OVER = frozenset({State.REJECTED, State.FAILED, State.EXPIRED, State.DELETED, State.RECALLED})


class ChunkRoute(AlikeRoute):
    """A route whose errors also have `success` and `errors`."""

    def members(self, error: AirlockError) -> dict[str, Any]:
        """See AlikeRoute."""
        return {"success": False, "errors": error.extra.get("errors", [])}


def answer(data: dict[str, Any], message: str = "", **top: Any) -> JSONResponse:
    """200 in their envelope."""
    return JSONResponse({**top, "data": data, "message": message, "success": True})


def chunk_bytes(web: Web) -> int:
    """How large a chunk clients are told to cut."""
    settings = web.services.settings
    bounds = [CHUNK, settings.chunk_bytes]
    if settings.body_limit is not None:
        bounds.append(max(1, settings.body_limit - AROUND))
    return min(bounds)


def begun(web: Web, upload: Upload) -> JSONResponse:
    """A session that was opened."""
    size = chunk_bytes(web)
    return answer(
        # Theirs is misspelt, and their own front end reads the other.
        {"upload_id": str(upload.id), "chunk_size": size, "chunck_size": size},
        sessionId=str(upload.id),
        chunkSize=size,
        totalChunks=total_of(upload),
        expiresAt=upload.expires_at.isoformat(),
    )


def word_of(state: State) -> str:
    """Their word for where a document is: only one that can be downloaded is a success."""
    if state in SERVED:
        return SUCCESS
    return FAILURE if state in _OVER else STARTED


def session(upload: Upload, parts: Sequence[UploadPart]) -> JSONResponse:
    """A session that is no document yet, or never will be."""
    waits = upload.state is UploadState.OPEN
    lacking = missing(upload, parts) if waits else []
    status = PENDING if waits else FAILURE
    told = {
        "status": status,
        "state": upload.state.value,
        "total_chunks": total_of(upload),
        "received_chunks": len(parts),
        "received_bytes": upload.offset,
        "missing": lacking[:NAMED],
        "missing_count": len(lacking),
    }
    return answer(
        told,
        sessionId=str(upload.id),
        status=status,
        state=upload.state.value,
        totalChunks=total_of(upload),
        receivedChunks=len(parts),
        missing=lacking[:NAMED],
        missingCount=len(lacking),
    )


def document_status(document: Document) -> JSONResponse:
    """Where a document is, honestly, and in their word for it."""
    status = word_of(document.state)
    told: dict[str, Any] = {"status": status, "state": document.state.value}
    if document.reason is not None:
        told["reason"] = document.reason.value
    if document.detail is not None:
        told["detail"] = document.detail
    return answer(told, sessionId=str(document.id), **told)


def file(web: Web, document: Document, download_url: str | None = None) -> JSONResponse:
    """A document as their service shows a file. Without a signed URL `download_url` is where to ask for the content
    once it is available."""
    path = f"/v1/documents/{document.id}"
    return answer(
        {
            "id": str(document.id),
            "path": path,
            "filename": document.name,
            "size": document.size,
            "sha256": document.sha256,
            "content_type": document.detected_type or document.declared_type or "application/octet-stream",
            "detail": None,
            "credential": None,
            "download_url": download_url or f"{web.services.settings.base_url}{path}/content",
            "status": word_of(document.state),
            "state": document.state.value,
        },
        sessionId=str(document.id),
        documentId=str(document.id),
        status=word_of(document.state),
        state=document.state.value,
        links={"self": path, "events": f"{path}/events"},
    )
