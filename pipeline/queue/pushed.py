"""A bell that comes back as a call: a push of Pub/Sub, a task of Cloud Tasks, a record of SQS.

Whoever brings it is told whether to bring it again, and so the waiting, the retries and the dead letters are the
platform's. None of that is where a document's safety lies: a message that is given up is rung for by the sweeper.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pipeline import flow
from pipeline.errors import BadRequest, NotFound
from pipeline.lanes import lane_of
from pipeline.services import Services
from pipeline.states import WORKING

SHORTEST, LONGEST = timedelta(seconds=1), timedelta(seconds=600)
BODY_BYTES = 4096  # an id and what may stand around it


def document_in(body: bytes) -> UUID:
    """The document that a message is about: its id as text, or JSON `{"document": ID}`. Raises BadRequest."""
    try:
        text = body[:BODY_BYTES].decode("ascii").strip()
        if text.startswith("{"):
            text = json.loads(text)["document"]
        return UUID(text)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise BadRequest("The message names no document.") from None


def answer(document_id: UUID, services: Services) -> timedelta | None:
    """Take the document on. None: this message has done its work. Else: bring it again, after so long.

    Again: the document waits for its next try, or somebody else has it, who may yet fail. Not again: it is finished,
    unknown, or goes on in another lane or turn, for which there is, or will be, another message.

    Raises:
        LedgerUnavailable, Draining: bring it again.
    """
    state = flow.run(document_id, services)
    if state is not None and state not in WORKING:
        return None
    try:
        with services.ledger.reading() as tx:
            document = tx.document(document_id)
    except NotFound:
        return None
    if document.state not in WORKING or lane_of(document, services) not in services.settings.lanes:
        return None
    if document.turn is not None and document.turn.held:
        return None
    # By this machine's clock: a hint, since the row itself says whether it can be had.
    until = max(document.available_at, document.lease_until or document.available_at)
    return min(max(until - datetime.now(UTC), SHORTEST), LONGEST)
