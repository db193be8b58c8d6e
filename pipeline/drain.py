"""An orderly end: what runs may go on for some seconds; then its leases are given back, and others take over at once.

Platforms say SIGTERM and kill 10 seconds later (Cloud Run), or 30 (Kubernetes). Without this the documents in hand
would wait until their leases lapse, each with an attempt that counts against it for an end that was not its doing.

    SIGTERM    nothing new is claimed; a trip ends behind its step
    +grace     what still runs is given back, uncounted, and rung for
    +LAST      a step that has not noticed by then ends with the process

A step that was taken from its thread may still run: what it settles later the ledger refuses, as of any superseded one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING

from pipeline.errors import AirlockError, Draining
from pipeline.telemetry import logger

if TYPE_CHECKING:
    from pipeline.lease import Lease
    from pipeline.services import Services

log = logger(__name__)

LAST = 0.5  # seconds for a trip to notice that its lease is gone


class Trip:
    """One call of `flow.run`."""

    def __init__(self) -> None:
        self.lease: Lease | None = None  # once the document is claimed


class Drain:
    """What this process has in hand, and whether it is about to end. One for each Services."""

    def __init__(self, services: Services) -> None:
        self.begun = False
        self._services = services
        self._trips: set[Trip] = set()
        self._changed = threading.Condition()
        # Made for this: its put() may interrupt itself, and anything else, so a signal handler can call it.
        self._told: SimpleQueue[bool] = SimpleQueue()

    @contextlib.contextmanager
    def trip(self) -> Iterator[Trip]:
        """What is waited for. Raises Draining once the end has begun: nothing new is claimed."""
        trip = Trip()
        with self._changed:
            if self.begun:
                raise Draining
            self._trips.add(trip)
        try:
            yield trip
        finally:
            with self._changed:
                self._trips.discard(trip)
                self._changed.notify_all()

    def begin(self) -> None:
        """Claim nothing from now on, and see that what is in hand ends. Returns at once; fit for a signal handler.

        Without `watch` nobody gives anything back: the trips end behind their steps, and that is all.
        """
        self.begun = True
        self._told.put(True)

    def wait(self, seconds: float | None = None) -> bool:
        """Until no trip is under way, at most so long; whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._trips, seconds)

    def watch(self, end: Callable[[int], object] = os._exit) -> None:
        """From now on `begin` leads to an end of all trips; `end` is called if one of them hangs in its step.

        A step hangs in a system call of its own thread: there is no way to end it but to end the process.
        """
        threading.Thread(target=self._watch, args=(end,), name="drain", daemon=True).start()

    @contextlib.contextmanager
    def at(self, number: signal.Signals = signal.SIGTERM) -> Iterator[None]:
        """Inside the block the signal begins the end, and then does what it did before.

        Only where it has a handler already (the server's), and in the main thread: a process that is not ours to end
        is left alone.
        """
        before = signal.getsignal(number) if threading.current_thread() is threading.main_thread() else None
        if not callable(before):
            yield
            return

        def told(number: int, frame: FrameType | None) -> None:
            self.begin()
            before(number, frame)

        self.watch()
        signal.signal(number, told)
        try:
            yield
        finally:
            self._told.put(False)  # the watcher ends, unless it is at work
            if signal.getsignal(number) is told:
                signal.signal(number, before)

    def _watch(self, end: Callable[[int], object]) -> None:
        if not self._told.get():
            return
        log.info("draining", trips=len(self._trips))
        if self.wait(self._services.settings.drain_seconds):
            return
        with self._changed:
            left = [trip.lease for trip in self._trips if trip.lease is not None]
        for lease in left:
            self._give_back(lease)
        if not self.wait(LAST):
            log.warning("ended in the middle of a step, which another takes over", trips=len(self._trips))
            end(0)

    def _give_back(self, lease: Lease) -> None:
        from pipeline.lanes import ring_for

        document = lease.job.document
        try:
            if lease.give_back():
                log.warning("given back unfinished", document=str(document.id), state=lease.job.state)
                ring_for(lease.job.document, self._services)
        except AirlockError as exc:
            # The lease lapses, or the sweeper rings.
            log.warning("not handed over, the sweeper will", document=str(document.id), error=exc.code)
