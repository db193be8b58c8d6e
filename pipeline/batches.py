"""Batches: many documents and one answer. The values, and the rules that need neither store nor ledger.

LOADING -> RUNNING -> COMPLETED <-> RETRYING -> RUNNING
(its items     |   -> CANCELLING -> CANCELLED
 are written)

What a batch is made of is written down first, an item a row. A window of its items at a time becomes documents
(pipeline/feeding.py); it ends when all of them have. A document knows nothing of how a batch ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pipeline.documents import Json
from pipeline.states import WORKING, State


class BatchState(StrEnum):
    """Where a batch is."""

    LOADING = "loading"  # its request is still being read; nobody sees it
    RUNNING = "running"
    RETRYING = "retrying"  # what failed is about to be tried again
    CANCELLING = "cancelling"  # what has not begun is about to be given up; the rest goes to its end
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class ItemState(StrEnum):
    """Where an item is. Once it has a document these are the document's states, as far as they matter here."""

    WAITING = "waiting"  # not looked at yet
    RETRY = "retry"  # failed before, to be tried again
    OPEN = "open"  # an upload, or an object, that is not all there yet
    RUNNING = "running"  # a document on its way
    IN_REVIEW = "in_review"
    AVAILABLE = "available"
    REJECTED = "rejected"
    FAILED = "failed"  # also: there is no such object or upload
    EXPIRED = "expired"
    DELETED = "deleted"
    RECALLED = "recalled"
    INVALID = "invalid"  # a line of the manifest that cannot be an item
    CANCELLED = "cancelled"  # given up before it had begun


ENDED = frozenset(ItemState) - {
    ItemState.WAITING,
    ItemState.RETRY,
    ItemState.OPEN,
    ItemState.RUNNING,
    ItemState.IN_REVIEW,
}
# Batches that somebody still works on.
ALIVE = frozenset({BatchState.RUNNING, BatchState.RETRYING, BatchState.CANCELLING})
OVER = frozenset({BatchState.COMPLETED, BatchState.CANCELLED})


class Source(StrEnum):
    """What a batch was made of."""

    UPLOADS = "uploads"  # ids of uploads or documents
    OBJECTS = "objects"  # keys in the tenant's drop folder
    PREFIX = "prefix"  # whatever lies below it
    MANIFEST = "manifest"  # a file with a line an item


@dataclass(frozen=True, slots=True)
class NewItem:
    """What an item was given as: a key or an id; or a line that is neither, with what is wrong about it."""

    key: str | None = None
    document_id: UUID | None = None  # of an upload or a document
    version: str | None = None
    name: str | None = None
    declared_type: str | None = None
    declared_sha256: str | None = None
    line: int | None = None  # in the manifest, from 1
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """The row. `document_id` of an item with a key is what became of it."""

    seq: int
    state: ItemState
    given: NewItem
    document_id: UUID | None = None
    error: str | None = None  # a reason or an error's code


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an item. It is written only if the item is still where it was found."""

    seq: int
    start: ItemState
    to: ItemState
    document_id: UUID | None = None  # None: as it was
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The row."""

    id: UUID
    tenant: str
    name: str | None
    state: BatchState
    source: Source
    correlation_id: str
    prefix: str | None = None
    last_key: str = ""  # how far the prefix has been listed
    listed: bool = True  # all items are known
    truncated: bool = False  # there were more objects below the prefix than a batch may have
    counts: Mapping[ItemState, int] = field(default_factory=dict)  # of items by state; what is 0 is not named
    revision: int = 0  # rises whenever something about it changes
    run: int = 1  # a retry is another run, and ends with an event of its own
    created_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def total(self) -> int:
        """Its items; of a prefix, those that are listed so far."""
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        """Items that have come to their end."""
        return sum(many for state, many in self.counts.items() if state in ENDED)

    def count(self, *states: ItemState) -> int:
        """How many items are in these states."""
        return sum(self.counts.get(state, 0) for state in states)


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """Something that whoever made the batch is to be told: so far, that it has ended. Written once for each run."""

    id: int
    batch_id: UUID
    tenant: str
    run: int
    kind: str
    at: datetime
    facts: Mapping[str, Json]


COMPLETED_EVENT = "batch.completed"


def item_state(state: State) -> ItemState:
    """What a document's state makes of its item."""
    return ItemState.RUNNING if state in WORKING else ItemState(state.value)


def moved(counts: Mapping[ItemState, int], changes: Mapping[tuple[ItemState, ItemState], int]) -> dict[ItemState, int]:
    """The counts after so many items went from one state to another."""
    found = dict(counts)
    for (start, to), many in changes.items():
        found[start] = found.get(start, 0) - many
        found[to] = found.get(to, 0) + many
    return {state: many for state, many in found.items() if many}
