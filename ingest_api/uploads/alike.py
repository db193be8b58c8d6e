"""Routes that speak another API: their errors also have what its clients look at, above all `message`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from ingest_api.problems import invalid
from pipeline.errors import AirlockError


class AlikeRoute(APIRoute):
    """A route whose problem documents have a `message`, and the members that a subclass adds."""

    def members(self, error: AirlockError) -> dict[str, Any]:
        """What its clients look at besides."""
        return {}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await inner(request)
            except RequestValidationError as exc:
                error = invalid(exc)
            except AirlockError as exc:
                error = exc
            error.extra["_alike"] = self.members(error)
            raise error

        return handle
