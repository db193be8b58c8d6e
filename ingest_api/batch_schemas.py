"""The wire types of batches."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from pipeline.batches import OVER, Batch, BatchState, ItemState, Source
from pipeline.loading import Loader

EXAMPLE: dict[str, Any] = {
    "id": "7c1f5f1e-93a7-4d0e-8f3e-2b1f6a0d9c11",
    "name": "May",
    "state": "running",
    "source": "manifest",
    "total": 10000,
    "ended": 4211,
    "counts": {"available": 4187, "rejected": 23, "failed": 1, "running": 256, "waiting": 5533},
    "listed": True,
    "created_at": "2026-01-31T09:30:00.123Z",
    "links": {
        "self": "/v1/batches/7c1f5f1e-93a7-4d0e-8f3e-2b1f6a0d9c11",
        "events": "/v1/batches/7c1f5f1e-93a7-4d0e-8f3e-2b1f6a0d9c11/events",
        "results": "/v1/batches/7c1f5f1e-93a7-4d0e-8f3e-2b1f6a0d9c11/results",
    },
}
RETRIED_FROM = frozenset({BatchState.RUNNING, *OVER})
CANCELLED_FROM = frozenset({BatchState.RUNNING, BatchState.RETRYING})


class BatchOut(BaseModel):
    """One batch and how far it is. Members that have no value are left out."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: UUID
    name: str | None = None
    state: BatchState = Field(description="`completed` or `cancelled` once every item has ended.")
    source: Source = Field(description="What it was made of.")
    prefix: str | None = None
    total: int = Field(description="Items; of a prefix, those that are listed so far.")
    ended: int = Field(description="Items that have come to their end, whichever.")
    counts: dict[ItemState, int] = Field(description="Items by state; a state that none is in is not named.")
    listed: bool = Field(description="Whether all items are known: false while a prefix is being listed.")
    truncated: bool = Field(False, description="Below the prefix were more objects than a batch may have items.")
    run: int = Field(1, description="Rises with each retry.")
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None
    links: dict[str, str] = Field(description="Where to go from here; only what there is.")


class ProblemLine(BaseModel):
    """A line of the manifest that cannot be an item."""

    line: int | None = Field(None, description="From 1; of a CSV the header is the first.")
    problem: str


class BatchCreated(BatchOut):
    """A batch as it was taken."""

    problems: list[ProblemLine] | None = Field(
        None, description="The first 100 lines that cannot be items. `counts.invalid` counts all, `results` names them."
    )


class BatchPage(BaseModel):
    """A page, newest first."""

    batches: list[BatchOut]
    next_cursor: str | None = Field(None, description="Give it as `cursor` to get the next page; absent on the last.")


def links_of(batch: Batch) -> dict[str, str]:
    """Only what can be followed now."""
    base = f"/v1/batches/{batch.id}"
    found = {"self": base, "events": f"{base}/events", "results": f"{base}/results"}
    if batch.state in CANCELLED_FROM:
        found["cancel"] = f"{base}/cancel"
    if batch.state in RETRIED_FROM and batch.count(ItemState.FAILED):
        found["retry"] = f"{base}/retry"
    return found


def shown(batch: Batch) -> BatchOut:
    """A batch as its tenant sees it."""
    return BatchOut.model_validate(_members(batch))


def created(batch: Batch, loader: Loader) -> BatchCreated:
    """The same, with the lines that could not be taken."""
    problems = [{"line": item.line, "problem": item.problem} for item in loader.problems]
    return BatchCreated.model_validate({**_members(batch), "problems": problems or None})


def _members(batch: Batch) -> dict[str, Any]:
    own = {"ended", "links", "truncated"}
    taken = {name: getattr(batch, name) for name in BatchOut.model_fields if name not in own}
    return {**taken, "ended": batch.ended, "truncated": batch.truncated, "links": links_of(batch)}
