"""`/v1/notifications/...`: where Pub/Sub, Eventarc and bucket webhooks tell of objects. None of these takes an API key.

The answer is to the messenger, not about the object: 204 once the message is done with (landed, ignored or
dead-lettered), 503 where the store or the database is away, so that it comes again. What a message says decides
nothing: the store is asked.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from ingest_api.oidc import Pusher
from ingest_api.problems import Stalled, documented
from ingest_api.uploads.stream import unstalled
from ingest_api.web import web_of
from pipeline.errors import Forbidden, NotFound, TooLarge, Unauthorized, Unavailable
from pipeline.events import gcs
from pipeline.events.intake import READERS, Disposition, take
from pipeline.events.reading import MAX_BYTES, Malformed

router = APIRouter(prefix="/v1/notifications", tags=["notifications"])

RETRY_AFTER_S = 10
# All that is read of a request's headers, and all that is kept of them with a dead letter: never its credentials.
_READ = frozenset({"content-type", *(name.lower() for name in gcs.NAMES)})

_ANSWERS = {
    204: {"description": "Done with."},
    **documented(Unauthorized, Forbidden, NotFound, TooLarge, Stalled, Unavailable),
}


def _described(*kinds: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": {"type": "object"}} for kind in kinds}}}


@router.post(
    "/pubsub",
    summary="A push of Pub/Sub about an object in Cloud Storage",
    status_code=204,
    response_class=Response,
    responses=_ANSWERS,
    openapi_extra=_described("application/json"),
)
async def pubsub(request: Request, who: Pusher) -> Response:
    """Wrapped or unwrapped, with the token of a service account that AIRLOCK_PUSH_ACCOUNTS names."""
    return await _taken(request, "push", _out_of_its_wrapper)


@router.post(
    "/eventarc",
    summary="A CloudEvent of Eventarc about an object in Cloud Storage",
    status_code=204,
    response_class=Response,
    responses=_ANSWERS,
    openapi_extra=_described("application/json", "application/cloudevents+json"),
)
async def eventarc(request: Request, who: Pusher) -> Response:
    """In binary or structured mode, with the token of a service account that AIRLOCK_PUSH_ACCOUNTS names."""
    return await _taken(request, "eventarc")


async def _known(request: Request) -> None:
    """Whoever sends AIRLOCK_EVENT_SECRET: as a bearer token, or as the password of Basic, for servers that can only
    write it into the URL that they call (Ceph)."""
    secret = web_of(request).services.settings.event_secret
    if secret is None:
        raise NotFound("No bucket may notify here: AIRLOCK_EVENT_SECRET is not set.")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            given = given.strip()
        case "basic":
            given = _password(given.strip())
        case _:
            raise Unauthorized("Send the shared secret: Authorization: Bearer ...")
    # Digests are of one length: how long it takes says nothing of either.
    if not hmac.compare_digest(
        sha256(given.encode("utf-8", "surrogateescape")).digest(), sha256(secret.get_secret_value().encode()).digest()
    ):
        raise Unauthorized("That is not the shared secret.", _challenge='Bearer realm="airlock", error="invalid_token"')


def _password(credentials: str) -> str:
    """RFC 7617."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2].decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return ""


@router.post(
    "/bucket",
    summary="A bucket's webhook: S3's events as JSON",
    status_code=204,
    response_class=Response,
    responses=_ANSWERS,
    openapi_extra=_described("application/json"),
    dependencies=[Depends(_known)],
)
async def bucket(request: Request) -> Response:
    """As MinIO, Ceph, Garage, RustFS and SeaweedFS post them; with the shared secret AIRLOCK_EVENT_SECRET."""
    return await _taken(request, "webhook")


Opened = tuple[bytes, Mapping[str, str]]


def _out_of_its_wrapper(body: bytes, headers: Mapping[str, str]) -> Opened:
    """A push as its publisher sent it, so that a dead letter of it can be read, and is one however often it comes."""
    try:
        return gcs.opened(body, headers)
    except Malformed:
        return body, headers


def _as_it_came(body: bytes, headers: Mapping[str, str]) -> Opened:
    return body, headers


async def _taken(
    request: Request, source: str, open_it: Callable[[bytes, Mapping[str, str]], Opened] = _as_it_came
) -> Response:
    body = await _body(request)
    web = web_of(request)
    headers = _kept(request.headers)

    def work() -> Disposition:
        return take(*open_it(body, headers), READERS[source], web.services, source=source)

    # Where the API process itself works on documents, this does so before it answers.
    if await web.threads.flow(work) is Disposition.RETRY:
        raise Unavailable("The store or the database is away.", retry_after=RETRY_AFTER_S)
    return Response(status_code=204)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name in _READ or name.startswith("ce-")}


async def _body(request: Request) -> bytes:
    """The whole body. Raises TooLarge, Stalled."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BYTES:
        raise _too_large()
    body = bytearray()
    async for chunk in unstalled(request.stream()):
        body += chunk
        if len(body) > MAX_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> TooLarge:
    return TooLarge(
        f"A notification has at most {MAX_BYTES} bytes.", limit={"name": "notification_bytes", "value": MAX_BYTES}
    )
