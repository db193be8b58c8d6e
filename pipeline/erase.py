"""Removes the objects that a document no longer needs. Its row stays, as a tombstone."""

from __future__ import annotations

from pipeline.documents import Document
from pipeline.errors import ObjectNotFound
from pipeline.services import Services
from pipeline.states import State
from pipeline.storage.base import ObjectStore
from pipeline.storage.keys import key_of
from pipeline.telemetry import logger

log = logger(__name__)


def erase(document: Document, services: Services) -> None:
    """Remove the quarantined bytes, and the served ones too unless the document is AVAILABLE; then tick it off.

    May run twice, and at any time after a crash: each removal names its version, and "not there" is success.
    """
    for ref in (document.source, *(part.source for part in document.parts)):
        services.quarantine.delete(ref)
    if document.state is not State.AVAILABLE:
        # A promotion that lost its lease may have copied without committing, so the keys are looked up, not the row.
        for part in ("original", "text", "pdf"):
            _delete_current(services.serving, key_of(document.retention, document.tenant, document.id, part))
        for part in ("text", "pdf"):
            _delete_current(services.quarantine, key_of(document.retention, document.tenant, document.id, part))
    with services.ledger.begin(durable=False) as tx:  # lost, it is merely done again
        tx.erased(document.id, state=document.state)


def _delete_current(store: ObjectStore, key: str) -> None:
    try:
        store.delete(store.head(key).ref)
    except ObjectNotFound:
        return
