"""Works batches off: lists what they are made of, makes documents of a window of items at a time, sees how they end.

    list -> look (at documents that are on their way) -> begin (as many as there is room for) -> end

A batch is held by a lease while it is worked on, and what was done is written down before more is. A crash in the
middle repeats at most what one step did, and every effect knows itself again: a drop is the same document however often
it is landed, a document that is attached stays attached.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import islice

from pipeline.attaching import Attacher
from pipeline.batches import (
    COMPLETED_EVENT,
    Batch,
    BatchState,
    Change,
    Item,
    ItemState,
    NewItem,
)
from pipeline.errors import AirlockError, LeaseLost
from pipeline.services import Services
from pipeline.telemetry import logger

log = logger(__name__)

SLICE = 2.0  # seconds for one batch, then it is the next one's turn
PAGE = 500  # keys of one listing, and items of one transaction
AT_ONCE = 4  # objects that the store is asked for side by side
STEP = 16 * AT_ONCE  # items that are begun between two looks at the clock
SOME = 200  # items that wait for something outside, looked at in one go
AWAY = timedelta(seconds=5)  # until a part that is away is asked again
ABANDONED = timedelta(hours=1)  # a request that has not sent a line for so long will not send another


def feed(services: Services, *, seconds: float = 10.0) -> int:
    """Look at the batches that are due, for about so many seconds; how many there were."""
    until = time.monotonic() + seconds
    fed = 0
    while time.monotonic() < until:
        owner = f"{services.owner}:{secrets.token_hex(4)}"
        with services.ledger.begin(durable=False) as tx:
            batch = tx.take_batch(owner=owner, lease=_lease(services))
        if batch is None:
            break
        Feeder(batch, owner, services).work(min(until, time.monotonic() + SLICE))
        fed += 1
    return fed


def _lease(services: Services) -> timedelta:
    """Held on to with every step. Should a step take longer, another one repeats it, and this one's is not written."""
    return timedelta(seconds=2 * services.settings.lease_seconds)


def drop_unsent(services: Services) -> int:
    """Forget batches whose request broke off."""
    with services.ledger.reading() as tx:
        stale = tx.stale_batches(older_than=ABANDONED)
    dropped = 0
    for batch_id in stale:
        with services.ledger.begin(durable=False) as tx:
            dropped += tx.drop_batch(batch_id)
    return dropped


class Feeder:
    """Holds one batch."""

    def __init__(self, batch: Batch, owner: str, services: Services) -> None:
        self._batch = batch
        self._owner = owner
        self._services = services
        self._attacher = Attacher(services)

    def work(self, until: float) -> None:
        """Take it as far as it goes now, or until the clock (monotonic) says so; then let it go."""
        due = timedelta(0)
        try:
            with ThreadPoolExecutor(AT_ONCE, "batch") as pool:
                self._slowly(pool)
                while self._step(pool):
                    if time.monotonic() >= until:
                        break
                else:
                    due = self._patience()
            if self._end():
                return
        except LeaseLost:
            log.warning("batch taken over", batch=str(self._batch.id))
            return
        except AirlockError as exc:
            log.warning("batch waits", batch=str(self._batch.id), error=exc.code, detail=str(exc))
            due = AWAY
        with self._services.ledger.begin(durable=False) as tx:
            tx.release_batch(self._batch.id, owner=self._owner, due_in=due)

    def _patience(self) -> timedelta:
        seconds = self._services.settings.batch_seconds
        # What waits for its sender, or for a person, need not be asked after every second.
        return timedelta(seconds=seconds if self._batch.count(ItemState.RUNNING, ItemState.WAITING) else 5 * seconds)

    def _step(self, pool: ThreadPoolExecutor) -> bool:
        """One round of everything. False: nothing has moved, nor will before somebody else does something."""
        if self._batch.state is BatchState.CANCELLING:
            return self._cancel() | self._look()
        if self._batch.state is BatchState.RETRYING:
            return self._retry()
        return self._list() | self._look() | self._begin(pool)

    def _cancel(self) -> bool:
        """What has not begun is not begun. What is on its way goes to its end: it was accepted."""
        gone = {ItemState.WAITING: ItemState.CANCELLED, ItemState.OPEN: ItemState.CANCELLED}
        gone |= {ItemState.RETRY: ItemState.FAILED}
        wanted = {start: to for start, to in gone.items() if self._batch.count(start)}
        for start, to in wanted.items():
            self._shift(start, to)
        if not self._batch.listed:
            self._write((), listed=True)
        return bool(wanted)

    def _retry(self) -> bool:
        """What failed goes back to the step that failed; what was not there is looked for anew."""
        self._shift(ItemState.FAILED, ItemState.RETRY, begun=True)
        self._shift(ItemState.FAILED, ItemState.WAITING, begun=False)
        with self._services.ledger.begin() as tx:
            tx.turn_batch(self._batch, owner=self._owner, to=BatchState.RUNNING)
            self._batch = tx.batch(self._batch.id)
        return True

    def _list(self) -> bool:
        """Write down the next keys below the prefix, if few are left to be begun."""
        batch, window = self._batch, self._services.settings.batch_window
        if batch.listed or batch.prefix is None or batch.count(ItemState.WAITING) >= window:
            return False
        most = self._services.settings.batch_items - batch.total
        found = list(islice(self._services.quarantine.list(batch.prefix, after=batch.last_key), PAGE))
        items = [NewItem(key=stat.ref.key) for stat in found if not stat.ref.key.endswith("/")]
        over = len(items) > most
        self._write(
            (),
            added=items[: max(most, 0)],
            last_key=found[-1].ref.key if found else batch.last_key,
            listed=over or len(found) < PAGE,
            truncated=over,
        )
        return True

    def _look(self) -> bool:
        """What has become of the documents that are on their way?"""
        with self._services.ledger.reading() as tx:
            items = tx.items_in(self._batch.id, ItemState.RUNNING, limit=self._services.settings.batch_window)
        return self._write(self._attacher.look(self._batch, items))

    def _begin(self, pool: ThreadPoolExecutor) -> bool:
        """As many as there is room for."""
        room = min(STEP, self._services.settings.batch_window - self._batch.count(ItemState.RUNNING))
        if room <= 0 or not self._batch.count(ItemState.RETRY, ItemState.WAITING):
            return False
        with self._services.ledger.reading() as tx:
            items = tx.items_in(self._batch.id, ItemState.RETRY, limit=room)
            if len(items) < room:
                items += tx.items_in(self._batch.id, ItemState.WAITING, limit=room - len(items))
        return self._write(self._attacher.begin(self._batch, items, pool))

    def _slowly(self, pool: ThreadPoolExecutor) -> None:
        """Some of what waits for its sender or for a person: once, not in every round."""
        if self._batch.state is BatchState.RUNNING and self._batch.count(ItemState.OPEN):
            self._write(self._attacher.begin(self._batch, self._some(ItemState.OPEN), pool))
        if self._batch.count(ItemState.IN_REVIEW):
            self._write(self._attacher.look(self._batch, self._some(ItemState.IN_REVIEW)))

    def _some(self, state: ItemState) -> list[Item]:
        """Other ones each time, where there are many."""
        many = self._batch.count(state)
        after = -1 if many <= SOME else random.randrange(-1, self._batch.total)  # noqa: S311
        with self._services.ledger.reading() as tx:
            return tx.items_in(self._batch.id, state, limit=SOME, after=after)

    def _end(self) -> bool:
        """Everything has ended: say so, once."""
        batch = self._batch
        to = {BatchState.RUNNING: BatchState.COMPLETED, BatchState.CANCELLING: BatchState.CANCELLED}.get(batch.state)
        if to is None or not batch.listed or batch.ended < batch.total:
            return False
        with self._services.ledger.begin() as tx:
            ended = tx.end_batch(batch, owner=self._owner, to=to, kind=COMPLETED_EVENT)
        if ended:
            log.info("batch ended", batch=str(batch.id), state=to, total=batch.total)
        return ended

    def _write(
        self,
        changes: Iterable[Change],
        *,
        added: list[NewItem] | None = None,
        last_key: str | None = None,
        listed: bool = False,
        truncated: bool = False,
    ) -> bool:
        made = [change for change in changes if (change.to, change.error) != (change.start, None)]
        if made or last_key is not None or listed:
            with self._services.ledger.begin() as tx:
                self._batch = tx.change_items(
                    self._batch,
                    made,
                    owner=self._owner,
                    lease=_lease(self._services),
                    added=added or (),
                    last_key=last_key,
                    listed=listed,
                    truncated=truncated,
                )
        return bool(made)

    def _shift(self, start: ItemState, to: ItemState, *, begun: bool | None = None) -> None:
        with self._services.ledger.begin() as tx:
            self._batch = tx.shift_items(
                self._batch, start, to, begun=begun, owner=self._owner, lease=_lease(self._services)
            )
