"""Who runs the flow. A queue is a doorbell: losing a message loses nothing, doubling one does no harm."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from pipeline.documents import Lane


class Queue(Protocol):
    """Tells a worker that a document waits."""

    def ring(self, document_id: UUID, lane: Lane, *, delay: float = 0.0) -> None:
        """Have somebody call `flow.run(document_id)` after `delay` seconds, at least once, if nothing breaks.

        Raises:
            QueueUnavailable: nobody was told; the outbox or the sweeper will.
        """
        ...

    def ping(self) -> None:
        """Raises QueueUnavailable with one sentence that says what to do."""
        ...
