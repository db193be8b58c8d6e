"""Does one tenant's batch make another's single upload wait? Line 12.

`python -m benchmarks.fairness [--quick] [--documents N]`. Times are from the first event to the last of each document,
by the database's clock, so that whoever measures does not wait with the system.
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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from benchmarks import servers
from benchmarks.measure import Report, percentile
from benchmarks.papers import Paper, mixed
from benchmarks.servers import NotHere
from pipeline.api_keys import make_key
from pipeline.documents import NewDocument
from pipeline.services import Services
from pipeline.states import SETTLED, State
from pipeline.storage.keys import key_of
from tests.servers.clamd import ClamdServer, clamd
from tests.servers.redis import redis

CROWD, ALONE = "crowd", "alone"  # the two tenants
SEED = count(1_000_000)
BLOCK = 500
PATIENCE = 1200.0  # seconds for one document: behind ten thousand it takes minutes


@dataclass(frozen=True)
class Sizes:
    """How much is sent."""

    documents: int = 10_000
    singles: int = 100
    rounds: int = 3
    unfair: int = 10_000  # the batch in front of a single document where nothing is fair; 0: not measured


QUICK = Sizes(600, 30, 1, 300)


@dataclass(frozen=True)
class Way:
    """How an installation is set up."""

    name: str
    workers: Mapping[str, int]  # what each takes, and how many processes it has
    settings: Mapping[str, str]


APART = Way("workers apart, as `airlock run` starts them", {"singles": 2, "bulk": 2}, {})
TOGETHER = Way("one worker for all", {"all": 2}, {})
UNFAIR = Way("nothing held back, one queue", {"all": 2}, {"AIRLOCK_DISPATCH_WINDOW": "0"})


class Crowd:
    """An installation, one tenant that sends thousands, and one that sends a document now and then."""

    def __init__(self, services: Services, port: int) -> None:
        self.services = services
        self._port = port
        self._key = make_key(services.ledger, ALONE)

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
        answer = connection.getresponse()
        document_id = UUID(json.loads(answer.read())["id"])
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
        yield Crowd(services, api.target.port)


def measured(folder: Path, server: ClamdServer, way: Way, documents: int, singles: int) -> tuple[float, float, str]:
    """p95 in seconds without a batch and behind one, and how it stands with the batch when that is over."""
    with crowd(folder, server, way) as made:
        made.singles(mixed(8, next(SEED)))  # connections, caches, forks
        without = made.singles(mixed(singles, next(SEED)))
        made.land(mixed(documents, next(SEED)))
        behind = made.singles(mixed(singles, next(SEED)))
        left = made.waiting()
    shutil.rmtree(folder)
    said = f"medians {median(without) * 1000:.0f} and {median(behind) * 1000:.0f} ms, {left} still waiting"
    return percentile(without, 0.95), percentile(behind, 0.95), said


def compare(report: Report, folder: Path, server: ClamdServer, sizes: Sizes) -> None:
    """Line 12."""
    for way in (APART, TOGETHER):
        found = [measured(folder / "made", server, way, sizes.documents, sizes.singles) for _ in range(sizes.rounds)]
        ratios = [behind / without for without, behind, _ in found]
        said = f"{median(ratios):.2f} ({'; '.join(f'{b * 1000:.0f} / {w * 1000:.0f} ms, {s}' for w, b, s in found)})"
        if way is APART:
            goal = f"p95 of a single upload behind another tenant's {sizes.documents:,} <= 1.5 x without"
            report.reached("12", goal, said, median(ratios) <= 1.5)
        else:
            report.aside("12", f"the same, {way.name}", said)
    if sizes.unfair:
        without, behind, said = measured(folder / "made", server, UNFAIR, sizes.unfair, 1)
        report.aside(
            "12",
            f"one upload behind {sizes.unfair:,}, {UNFAIR.name}",
            f"{behind / without:.0f} ({behind:.1f} s / {without * 1000:.0f} ms; {said})",
        )


def run(report: Report, sizes: Sizes) -> None:
    """Line 12, with servers of its own."""
    folder = Path(tempfile.mkdtemp(prefix="airlock-bench-"))
    try:
        (folder / "clamd").mkdir()
        with clamd(folder / "clamd") as server:
            compare(report, folder, server, sizes)
    except NotHere as exc:
        report.none("12", "a single upload behind another tenant's batch", str(exc))
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
        sizes = Sizes(given.documents, sizes.singles, sizes.rounds, min(sizes.unfair, given.documents))
    run(Report(), sizes)


if __name__ == "__main__":
    main()
