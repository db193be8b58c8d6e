"""Every error of the API, rendered in one place as RFC 9457 problem+json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from pipeline.errors import AirlockError, BadRequest, NotFound, TooMany, Unauthorized
from pipeline.telemetry import logger

log = logger(__name__)

MEDIA_TYPE = "application/problem+json"
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
RETRY_AFTER = 5  # seconds, where a part of the service is away


class MethodNotAllowed(AirlockError):
    code, title, status = "method-not-allowed", "This resource does not take that method", 405


class InvalidParameters(AirlockError):
    code, title, status = "invalid-parameters", "A parameter is not what it has to be", 422


class UnsupportedContent(AirlockError):
    code, title, status = "unsupported-content", "The request's encoding is not one that is taken", 415


class Stalled(AirlockError):
    code, title, status, retryable = "stalled", "The upload stopped half way", 408, True


class RangeNotSatisfiable(AirlockError):
    code, title, status = "range-not-satisfiable", "The object has no such bytes", 416


class TusVersion(AirlockError):
    code, title, status = "tus-version", "This version of tus is not spoken here", 412


class ChunkMismatch(AirlockError):
    # The status is tus' own, and in no registry.
    code, title, status, retryable = "chunk-mismatch", "The chunk is not the one that its checksum names", 460, True


class HeadTooLarge(AirlockError):
    code, title, status = "head-too-large", "The request's headers are too large", 431


class HeadTooSlow(AirlockError):
    code, title, status, retryable = "head-too-slow", "The request's headers took too long", 408, True


class Problem(BaseModel):
    """RFC 9457 problem details. Further members, such as `limit`, depend on the type."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A URI reference that names the kind of problem, and explains it when opened.")
    title: str = Field(description="The kind of problem, in words.")
    status: int = Field(description="The HTTP status code.")
    detail: str = Field(description="What is wrong with this request, and what to do.")
    correlation_id: str = Field(description="Quote it when you ask for help: the service's logs know it.")


def catalogue() -> dict[str, type[AirlockError]]:
    """Every kind of problem, by its code."""

    def below(kind: type[AirlockError]) -> Iterator[type[AirlockError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    return {kind.code: kind for kind in below(AirlockError)}


def correlation_of(scope: Mapping[str, object]) -> str:
    """The correlation id that the edge gave this request."""
    state = scope.get("state")
    return str(state.get("correlation_id", "")) if isinstance(state, dict) else ""


def render(error: AirlockError, correlation_id: str) -> Response:
    """The problem document of one error. Of a fault on our side nothing is told but its kind."""
    ours = error.status >= 500
    body = {
        **({} if ours else {name: value for name, value in error.extra.items() if not name.startswith("_")}),
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": f"{error.title}. Quote the correlation id when you ask about it." if ours else error.detail,
        "correlation_id": correlation_id,
    }
    alike = error.extra.get("_alike")
    if isinstance(alike, dict):
        # Where another API is spoken: what its clients look at. `message` is what they show.
        body |= {**alike, "message": body["detail"]}
    headers = {"Cache-Control": "no-store"}
    challenge = error.extra.get("_challenge")
    if isinstance(challenge, str):
        headers["WWW-Authenticate"] = challenge
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="airlock"'
    if error.status in (423, 503) or isinstance(error, TooMany):
        headers["Retry-After"] = str(error.extra.get("retry_after", RETRY_AFTER))
    allow = error.extra.get("_headers")
    if isinstance(allow, dict):
        headers |= {str(name): str(value) for name, value in allow.items()}
    content = json.dumps(body, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(content, error.status, headers, media_type=MEDIA_TYPE)


def documented(*kinds: type[AirlockError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these errors, one a status code."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in dict.fromkeys(kind.status for kind in kinds):
        alike = [kind for kind in kinds if kind.status == status]
        examples = {kind.code: {"summary": kind.title, "value": _example(kind)} for kind in alike}
        schema = {"$ref": "#/components/schemas/Problem"}
        found[status] = {
            "description": "; ".join(kind.title for kind in alike),
            "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
        }
    return found


def _example(kind: type[AirlockError]) -> dict[str, object]:
    return {
        "type": f"/problems/{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": f"{kind.title}.",
        "correlation_id": "f3b1c2d4e5f60718293a4b5c6d7e8f90",
    }


def install(app: FastAPI) -> None:
    """Have the framework's own errors rendered here too."""

    @app.exception_handler(AirlockError)
    async def _named(request: Request, error: AirlockError) -> Response:
        if error.status >= 500:
            log.error("request failed", code=error.code, detail=error.detail, exc_info=error)
        return render(error, correlation_of(request.scope))

    @app.exception_handler(HTTPException)
    async def _framework(request: Request, error: HTTPException) -> Response:
        return render(
            named(error, _allowed(request) if error.status_code == 405 else ""), correlation_of(request.scope)
        )

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return render(invalid(error), correlation_of(request.scope))


def invalid(error: RequestValidationError) -> AirlockError:
    """The framework's refusal of parameters as one of ours. What was sent is not repeated: it may be anything, and of
    any length."""
    if any(item["loc"][0] == "path" for item in error.errors()):
        return NotFound()  # an id that cannot be is answered like one that is not there
    wrong = [
        {"in": str(item["loc"][0]), "name": ".".join(map(str, item["loc"][1:])), "problem": item["msg"]}
        for item in error.errors()[:20]
    ]
    detail = "; ".join(f"{item['name']}: {item['problem']}" for item in wrong)
    return InvalidParameters(f"{detail}.", errors=wrong)


def _allowed(request: Request) -> str:
    """Every method of this address: the framework names those of one route, and an address may have several."""
    scope = dict(request.scope)

    def takes(method: str) -> bool:
        scope["method"] = method
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(takes, _METHODS))


def named(error: HTTPException, allow: str = "") -> AirlockError:
    """The framework's error as one of ours."""
    match error.status_code:
        case 404:
            return NotFound("There is nothing at this address.")
        case 405:
            return MethodNotAllowed(f"This address takes {allow or 'other methods'}.", _headers={"Allow": allow})
        case status if status < 500:
            return BadRequest(str(error.detail))
        case _:
            return AirlockError()
