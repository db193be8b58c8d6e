"""Where a document can be, and how it may move. Pure: imports nothing but the standard library.

RECEIVED -> QUARANTINED -> CLEAN -> RECOGNIZED -> APPROVED -> AVAILABLE -> EXPIRED | DELETED | RECALLED
(in parts)   |           |        |    ^          |
     |           |        v    | person   |
     |           |      IN_REVIEW         |
     +-----------+--------+---------------+--> REJECTED (a reason)
     any working state, attempts exhausted --> FAILED   (replayable: back to where it failed, or anew)
     anything that is not an end ------------> DELETED  (its owner asked)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """Where a document is. 'Being worked on' is a lease on the row, not a state."""

    RECEIVED = "received"  # all bytes are in the store, in parts that are still to be put together
    QUARANTINED = "quarantined"
    CLEAN = "clean"
    RECOGNIZED = "recognized"
    IN_REVIEW = "in_review"
    APPROVED = "approved"
    AVAILABLE = "available"
    REJECTED = "rejected"
    FAILED = "failed"
    EXPIRED = "expired"
    DELETED = "deleted"
    RECALLED = "recalled"


class Reason(StrEnum):
    """Why a document did not become available. A closed list: clients branch on it."""

    INFECTED = "infected"
    TYPE_NOT_ALLOWED = "type_not_allowed"
    TYPE_MISMATCH = "type_mismatch"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    ENCRYPTED = "encrypted"
    LIMIT_EXCEEDED = "limit_exceeded"
    DAMAGED = "damaged"
    DIGEST_MISMATCH = "digest_mismatch"  # the sender named another SHA-256 than the bytes that arrived have
    OCR_FAILED = "ocr_failed"  # only where the policy says that text is required
    SOURCE_CHANGED = "source_changed"  # the pinned bytes are gone or are not the bytes that were recorded
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"  # FAILED: each attempt ended in an error that may pass
    WORKER_LOST = "worker_lost"  # FAILED: each attempt took its worker with it
    PROCESSING_ERROR = "processing_error"  # FAILED: an error that trying again does not mend
    RETENTION = "retention"  # EXPIRED: its time was up
    REQUESTED = "requested"  # DELETED: its owner asked


# States from which a step takes a document on (flow.FLOW has exactly these keys).
WORKING = frozenset({State.RECEIVED, State.QUARANTINED, State.CLEAN, State.RECOGNIZED, State.APPROVED})
# States in which the content can be fetched.
SERVED = frozenset({State.AVAILABLE})
# States that nothing leaves, ever.
ENDS = frozenset({State.REJECTED, State.EXPIRED, State.DELETED, State.RECALLED})
# States at which the pipeline is done with a document unless somebody acts.
SETTLED = ENDS | {State.AVAILABLE, State.FAILED, State.IN_REVIEW}

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.QUARANTINED, State.REJECTED, State.FAILED, State.DELETED}),
    State.QUARANTINED: frozenset({State.CLEAN, State.REJECTED, State.FAILED, State.DELETED}),
    State.CLEAN: frozenset({State.RECOGNIZED, State.REJECTED, State.FAILED, State.DELETED}),
    State.RECOGNIZED: frozenset({State.APPROVED, State.IN_REVIEW, State.REJECTED, State.FAILED, State.DELETED}),
    State.IN_REVIEW: frozenset({State.APPROVED, State.REJECTED, State.DELETED}),
    State.APPROVED: frozenset({State.AVAILABLE, State.REJECTED, State.FAILED, State.DELETED}),
    State.AVAILABLE: frozenset({State.EXPIRED, State.DELETED, State.RECALLED}),
    State.FAILED: WORKING | {State.DELETED},
    State.REJECTED: frozenset(),
    State.EXPIRED: frozenset(),
    State.DELETED: frozenset(),
    State.RECALLED: frozenset(),
}


def may_move(start: State, to: State) -> bool:
    """Whether the graph has an edge from `start` to `to`."""
    return to in TRANSITIONS[start]
