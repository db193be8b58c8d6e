"""The files of one request: they land one after another, and become documents together or not at all.

The bytes are durable before the rows are written: a crash in between leaves objects that no row knows, which the
sweeper finds. The other way round it would leave a document without bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from uuid import uuid4

import anyio

from ingest_api.uploads.digests import Checks
from ingest_api.uploads.landing import Incoming, Landing
from ingest_api.uploads.recorder import Entry, Recorder
from ingest_api.web import Threads
from pipeline.documents import Event, NewDocument, Replay
from pipeline.errors import EmptyFile
from pipeline.services import Services
from pipeline.storage.base import ObjectHeaders
from pipeline.storage.keys import key_of


@dataclass(frozen=True, slots=True)
class Accepted:
    """A document as it came to be."""

    new: NewDocument
    event: Event


class Intake:
    """One request's way in."""

    def __init__(
        self,
        services: Services,
        threads: Threads,
        recorder: Recorder,
        tenant: str,
        correlation_id: str,
        *,
        keep: bool = True,
    ) -> None:
        """`keep` off: bytes are compared, not stored (the Idempotency-Key is known)."""
        self.threads = threads
        limits = services.policy.limits
        self.max_bytes = limits.bytes
        self.max_files = limits.files
        # Every file at its limit, and a mebibyte of boundaries, headers and text fields.
        self.max_form_bytes = limits.bytes * limits.files + (1 << 20)
        self._services = services
        self._recorder = recorder
        self._tenant = tenant
        self._correlation_id = correlation_id
        self._keep = keep
        self._landings: list[Landing] = []
        self._in_doubt = False

    async def open(
        self, *, field: str, name: str | None, declared: str | None, size: int | None, checks: Checks
    ) -> Landing:
        """Start the next file; the one before is made durable first."""
        if self._landings and (last := self._landings[-1]).stat is None:
            await last.settle()
            await self.threads.bytes(last.seal)
        document_id = uuid4()
        landing = Landing(
            Incoming(
                document_id,
                key_of(self._services.policy.retention.name, self._tenant, document_id),
                field,
                name,
                declared,
                # Nothing of the sender's goes with the bytes: type and name are in the row, and promotion writes what
                # was detected beside the copy that is served.
                ObjectHeaders(),
                size,
            ),
            self.threads,
            self._services.quarantine if self._keep else None,
            limit=self.max_bytes,
            checks=checks,
        )
        self._landings.append(landing)
        return landing

    def fingerprint(self) -> str:
        """What the request held: SHA-256 over field, name and content's SHA-256 of each file, in order."""
        held = [(one.incoming.field, one.incoming.name, one.sha256) for one in self._landings]
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()

    async def compare(self) -> str:
        """The fingerprint, without keeping anything."""
        if self._landings:
            await self._landings[-1].settle()
            await self.threads.hashing(self._landings[-1].seal)
        return self.fingerprint()

    async def record(self, idempotency_key: str | None) -> list[Accepted]:
        """Make all files documents in one commit, and ring for them.

        Raises:
            AlreadyUsed: another request with this Idempotency-Key committed first; ours left nothing.
            LedgerUnavailable: if nobody knows whether it committed the bytes stay, and the sweeper will tell.
        """
        last = self._landings[-1]
        if last.size == 0:
            raise EmptyFile("The body is empty.")
        await last.settle()
        # One hop into a thread does the rest of a small upload: its bytes, its row, its message.
        return await self.threads.bytes(self._record, last, idempotency_key)

    def _record(self, last: Landing, idempotency_key: str | None) -> list[Accepted]:
        last.seal()
        documents = [self._document(landing) for landing in self._landings]
        entry = Entry(documents)
        if idempotency_key is not None:
            ids = tuple(document.id for document in documents)
            entry.replay = (idempotency_key, Replay(self.fingerprint(), ids))
        # Until it says otherwise: an upload that is cut off here may well have its rows.
        self._in_doubt = True
        self._recorder.record(entry)
        self._in_doubt = entry.in_doubt
        if entry.error is not None:
            raise entry.error
        # After the commit: a message about a row that is not there yet would be thrown away.
        self._services.announcer.announce(entry.events)
        return [Accepted(new, event) for new, event in zip(documents, entry.events, strict=True)]

    def _document(self, landing: Landing) -> NewDocument:
        return NewDocument(
            id=landing.incoming.document_id,
            tenant=self._tenant,
            source=landing.sealed.ref,
            size=landing.size,
            sha256=landing.sha256,
            name=landing.incoming.name,
            declared_type=landing.incoming.declared_type,
            retention=self._services.policy.retention.name,
            policy_digest=self._services.policy.digest,
            correlation_id=self._correlation_id,
        )

    async def discard(self) -> None:
        """Leave nothing behind, unless the rows may have been committed: then the bytes are not ours to drop."""
        with anyio.CancelScope(shield=True):
            for landing in self._landings:
                if not (self._in_doubt and landing.stat is not None):
                    await landing.discard()
