"""Keeps a lease alive beside the work, and swaps to the next attempt when a step is settled."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from pipeline.documents import Advance, Job, Stranded
from pipeline.errors import AirlockError, LeaseLost, LedgerUnavailable
from pipeline.services import Services
from pipeline.telemetry import logger

log = logger(__name__)

AGAIN = (0.05, 0.3, 1.0)  # seconds between tries to write what a step decided


class Lease:
    """Renews every third of its length, in a thread, until the block ends.

    The lock keeps a renewal from meeting a settle half way: the renewal would carry the old attempt and be refused,
    and a healthy worker would take itself for superseded.
    """

    def __init__(self, job: Job, services: Services) -> None:
        self.job = job
        self.given_back: timedelta | None = None  # released, to be rung for after so long
        self.turned: list[Stranded] = []  # others of the tenant's, whose turn has come by this
        self._ledger = services.ledger
        self._length = timedelta(seconds=services.settings.lease_seconds)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Raises LeaseLost if another worker has taken over: stop before the next effect."""
        if self._lost:
            raise LeaseLost

    def settle(self, advances: Sequence[Advance], *, keep: bool) -> Job | None:
        """Write what the steps decided, in one transaction; go on holding the lease if `keep`."""
        with self._lock:
            self.check()
            job = self._settle(advances, keep=keep)
            if job is not None:
                self.job = job
            else:
                self._over.set()
            return job

    def _settle(self, advances: Sequence[Advance], *, keep: bool) -> Job | None:
        """Minutes of work hang on this write, so a database that is away for a moment is asked again.

        That is safe: if the first try was committed and only its answer was lost, the fence refuses the second.
        """
        for pause in (*AGAIN, None):
            try:
                with self._ledger.begin() as tx:
                    job = tx.settle(self.job, advances, keep=self._length if keep else None)
            except LedgerUnavailable:
                if pause is None:
                    raise
                time.sleep(pause)
            else:
                self.turned += tx.turned
                return job
        raise AssertionError

    def release(self, *, delay: timedelta, counted: bool, waiting_for: str | None) -> None:
        """Give the document back in the state it has, to be claimed again after `delay`, or in another turn."""
        with self._lock:
            self._over.set()
            with self._ledger.begin(durable=False) as tx:
                keeps = tx.release(self.job, delay=delay, counted=counted, waiting_for=waiting_for)
            self.turned += tx.turned
            self.given_back = delay if keeps else None

    def give_back(self) -> bool:
        """The same from another thread than that which does the work, whose results count for nothing from now on.

        Not held against the document. False: it is settled, or somebody else's, and nothing was changed.
        """
        with self._lock:
            if self._over.is_set() or self._lost:
                return False
            self._over.set()
            self._lost = True
            try:
                with self._ledger.begin(durable=False) as tx:
                    tx.release(self.job, delay=timedelta(0), counted=False, waiting_for=None)
            except LeaseLost:
                return False
            return True

    def _renew(self) -> None:
        while not self._over.wait(self._length.total_seconds() / 3):
            with self._lock:
                if self._over.is_set():
                    return
                try:
                    with self._ledger.begin(durable=False) as tx:
                        if not tx.renew(self.job, self._length):
                            self._lost = True
                            return
                except AirlockError as exc:
                    # Not lost yet: two more renewals fit before the deadline, and settle is fenced in any case.
                    log.warning("lease not renewed", error=exc.code, document=str(self.job.document.id))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
