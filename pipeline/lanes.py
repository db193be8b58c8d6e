"""Which queue takes a document on from where it is."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from pipeline.documents import Lane
from pipeline.services import Services
from pipeline.states import State
from pipeline.turns import Turn


class Placed(Protocol):
    """As much of a document as the choice needs."""

    @property
    def state(self) -> State: ...

    @property
    def detected_type(self) -> str | None: ...


class Waiting(Placed, Protocol):
    """As much of a document as a message to its queue needs."""

    @property
    def id(self) -> UUID: ...

    @property
    def turn(self) -> Turn | None: ...


def lane_of(document: Placed, services: Services) -> Lane:
    """OCR for what takes seconds to read (images, PDF pages), so that it can have workers of its own; else INSPECT."""
    kind, recognizer = document.detected_type, services.recognizer
    slow = document.state is State.CLEAN and kind is not None and recognizer is not None
    return Lane.OCR if slow and recognizer is not None and recognizer.needs_ocr_lane(kind or "") else Lane.INSPECT


def instant(document: Placed, services: Services) -> bool:
    """Whether the next step only decides and touches nothing, so that it is settled together with the one before."""
    if document.state is State.CLEAN:
        kind, recognizer = document.detected_type, services.recognizer
        return kind is None or recognizer is None or not recognizer.reads(kind)
    return document.state is State.RECOGNIZED


def ring_for(document: Waiting, services: Services, *, delay: float = 0.0) -> None:
    """Ring in the queue that the document's state and turn lead to. Raises as `Queue.ring` does."""
    bulk = document.turn is not None and document.turn.bulk
    services.queue.ring(document.id, lane_of(document, services), delay=delay, bulk=bulk)
