"""Does one tenant's batch make another's single upload wait? Line 12.

`python -m benchmarks.fairness [--quick] [--documents N]`. Times are from the first event to the last of each document,
by the database's clock, so that whoever measures does not wait with the system. With and without take turns in one
installation: without, the workers are told to take none of the batch, which stands still in the ledger meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from sqlalchemy import select

from benchmarks import servers
from benchmarks.measure import Report, percentile
from benchmarks.papers import Paper, mixed
from benchmarks.servers import NotHere
from pipeline.api_keys import make_key
from pipeline.documents import Lane, NewDocument
from pipeline.ledger.models import documents
from pipeline.queue.celery import make_app, queue_name
from pipeline.services import Services
from pipeline.states import SETTLED, State
from pipeline.storage.keys import key_of
from tests.servers.clamd import ClamdServer, clamd
from tests.servers.redis import redis

CROWD, ALONE = "crowd", "alone"  # the two tenants
BATCH_QUEUE = queue_name(Lane.INSPECT, bulk=True)
SEED = count(1_000_000)
BLOCK = 500
PATIENCE = 1200.0  # seconds for one document: behind ten thousand it takes minutes


@dataclass(frozen=True)
class Sizes:
    """How much is sent."""

    documents: int = 10_000
    singles: int = 25  # in each half of a round
    rounds: int = 8
    unfair: int = 10_000  # the batch in front of a single document where nothing is fair; 0: not measured
    together: bool = True  # also with one worker for all


QUICK = Sizes(1500, 20, 4, 300)


@dataclass(frozen=True)
class Way:
    """How an installation is set up."""

    name: str
    workers: Mapping[str, int]  # what each takes, and how many processes it has
    settings: Mapping[str, str]


APART = Way("workers apart, as `airlock run` has them on two cores", {"singles": 2, "bulk": 1}, {})
TOGETHER = Way("one worker for all", {"all": 2}, {})
UNFAIR = Way("nothing held back, one queue", {"all": 2}, {"AIRLOCK_DISPATCH_WINDOW": "0"})


class Crowd:
    """An installation, one tenant that sends thousands, and one that sends a document now and then."""

    def __init__(self, services: Services, port: int, workers: int) -> None:
        self.services = services
        self._port = port
        self._key = make_key(services.ledger, ALONE)
        self._control = make_app(services.settings).control
        answers = self._control.ping(timeout=10, limit=workers) or []
        self._takers = [name for answer in answers for name in answer if "bulk" in name]

    def land(self, papers: Sequence[Paper]) -> None:
        """What a batch leaves behind: bytes in quarantine, rows, and whoever is told of them."""
        with ThreadPoolExecutor(4) as pool:
            for at in range(0, len(papers), BLOCK):
                new = list(pool.map(self._stored, papers[at : at + BLOCK]))
                with self.services.ledger.begin() as tx:
                    events = [tx.insert(one) for one in new]
                self.services.announcer.announce(events)

    def _stored(self, paper: Paper) -> NewDocument:
        document_id, sha256 = uuid4(), hashlib.sha256(paper.body).hexdigest()
        with self.services.quarantine.create(key_of("standard", CROWD, document_id)) as writer:
            writer.write(paper.body)
            stat = writer.commit(sha256)
        return NewDocument(
            id=document_id,
            tenant=CROWD,
            source=stat.ref,
            size=len(paper.body),
            sha256=sha256,
            name=paper.name,
            declared_type=paper.media_type,
            retention="standard",
            policy_digest=self.services.policy.digest,
            correlation_id=str(document_id),
        )

    def hold(self) -> None:
        """Have the workers take none of the batch, and wait until they have none in hand."""
        self._tell(self._control.cancel_consumer)
        while self._in_hand():
            time.sleep(0.02)

    def let_go(self) -> None:
        """Have them take it again, and wait until they do."""
        self._tell(self._control.add_consumer)
        while not self._in_hand():
            time.sleep(0.02)

    def _tell(self, command: Callable[..., object]) -> None:
        command(BATCH_QUEUE, destination=self._takers, reply=True, timeout=10, limit=len(self._takers))

    def _in_hand(self) -> bool:
        with self.services.ledger.reading() as tx:
            query = select(documents.c.id).where(documents.c.lease_until.is_not(None)).limit(1)
            return tx._connection.execute(query).one_or_none() is not None

    def waiting(self) -> int:
        """How many documents have not come to their end."""
        with self.services.ledger.reading() as tx:
            return sum(many for state, many in tx.counts().items() if state not in SETTLED)

    def singles(self, papers: Sequence[Paper]) -> list[float]:
        """Seconds from accepted to settled of each, sent one after another."""
        return [self._single(paper) for paper in papers]

    def _single(self, paper: Paper) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": paper.media_type, "X-File-Name": paper.name}
        connection.request("POST", "/v1/documents", paper.body, headers)
        document_id = UUID(json.loads(connection.getresponse().read())["id"])
        connection.close()
        deadline = time.monotonic() + PATIENCE
        while True:
            with self.services.ledger.reading() as tx:
                history = tx.history(document_id)
            if history[-1].to in SETTLED:
                if history[-1].to is not State.AVAILABLE:
                    raise RuntimeError(f"it became {history[-1].to}")
                return (history[-1].at - history[0].at).total_seconds()
            if time.monotonic() > deadline:
                raise RuntimeError("the single document has not settled")
            time.sleep(0.01)


@contextlib.contextmanager
def crowd(folder: Path, server: ClamdServer, way: Way) -> Iterator[Crowd]:
    """An installation that is set up in one of the ways."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis(folder))
        variables = servers.environment(folder, AIRLOCK_BROKER_URL=url, AIRLOCK_CLAMD_URL=server.unix, **way.settings)
        services = stack.enter_context(servers.installation(variables))
        api = stack.enter_context(servers.api(folder, services, variables))
        for takes, many in way.workers.items():
            stack.enter_context(servers.workers(folder, variables, many, takes))
        made = Crowd(services, api.target.port, len(way.workers))
        made.singles(mixed(8, next(SEED)))  # connections, caches, forks
        yield made
    shutil.rmtree(folder)


def measured(folder: Path, server: ClamdServer, way: Way, sizes: Sizes) -> tuple[list[float], list[float], int]:
    """Seconds of each single without the batch and beside it, and how much of the batch is left at the end."""
    without: list[float] = []
    beside: list[float] = []
    with crowd(folder, server, way) as made:
        made.hold()
        made.land(mixed(sizes.documents, next(SEED)))
        for _ in range(sizes.rounds):
            made.hold()
            without += made.singles(mixed(sizes.singles, next(SEED)))
            made.let_go()
            beside += made.singles(mixed(sizes.singles, next(SEED)))
        left = made.waiting()
    if not left:
        raise RuntimeError("the batch was over before the measurement: take a larger one")
    return without, beside, left


def unfair(folder: Path, server: ClamdServer, many: int) -> tuple[float, float]:
    """Seconds of a single without a batch and behind one, where the first in is the first out."""
    with crowd(folder, server, UNFAIR) as made:
        without = median(made.singles(mixed(9, next(SEED))))
        made.land(mixed(many, next(SEED)))
        return without, made.singles(mixed(1, next(SEED)))[0]


def compare(report: Report, folder: Path, server: ClamdServer, sizes: Sizes) -> None:
    """Line 12."""
    for way in (APART, TOGETHER)[: 1 + sizes.together]:
        without, beside, left = measured(folder / "made", server, way, sizes)
        slow, usual = percentile(beside, 0.95), percentile(without, 0.95)
        medians = f"medians {median(beside) * 1000:.0f} and {median(without) * 1000:.0f}"
        said = f"{slow / usual:.2f} ({slow * 1000:.0f} and {usual * 1000:.0f} ms, {medians}; {left:,} left)"
        if way is APART:
            goal = f"p95 of a single upload beside another tenant's {sizes.documents:,} <= 1.5 x without"
            report.reached("12", goal, said, slow / usual <= 1.5)
        else:
            report.aside("12", f"the same, {way.name}", said)
    if sizes.unfair:
        usual, last = unfair(folder / "made", server, sizes.unfair)
        said = f"{last / usual:,.0f} ({last:.1f} s and {usual * 1000:.0f} ms)"
        report.aside("12", f"one upload behind {sizes.unfair:,}, {UNFAIR.name}", said)


def run(report: Report, sizes: Sizes) -> None:
    """Line 12, with servers of its own."""
    folder = Path(tempfile.mkdtemp(prefix="airlock-bench-"))
    try:
        (folder / "clamd").mkdir()
        with clamd(folder / "clamd") as server:
            compare(report, folder, server, sizes)
    except NotHere as exc:
        report.none("12", "a single upload beside another tenant's batch", str(exc))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--documents", type=int, default=None)
    given = parser.parse_args()
    sizes = QUICK if given.quick else Sizes()
    if given.documents is not None:
        sizes = replace(sizes, documents=given.documents, unfair=min(sizes.unfair, given.documents))
    run(Report(), sizes)


if __name__ == "__main__":
    main()
