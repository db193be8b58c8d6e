"""From event rows to whoever must hear of them: the queue now; webhooks and streams hang on here too.

Two ways lead out. `Announcer` rings right after the commit (fast) and ticks the event off behind it; `relay` comes by
every few seconds for what is not ticked off (the broker was down, the process died between commit and publish).
An event is ticked off only after it went out, so each goes out at least once, in order within its document.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from pipeline.batches import BatchEvent
from pipeline.documents import Event, Stranded
from pipeline.errors import AirlockError, QueueUnavailable
from pipeline.lanes import ring_for
from pipeline.services import Services
from pipeline.states import WORKING
from pipeline.telemetry import logger

log = logger(__name__)

FLUSH_SECONDS = 0.5
BATCH = 500
QUIET_SECONDS = 5.0  # how long a broker that is down is left alone: whoever uploads must not wait for it

# Takes one event; raises an AirlockError to have it, and what follows it in its document, come again.
Sink = Callable[[Event], None]
# The same for the end of a batch.
BatchSink = Callable[[BatchEvent], None]


class Announcer:
    """Rings for new documents; one thread ticks off what was rung, many in one statement."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._rung: list[int] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._over = False
        self._quiet_until = 0.0
        self._thread: threading.Thread | None = None

    def announce(self, events: Sequence[Event]) -> None:
        """Ring for each event's document, if its turn has come. Never raises: what fails here, `relay` repeats."""
        if time.monotonic() < self._quiet_until:
            return
        for event in events:
            try:
                self._ring(event)
            except QueueUnavailable as exc:
                self._quiet_until = time.monotonic() + QUIET_SECONDS
                log.warning("not rung, the outbox keeps it", error=exc.code, document=str(event.document_id))
                return
            except AirlockError as exc:  # the inline queue runs the flow here
                log.warning("flow stopped", error=exc.code, document=str(event.document_id))
                continue
            with self._lock:
                self._rung.append(event.id)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._tick_off, name="outbox", daemon=True)
                    self._thread.start()

    def _ring(self, event: Event) -> None:
        if event.to not in WORKING:
            return
        if event.turn is None:  # read, not written: the row knows
            with self._services.ledger.reading() as tx:
                found = tx.waiting({event.document_id})
        else:
            found = [Stranded(event.document_id, event.to, None, event.turn)]
        for document in found:
            if not held_back(document):
                ring_for(document, self._services)

    def close(self) -> None:
        """Tick off what is left and end the thread."""
        self._over = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5)

    def _tick_off(self) -> None:
        while not self._over:
            self._wake.wait(FLUSH_SECONDS)
            with self._lock:
                rung, self._rung = self._rung, []
            if not rung:
                continue
            try:
                with self._services.ledger.begin(durable=False) as tx:  # lost, they merely ring again
                    tx.mark_relayed(rung)
            except AirlockError as exc:
                log.warning("outbox not ticked off, the relay rings again", error=exc.code)


def held_back(document: Stranded) -> bool:
    """Whether its tenant has so many in the queue that this one waits in the ledger: each that settles passes on its
    turn, and the sweeper sees that none is forgotten."""
    return document.turn is not None and document.turn.held


def relay(services: Services, *, older_than: timedelta = timedelta(seconds=5), sinks: Sequence[Sink] = ()) -> int:
    """Send out what is not ticked off; how many events went. Younger events are still the announcer's."""
    done = 0
    while True:
        with services.ledger.reading() as tx:
            events = tx.unrelayed(older_than=older_than, limit=BATCH)
            waiting = {found.id: found for found in tx.waiting({e.document_id for e in events if e.to in WORKING})}
        sent, stuck = _send(events, waiting, services, sinks)
        if sent:
            with services.ledger.begin() as tx:
                tx.mark_relayed(sent)
        done += len(sent)
        if stuck or len(events) < BATCH:
            return done


def _send(
    events: Sequence[Event], waiting: dict[UUID, Stranded], services: Services, sinks: Sequence[Sink]
) -> tuple[list[int], bool]:
    sent: list[int] = []
    held: set[UUID] = set()  # documents one of whose events did not go out: the later ones wait behind it
    down = False  # a broker that is down may take seconds to say so: it is asked once, not for each document
    for event in events:
        if event.document_id in held:
            continue
        try:
            document = waiting.get(event.document_id)
            if document is not None and document.state is event.to and not held_back(document):
                if down:
                    held.add(event.document_id)
                    continue
                ring_for(document, services)
            for sink in sinks:
                sink(event)
        except AirlockError as exc:
            down = down or isinstance(exc, QueueUnavailable)
            log.warning("event not relayed", error=exc.code, document=str(event.document_id))
            held.add(event.document_id)
            continue
        sent.append(event.id)
    return sent, bool(held)


def relay_batches(services: Services, *, sinks: Sequence[BatchSink]) -> int:
    """Tell every sink of batches that have ended; how many events went. Each goes out at least once, those of one batch
    in their order. Without a sink they stay in the outbox: whoever delivers them one day finds all of them.
    """
    done = 0
    while sinks:
        with services.ledger.reading() as tx:
            events = tx.unrelayed_batch_events(BATCH)
        sent: list[int] = []
        held: set[UUID] = set()
        for event in events:
            try:
                if event.batch_id not in held:
                    for sink in sinks:
                        sink(event)
                    sent.append(event.id)
            except AirlockError as exc:
                log.warning("batch event not relayed", error=exc.code, batch=str(event.batch_id))
                held.add(event.batch_id)
        if sent:
            with services.ledger.begin() as tx:
                tx.mark_batch_events(sent)
        done += len(sent)
        if held or len(events) < BATCH:
            break
    return done
