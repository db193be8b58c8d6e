"""What an attempt that did not settle left under a key that is now wanted."""

from __future__ import annotations

from pipeline.documents import Job
from pipeline.errors import LeaseLost, ObjectNotFound
from pipeline.services import Services
from pipeline.storage.base import ObjectRef, ObjectStat, ObjectStore
from pipeline.storage.streams import digest_of


def same_bytes(store: ObjectStore, key: str, sha256: str) -> ObjectRef | None:
    """The object under this key, if it holds exactly these bytes. ObjectNotFound: it is gone again."""
    there = store.head(key)
    return there.ref if (there.sha256 or digest_of(store.get(there.ref))) == sha256 else None


def remove(store: ObjectStore, key: str, job: Job, services: Services) -> None:
    """Remove whatever lies there. Raises LeaseLost if the job is not ours any more: then it is another's work.

    First look, then ask: what is there before we are told that the lease is still ours, nobody after us has made.
    """
    there: ObjectStat | None
    try:
        there = store.head(key)
    except ObjectNotFound:
        there = None
    with services.ledger.reading() as tx:
        now = tx.document(job.document.id)
    if (now.state, now.attempt, now.lease_owner) != (job.state, job.attempt, job.owner):
        raise LeaseLost
    if there is not None:
        store.delete(there.ref)
