"""`/v1/tasks`: work that a platform's queue or clock brings as a request. Cloud Run has no workers and no beat.

What Pub/Sub (push) and Cloud Tasks do with an answer:

| answer | Pub/Sub | Cloud Tasks |
|---|---|---|
| 2xx | acknowledged | done |
| 429, 503 | delivered again, by the subscription's backoff | tried again, slower; Retry-After counts |
| any other | delivered again, by the subscription's backoff | tried again, by the queue's backoff |
| after so many tries | to the dead letter topic | dropped |

So there is no answer for "never again" but 2xx: a message that names no document is kept as a dead letter here, with
its text, and acknowledged. All that concerns a document (tries, failure, replay) is in its row; a message that the
platform gives up is rung for anew by the sweep.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from ingest_api.oidc import Pusher
from ingest_api.problems import correlation_of, documented, render
from ingest_api.web import web_of
from pipeline.errors import BadRequest, Forbidden, NotFound, TooLarge, Unauthorized, Unavailable
from pipeline.telemetry import logger

if TYPE_CHECKING:
    from pipeline.services import Services

log = logger(__name__)

BODY_BYTES = 256 << 10  # more than anybody who means us sends
SOURCE = "tasks"

router = APIRouter(tags=["operations"])

_REFUSED = documented(Unauthorized, Forbidden, NotFound, Unavailable)


@router.post(
    "/v1/tasks/run",
    summary="Take a document on",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Done, or nothing to do: acknowledge it."}, **_REFUSED, **documented(TooLarge)},
    openapi_extra={
        "requestBody": {
            "description": "A push of Pub/Sub, wrapped or not, or a task of Cloud Tasks, about one document.",
            "content": {
                "application/json": {
                    "schema": {"type": "object"},
                    "example": {"document": "0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55"},
                }
            },
        }
    },
)
async def run(request: Request, who: Pusher) -> Response:
    """Run the pipeline over the document that the message names, in this request.

    503 with Retry-After: bring it again. It waits for its next try, somebody else has it in hand, a part of the service
    is away, or this process is about to end.
    """
    body = await _body(request)
    web = web_of(request)
    again = await web.threads.flow(_run, body, web.services)
    if again is None:
        return Response(status_code=204)
    seconds = math.ceil(again.total_seconds())
    return render(
        Unavailable("The document waits for its next try, or is being worked on.", retry_after=seconds),
        correlation_of(request.scope),
    )


def _run(body: bytes, services: Services) -> timedelta | None:
    from pipeline.events.dead_letters import bury
    from pipeline.queue.pushed import answer, document_in

    try:
        document_id = document_in(_unwrapped(body))
    except BadRequest as exc:
        bury(SOURCE, body, {}, exc.detail, services)
        return None
    return answer(document_id, services)


def _unwrapped(body: bytes) -> bytes:
    """The data of a push of Pub/Sub; the body itself, if it is none."""
    from pipeline.events.gcs import unwrapped
    from pipeline.events.reading import Malformed, parsed

    try:
        value: Any = parsed(body)
        return unwrapped(value)[0] if isinstance(value, dict) and "message" in value else body
    except Malformed:
        return body


async def _body(request: Request) -> bytes:
    taken = bytearray()
    async for chunk in request.stream():
        taken += chunk
        if len(taken) > BODY_BYTES:
            raise TooLarge(
                f"A task's message may have {BODY_BYTES} bytes.", limit={"name": "task_bytes", "value": BODY_BYTES}
            )
    return bytes(taken)


@router.post(
    "/v1/tasks/sweep",
    summary="Sweep once",
    responses={200: {"description": "How much of what was found."}, **_REFUSED},
)
async def sweep(
    request: Request,
    who: Pusher,
    reconcile: Annotated[bool, Query(description="Also list the buckets and compare them with the ledger.")] = True,
) -> JSONResponse:
    """What beat does at its intervals, once: ring for what waits, expire, erase, and compare buckets and ledger.

    For a clock (Cloud Scheduler). Two at once do no harm.
    """
    web = web_of(request)
    found = await web.threads.flow(_sweep, web.services, reconcile)
    return JSONResponse(found)


def _sweep(services: Services, thorough: bool) -> dict[str, int]:
    from pipeline import sweeper

    return sweeper.once(services, thorough=thorough)
