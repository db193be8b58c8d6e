"""Puts the parts of the application together, and does nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from fastapi import FastAPI

from ingest_api import cors, problems
from ingest_api.edge import Edge
from ingest_api.limits import BodyLimit
from ingest_api.openapi import describe
from ingest_api.routes import ROUTERS
from ingest_api.web import Web
from pipeline.drain import LAST
from pipeline.platforms import must_last, platform
from pipeline.services import Services
from pipeline.settings import Settings

_ABOUT = """\
Every upload lands in a private quarantine. It is typed, scanned and read; only what passes is copied to where it can be
downloaded, and exactly those bytes.

`POST /v1/documents` answers **202** as soon as the bytes are durable. Follow `Location`, or its `/events`, until the
document is settled: `available`, or `rejected` with a reason.

Errors are [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem documents; `type` leads to an explanation.
"""


def assemble(settings: Settings | None, services: Services | None) -> FastAPI:
    """See `create_app`."""
    parts = services or Services(settings or Settings())
    must_last(parts.settings, platform())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.web = web = Web(parts)
        try:
            with parts.drain.at(signal.SIGTERM):
                yield
                if services is None:
                    # What the flow has in hand here (AIRLOCK_QUEUE=inline, pushed tasks) still needs every part.
                    parts.drain.begin()
                    await asyncio.to_thread(parts.drain.wait, parts.settings.drain_seconds + LAST)
        finally:
            await web.close()
            if services is None:
                parts.close()

    app = FastAPI(
        title="Airlock",
        version="1",
        summary="Quarantine, check and serve documents",
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # these two would load their scripts from somewhere else: see reference.py
        redoc_url=None,
        redirect_slashes=False,  # a redirect would have the client send its body twice
        openapi_tags=[
            {"name": "documents", "description": "Upload, follow, download, delete."},
            {"name": "uploads", "description": "In several requests, whatever breaks in between."},
            {"name": "batches", "description": "Many documents and one answer."},
            {"name": "policy", "description": "What is accepted, and how to verify what was cleared."},
            {"name": "objects", "description": "Where signed URLs of the local store lead."},
            {"name": "notifications", "description": "Where clouds and buckets tell of objects."},
            {"name": "operations", "description": "For whoever runs the service."},
        ],
    )
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app)
    cors.allow(app, parts.settings.cors_origins)
    if (limit := parts.settings.body_limit) is not None:
        app.add_middleware(BodyLimit, limit)
    app.add_middleware(Edge)  # the last one is the outermost
    describe(app)
    return app
