"""What every answer of tus says."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from ingest_api.problems import TusVersion
from ingest_api.uploads.tus_headers import VERSION
from ingest_api.web import Web
from pipeline.documents import Upload, UploadMethod, UploadState
from pipeline.errors import AirlockError, NotFound

PATH = "/v1/uploads/tus"


class TusRoute(APIRoute):
    """A route that speaks one version, and says so in every answer, errors too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                if request.method != "OPTIONS" and request.headers.get("tus-resumable") != VERSION:
                    raise TusVersion(f"Send Tus-Resumable: {VERSION}.", _headers={"Tus-Version": VERSION})
                answer = await inner(request)
            except RequestValidationError:
                error: AirlockError = NotFound()  # an id that cannot be
            except AirlockError as exc:
                error = exc
            else:
                answer.headers["Tus-Resumable"] = VERSION
                return answer
            more = error.extra.get("_headers")
            error.extra["_headers"] = {**(more if isinstance(more, dict) else {}), "Tus-Resumable": VERSION}
            raise error

        return handle


def created(web: Web, upload: Upload, *, before: bool = False) -> Response:
    """201, and where its bytes go. `before`: it was there already."""
    headers = {"Location": f"{base_of(web)}/{upload.id}", **state_of(upload)}
    if before:
        headers["Idempotency-Replayed"] = "true"
    return Response(status_code=201, headers=headers)


def base_of(web: Web) -> str:
    """Where uploads are, without a host: it is resolved against the address that the client has just used, whatever
    proxies there are."""
    return urlsplit(web.services.settings.public_url or "").path.rstrip("/") + PATH


def state_of(upload: Upload) -> dict[str, str]:
    """How far it has got, and until when it may go on, or what has become of it."""
    headers = {"Upload-Offset": str(upload.offset)}
    if upload.state is UploadState.OPEN:
        headers["Upload-Expires"] = format_datetime(upload.expires_at.astimezone(UTC), usegmt=True)
    elif upload.state is UploadState.COMPLETED and upload.method is not UploadMethod.TUS_PARTIAL:
        headers["Airlock-Document"] = str(upload.id)
        headers["Link"] = f'</v1/documents/{upload.id}>; rel="related"'
    return headers
