"""All the SQL, by concern; one Transaction speaks it."""

from __future__ import annotations

from pipeline.ledger.queries.dead_letters import DeadLetterQueries
from pipeline.ledger.queries.feeding import FeedQueries
from pipeline.ledger.queries.flow import FlowQueries
from pipeline.ledger.queries.keys import KeyQueries
from pipeline.ledger.queries.moves import MoveQueries
from pipeline.ledger.queries.outbox import OutboxQueries
from pipeline.ledger.queries.sweep import SweepQueries
from pipeline.ledger.queries.upload_parts import UploadPartQueries

__all__ = ["Transaction"]


class Transaction(
    FlowQueries, MoveQueries, OutboxQueries, SweepQueries, KeyQueries, UploadPartQueries, DeadLetterQueries, FeedQueries
):
    """What can be asked and said inside `Ledger.begin()` or `Ledger.reading()`. Not for two threads at once."""
