"""Every router of the API, in the order in which their addresses are tried."""

from __future__ import annotations

from ingest_api import (
    batch_events,
    batch_results,
    batches,
    documents,
    events,
    health,
    notifications,
    objects,
    public,
    reference,
    tasks,
)
from ingest_api.uploads import chunks, direct, presigned, tus, uppy

ROUTERS = tuple(
    module.router
    for module in (
        direct,
        tus,
        chunks,
        presigned,
        uppy,
        documents,
        events,
        batches,
        batch_events,
        batch_results,
        notifications,
        objects,
        public,
        reference,
        tasks,
        health,
    )
)
