"""Runs the flow in the caller: for tests, one-process set-ups and platforms that bring their own queue."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from pipeline.documents import Lane

if TYPE_CHECKING:
    from pipeline.services import Services


class InlineQueue:
    """`ring` returns when the document has gone as far as it can."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def ring(self, document_id: UUID, lane: Lane, *, delay: float = 0.0, bulk: bool = False) -> None:
        """See `Queue.ring`. What is to be tried again later is left to the sweeper: a caller does not wait."""
        from pipeline import flow

        if delay <= 0:
            flow.run(document_id, self._services)

    def ping(self) -> None:
        """Always there."""
