"""From upload to available, beside the bare sum of the same work: lines 6 and 7.

`python -m benchmarks.pipeline [--quick] [--documents N]`. Both sides use the same clamd and work on as many documents
at once. The pipeline's own cost is the difference.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from benchmarks import servers
from benchmarks.client import Connection, Target
from benchmarks.measure import Report, difference, ratio, rounds, seconds
from benchmarks.papers import Paper, mixed, scanned
from benchmarks.servers import TENANT, NotHere
from pipeline import flow
from pipeline.documents import Lane, NewDocument
from pipeline.services import Services
from pipeline.states import SETTLED, State
from pipeline.storage.base import ObjectHeaders
from pipeline.storage.keys import key_of
from scanners.clamd_protocol import UnixSession
from tests.servers.clamd import ClamdServer, clamd
from tests.servers.redis import redis

AT_ONCE = 2
SEED = count(1)


@dataclass(frozen=True)
class Sizes:
    """How much is sent."""

    rounds: int = 5
    documents: int = 400
    pages: int = 8


QUICK = Sizes(3, 80, 2)


class Bare:
    """The same work, called directly: hash, scan by descriptor, read, copy."""

    def __init__(self, folder: Path, server: ClamdServer) -> None:
        self._folder, self._clamd = folder / "bare", server
        self._folder.mkdir()

    def all(self, papers: Sequence[Paper], *, ocr: bool) -> float:
        """Seconds for all; the files are written before the clock starts, as an upload would have."""
        sources = [self._folder / f"{number}.in" for number in range(len(papers))]
        for path, paper in zip(sources, papers, strict=True):
            path.write_bytes(paper.body)

        def one(path: Path) -> None:
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")
                reply = UnixSession(str(self._clamd.socket), timeout=60).pass_descriptor(file.fileno())
                if not reply.endswith("OK"):
                    raise RuntimeError(reply)
            if ocr:
                tesseract(path)
            shutil.copyfile(path, path.with_suffix(".out"))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            took = seconds(lambda: list(pool.map(one, sources)))
        for path in self._folder.iterdir():
            path.unlink()
        return took


def tesseract(path: Path) -> str:
    """Plain Tesseract on one image, one thread: what its command line gives."""
    command = ["tesseract", str(path), "stdout", "-l", "eng"]
    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_THREAD_LIMIT": "1"})
    return done.stdout.decode()


class Airlock:
    """One installation with local buckets, SQLite and Redis."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def land(self, papers: Sequence[Paper]) -> list[UUID]:
        """What uploads leave behind: bytes in quarantine, a row, an event; no message yet."""
        return [self._land(paper) for paper in papers]

    def _land(self, paper: Paper) -> UUID:
        document_id, sha256 = uuid4(), hashlib.sha256(paper.body).hexdigest()
        headers = ObjectHeaders(paper.media_type, f'attachment; filename="{paper.name}"')
        with self.services.quarantine.create(key_of("standard", TENANT, document_id), headers) as writer:
            writer.write(paper.body)
            stat = writer.commit(sha256)
        new = NewDocument(
            id=document_id,
            tenant=TENANT,
            source=stat.ref,
            size=len(paper.body),
            sha256=sha256,
            name=paper.name,
            declared_type=paper.media_type,
            retention="standard",
            policy_digest=self.services.policy.digest,
            correlation_id=str(document_id),
        )
        with self.services.ledger.begin() as tx:
            tx.insert(new)
        return document_id

    def settled(self) -> int:
        """How many documents have come to their end. Raises RuntimeError if one did not become available."""
        with self.services.ledger.reading() as tx:
            counts = tx.counts()
        if wrong := {state: many for state, many in counts.items() if state in SETTLED - {State.AVAILABLE}}:
            raise RuntimeError(f"not all became available: {wrong}")
        return counts.get(State.AVAILABLE, 0)

    def until_settled(self, wanted: int, patience: float = 600) -> None:
        """Wait for that many."""
        deadline = time.monotonic() + patience
        while (found := self.settled()) < wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {found} of {wanted} documents have settled")
            time.sleep(0.02)

    def by_messages(self, papers: Sequence[Paper]) -> float:
        """Seconds from the first message to the last document available; the workers run already."""
        ids, before = self.land(papers), self.settled()

        def work() -> None:
            for document_id in ids:
                self.services.queue.ring(document_id, Lane.INSPECT)
            self.until_settled(before + len(ids))

        return seconds(work)

    def in_process(self, papers: Sequence[Paper]) -> float:
        """Seconds for the flow alone, in threads of this process."""
        ids = self.land(papers)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return seconds(lambda: list(pool.map(lambda one: flow.run(one, self.services), ids)))

    def by_upload(self, target: Target, papers: Sequence[Paper]) -> float:
        """Seconds from the first byte sent to the last document available, over two connections."""
        before = self.settled()

        def send(some: Sequence[Paper]) -> None:
            with contextlib.closing(Connection(target)) as connection:
                for paper in some:
                    connection.send(paper.body)

        def work() -> None:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(send, [papers[at::AT_ONCE] for at in range(AT_ONCE)]))
            self.until_settled(before + len(papers))

        return seconds(work)


@contextlib.contextmanager
def airlock(folder: Path, server: ClamdServer, ocr: str) -> Iterator[tuple[Airlock, Target]]:
    """An installation with an API and as many worker processes as documents at once."""
    folder.mkdir()
    with redis(folder) as url:
        variables = servers.environment(folder, ocr=ocr, AIRLOCK_BROKER_URL=url, AIRLOCK_CLAMD_URL=server.unix)
        with (
            servers.installation(variables) as services,
            servers.api(folder, services, variables) as api,
            servers.workers(folder, variables, AT_ONCE),
        ):
            yield Airlock(services), api.target


def compare(
    report: Report,
    folder: Path,
    server: ClamdServer,
    sizes: Sizes,
    make: Callable[[int, int], list[Paper]],
    *,
    ocr: bool,
) -> None:
    """Line 6 (without OCR) or line 7 (with)."""
    many = sizes.pages if ocr else sizes.documents
    bare = Bare(folder, server)
    with airlock(folder / "airlock", server, "optional" if ocr else "off") as (ours, target):
        ours.by_messages(make(AT_ONCE * 2, next(SEED)))
        sides = {
            "bare": lambda: bare.all(make(many, next(SEED)), ocr=ocr),
            "messages": lambda: ours.by_messages(make(many, next(SEED))),
            "upload": lambda: ours.by_upload(target, make(many, next(SEED))),
        }
        if not ocr:
            sides["process"] = lambda: ours.in_process(make(many, next(SEED)))
        took = rounds(sides, sizes.rounds)
    shutil.rmtree(folder / "bare")
    shutil.rmtree(folder / "airlock")
    each = {name: median(times) / many * 1000 for name, times in took.items()}

    def said(name: str) -> str:
        own = difference(took[name], took["bare"]) / many * 1000
        return (
            f"{own:+.1f} ms ({each[name]:.1f} over {each['bare']:.1f}; {ratio(took['bare'], took[name]):.2f} of bare)"
        )

    if ocr:
        found = ratio(took["bare"], took["messages"])
        report.reached(
            "7",
            "with OCR >= 0.95 x the bare sum of clamd + Tesseract + copy",
            f"{found:.2f}, {said('messages')}",
            found >= 0.95,
        )
        report.aside("7", "the same, from the first byte sent", said("upload"))
        return
    own = difference(took["messages"], took["bare"]) / many * 1000
    report.reached(
        "6", "a document without OCR <= 6 ms over hash + scan by descriptor + copy", said("messages"), own <= 6
    )
    report.aside("6", "the same, from the first byte sent", said("upload"))
    report.aside("6", "the flow alone, in two threads without a queue", said("process"))


def run(report: Report, sizes: Sizes) -> None:
    """Both lines."""
    folder = Path(tempfile.mkdtemp(prefix="airlock-bench-"))
    try:
        (folder / "clamd").mkdir()
        with clamd(folder / "clamd") as server:
            compare(report, folder, server, sizes, mixed, ocr=False)
            compare(report, folder, server, sizes, scanned, ocr=True)
    except NotHere as exc:
        report.none("6", "documents", str(exc))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--documents", type=int, default=None)
    given = parser.parse_args()
    sizes = QUICK if given.quick else Sizes()
    run(Report(), Sizes(sizes.rounds, given.documents or sizes.documents, sizes.pages))


if __name__ == "__main__":
    main()
