"""Writes the rows of many uploads in one commit: a commit costs the disk the same for one row as for twenty.

The first that comes leads: it commits whatever waits, itself included. Those that come meanwhile wait, and one of them
leads the next round. Nobody waits for company, so a single upload is as fast as it would be alone; and in SQLite, where
one writes at a time, this process never queues against itself (its lock is polled, not queued for).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.documents import Event, NewDocument, Replay
from pipeline.errors import Conflict, LedgerUnavailable
from pipeline.quota import charge_documents
from pipeline.services import Services

if TYPE_CHECKING:
    from pipeline.ledger.queries import Transaction  # with it comes SQLAlchemy, which the first request loads


class AlreadyUsed(Exception):
    """The Idempotency-Key was taken while our bytes came in."""


@dataclass(slots=True, eq=False)
class Entry:
    """The rows of one upload. They are written together or not at all."""

    documents: Sequence[NewDocument]
    replay: tuple[str, Replay] | None = None  # the Idempotency-Key and what it is to stand for
    events: list[Event] = field(default_factory=list)
    error: Exception | None = None
    in_doubt: bool = False  # with an error: the commit was sent, and nobody knows what became of it
    settled: bool = False
    woken: threading.Event = field(default_factory=threading.Event)


class Recorder:
    """One a process. Call it from threads."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._waiting: list[Entry] = []
        self._led = False

    def record(self, mine: Entry) -> None:
        """Write the entry's rows; blocks until they are committed. The entry tells what came of it."""
        with self._lock:
            self._waiting.append(mine)
            lead, self._led = not self._led, True
        if not lead:
            mine.woken.wait()
            if mine.settled:
                return
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            self._write(batch)
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._led = following is not None
            for entry in batch:
                entry.settled = True
                entry.woken.set()
            if following is not None:
                following.woken.set()

    def _write(self, batch: Sequence[Entry]) -> None:
        together = [entry for entry in batch if entry.replay is None]
        if together and not self._commit(together):
            # One of them cannot be written. The others must not suffer for it.
            for entry in together:
                self._commit([entry])
        for entry in batch:
            # A key that is taken ends its transaction, so each has one of its own.
            if entry.replay is not None:
                self._commit([entry])

    def _commit(self, entries: Sequence[Entry]) -> bool:
        """False: nothing was written, and one at a time may work."""
        sent = False
        try:
            with self._services.ledger.begin() as tx:
                charge_documents(tx, [one for entry in entries for one in entry.documents], self._services.policy)
                written = [self._insert(tx, entry) for entry in entries]
                # From here on only the database knows: its answer to the commit may be lost.
                sent = True
        except Exception as exc:  # noqa: BLE001 - it is raised again, in the thread whose upload this is
            lost = isinstance(exc, LedgerUnavailable)
            if len(entries) > 1 and not lost:
                return False
            for entry in entries:
                entry.error, entry.in_doubt = exc, lost and sent
            return True
        for entry, events in zip(entries, written, strict=True):
            entry.events = events
        return True

    def _insert(self, tx: Transaction, entry: Entry) -> list[Event]:
        if entry.replay is not None:
            key, replay = entry.replay
            try:
                # First: of two racers one waits here, before either has written anything else.
                tx.remember(entry.documents[0].tenant, key, replay)
            except Conflict as exc:
                raise AlreadyUsed from exc
        return [tx.insert(document) for document in entry.documents]
