"""Does a backlog cost anything? Line 11: claim and settle among 100 and among 100,000 waiting documents.

`python -m benchmarks.ledger [--quick]`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from sqlalchemy import insert

from benchmarks.measure import Report, ratio, rounds
from pipeline.documents import Advance, NewDocument
from pipeline.ledger.models import documents, events
from pipeline.ledger.session import Ledger
from pipeline.states import WORKING, State
from pipeline.storage.base import ObjectRef

LEASE = timedelta(seconds=30)
BLOCK = 1000  # rows of one insert


class Backlog:
    """A ledger in which so many documents wait."""

    def __init__(self, folder: Path, waiting: int) -> None:
        self.ledger = Ledger(f"sqlite:///{folder / f'{waiting}.db'}")
        self.ledger.upgrade()
        self._ids = self._fill(waiting)

    def _fill(self, waiting: int) -> Iterator[UUID]:
        """One real insert; the rest are its copies under other ids, written in blocks."""
        first = uuid4()
        with self.ledger.begin() as tx:
            tx.insert(_new(first))
        with self.ledger.reading() as tx:
            row = dict(tx._connection.execute(documents.select()).mappings().one())
            event = dict(tx._connection.execute(events.select()).mappings().one())
            del event["id"]
        ids = [uuid4() for _ in range(waiting - 1)]
        for at in range(0, len(ids), BLOCK):
            some = ids[at : at + BLOCK]
            with self.ledger.begin() as tx:
                tx._connection.execute(insert(documents), [row | {"id": one} for one in some])
                tx._connection.execute(insert(events), [event | {"document_id": one} for one in some])
        return iter(ids)

    def claim_and_settle(self, count: int) -> float:
        """Median milliseconds of one claim and one settle; the documents are spread over the whole backlog."""
        took: list[float] = []
        for document_id, _ in zip(self._ids, range(count), strict=False):
            started = time.perf_counter()
            with self.ledger.begin() as tx:
                job = tx.claim(document_id, ready=WORKING, owner="bench", lease=LEASE)
            if job is None:
                raise RuntimeError("the document was not there to be claimed")
            with self.ledger.begin() as tx:
                tx.settle(job, [Advance(State.CLEAN, sha256="0" * 64, detected_type="text/plain")])
            took.append((time.perf_counter() - started) * 1000)
        return median(took)

    def stranded(self, count: int) -> float:
        """Median milliseconds of the sweeper's question, which finds nothing."""
        took: list[float] = []
        for _ in range(count):
            started = time.perf_counter()
            with self.ledger.begin() as tx:
                if tx.stranded(states=WORKING, idle=timedelta(hours=1), limit=100):
                    raise RuntimeError("nothing is stranded")
            took.append((time.perf_counter() - started) * 1000)
        return median(took)


def _new(document_id: UUID) -> NewDocument:
    return NewDocument(
        id=document_id,
        tenant="bench",
        source=ObjectRef("quarantine", f"standard/bench/{document_id}/original", "1-1"),
        size=1,
        sha256="0" * 64,
        name="a.txt",
        declared_type="text/plain",
        retention="standard",
        policy_digest="0" * 64,
        correlation_id="bench",
    )


def run(report: Report, *, many: int = 100_000, few: int = 100, count: int = 5) -> None:
    """Line 11."""
    folder = Path(tempfile.mkdtemp(prefix="airlock-bench-"))
    try:
        short, long = Backlog(folder, few), Backlog(folder, many)
        each = (few - 1) // count
        took = rounds(
            {"few": lambda: short.claim_and_settle(each), "many": lambda: long.claim_and_settle(each)},
            count,
        )
        found = ratio(took["many"], took["few"])
        absolute = f"{median(took['many']):.2f} and {median(took['few']):.2f} ms"
        label = f"claim and settle at {many:,} waiting <= 1.25 x at {few}"
        report.reached("11", label, f"{found:.2f} ({absolute})", found <= 1.25)
        swept = rounds({"few": lambda: short.stranded(5), "many": lambda: long.stranded(5)}, count)
        report.aside(
            "11", "the sweeper's search for stranded ones, the same way", f"{ratio(swept['many'], swept['few']):.2f}"
        )
        short.ledger.dispose()
        long.ledger.dispose()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    import sys

    run(Report(), many=10_000 if "--quick" in sys.argv else 100_000)
