"""RECOGNIZED -> APPROVED: where rules that need a person will send a document to review."""

from __future__ import annotations

from pipeline.documents import Advance, Job
from pipeline.hand import Hand
from pipeline.services import Services
from pipeline.states import State


def decide(_job: Job, _hand: Hand, _services: Services) -> Advance:
    """Approve: the default policy has no review rules."""
    return Advance(State.APPROVED)
