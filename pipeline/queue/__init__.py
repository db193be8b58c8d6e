"""Who runs the flow. A queue is a doorbell: losing a message loses nothing, doubling one does no harm."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from pipeline.documents import Lane


class Queue(Protocol):
    """Tells a worker that a document waits."""

    def ring(self, document_id: UUID, lane: Lane, *, delay: float = 0.0, bulk: bool = False) -> None:
        """Have somebody call `flow.run(document_id)` after `delay` seconds, at least once, if nothing breaks.

        `bulk`: its tenant has many on their way. Such messages form a queue of their own in each lane, and none that
        is not among them waits behind more than one of them.

        Raises:
            QueueUnavailable: nobody was told; the outbox or the sweeper will.
        """
        ...

    def ping(self) -> None:
        """Raises QueueUnavailable with one sentence that says what to do."""
        ...
