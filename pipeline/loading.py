"""How a batch comes to be: its items are written down in blocks while its request is read, and then it starts.

Until it starts nobody sees it. A request that fails drops what it wrote; of one whose process died the sweeper does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from uuid import UUID, uuid4

from pipeline.batches import Batch, BatchState, ItemState, NewItem, Source
from pipeline.documents import Replay
from pipeline.errors import BadRequest, Conflict, NotFound, QuotaExceeded, TooLarge
from pipeline.landing import DROP
from pipeline.services import Services

BLOCK = 1000  # items of one transaction
SHOWN = 100  # lines that cannot be items are told of at once, up to so many; the results name all


def drop_folder(tenant: str) -> str:
    """Where a tenant's objects come from, and the only place that its batches may name."""
    return f"{DROP}{tenant}/"


def is_in_drop_folder(key: str, tenant: str) -> bool:
    """Whether a key, or a prefix, lies there, however a server may read its path."""
    return key.startswith(drop_folder(tenant)) and not {".", ".."} & set(key.split("/"))


class Loader:
    """One batch while its request is read. Methods talk to the ledger: they block. Not for two threads at once."""

    def __init__(
        self,
        services: Services,
        tenant: str,
        source: Source,
        *,
        correlation_id: str,
        name: str | None = None,
        prefix: str | None = None,
    ) -> None:
        """Raises NotFound for a prefix that is not in the tenant's drop folder: there is nothing for it to see."""
        if prefix is not None and not is_in_drop_folder(prefix, tenant):
            raise NotFound(f"There is nothing for you there: prefixes begin with {drop_folder(tenant)}.")
        self.problems: list[NewItem] = []  # the first lines that cannot be items
        self._services = services
        self._batch = Batch(
            uuid4(), tenant, name, BatchState.LOADING, source, correlation_id, prefix, "", listed=prefix is None
        )
        self._counts: Counter[ItemState] = Counter()
        self._block: list[NewItem] = []
        self._written = 0
        self._begun = False

    @property
    def batch_id(self) -> UUID:
        """Of the batch that it will be."""
        return self._batch.id

    def add(self, items: Iterable[NewItem]) -> None:
        """Take items. Raises TooLarge; Conflict: it was given up meanwhile, for want of items."""
        most = self._services.settings.batch_items
        for item in items:
            if self._written + len(self._block) >= most:
                raise TooLarge(f"A batch has at most {most} items.", limit={"name": "batch_items", "value": most})
            self._block.append(item)
            self._counts[ItemState.INVALID if item.problem else ItemState.WAITING] += 1
            if item.problem and len(self.problems) < SHOWN:
                self.problems.append(item)
            if len(self._block) >= BLOCK:
                self._flush()

    def _flush(self) -> None:
        # What is lost with the power is a batch that nobody was told of.
        with self._services.ledger.begin(durable=False) as tx:
            if not self._begun:
                tx.new_batch(self._batch)
            elif not tx.keep_loading(self.batch_id):
                raise Conflict("The batch took too long to send. Send it again.")
            tx.add_items(self.batch_id, self._block, first=self._written)
        self._begun = True
        self._written += len(self._block)
        self._block = []

    def start(self, replay: tuple[str, str] | None = None) -> Batch:
        """Show the batch and have it worked off, in one commit with what its Idempotency-Key (key, fingerprint) is to
        stand for.

        Raises:
            BadRequest: there is nothing in it. QuotaExceeded: the tenant has too many that have not ended.
            ObjectExists: another request with this key was faster.
        """
        if self._batch.prefix is None and not self._counts[ItemState.WAITING]:
            problems = [{"line": item.line, "problem": item.problem} for item in self.problems]
            raise BadRequest("Nothing in it can be an item of a batch.", **({"problems": problems} if problems else {}))
        self._flush()
        most, tenant = self._services.settings.batches_open, self._batch.tenant
        with self._services.ledger.begin() as tx:
            if replay is not None:
                tx.remember(tenant, replay[0], Replay(replay[1], (self.batch_id,)))
            tx.lock_tenant(tenant)
            if tx.alive_batches(tenant, at_most=most) >= most:
                raise QuotaExceeded(
                    f"This tenant has {most} batches that have not ended. Wait for one, or cancel one.",
                    limit={"name": "open_batches", "value": most},
                )
            return tx.start_batch(self.batch_id, {state: many for state, many in self._counts.items() if many})

    def drop(self) -> None:
        """Leave nothing behind of a batch that did not start."""
        if self._begun:
            with self._services.ledger.begin(durable=False) as tx:
                tx.drop_batch(self.batch_id)
