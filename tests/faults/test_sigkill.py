"""Each process is killed once in the middle of 200 documents; nothing is lost, doubled, or served unscanned."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest

from pipeline.documents import Filters
from pipeline.invariants import violations
from pipeline.states import SETTLED, State
from tests import samples
from tests.servers.clamd import ClamdServer, clamd
from tests.servers.process import free_port, need, running
from tests.servers.redis import redis
from tests.system import System, system, until

DOCUMENTS = 200


class Parts:
    """The servers beside Airlock, which can be killed and started again with what they had on disk."""

    def __init__(self, tmp: Path, stack: contextlib.ExitStack) -> None:
        self._tmp, self._stack = tmp, stack
        self._port = free_port()
        self._start_redis()
        self.clamd: ClamdServer = stack.enter_context(clamd(tmp / "clamd"))
        self.clamd_pid = self.clamd.process.pid

    @property
    def broker(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def _start_redis(self) -> None:
        self._redis = self._stack.enter_context(contextlib.ExitStack())
        self._redis.enter_context(redis(self._tmp, port=self._port))

    def kill_redis(self) -> None:
        pid = (
            int((self._tmp / "redis.pid").read_text()) if (self._tmp / "redis.pid").exists() else _listener(self._port)
        )
        os.kill(pid, signal.SIGKILL)
        self._redis.close()
        self._start_redis()

    def kill_clamd(self) -> None:
        os.kill(self.clamd_pid, signal.SIGKILL)
        self.clamd.process.wait()
        again = running(
            [need("clamd", "apt"), "-c", str(self.clamd.conf)], self.clamd.answers, log=self._tmp / "c2.log"
        )
        self.clamd_pid = self._stack.enter_context(again).pid


def _listener(port: int) -> int:
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            return int(connection.pid or 0)
    raise AssertionError("nothing listens there")


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with contextlib.ExitStack() as stack:
        yield Parts(tmp_path, stack)


@pytest.fixture
def airlock(parts: Parts, tmp_path: Path) -> Iterator[System]:
    environment = {
        "AIRLOCK_BROKER_URL": parts.broker,
        "AIRLOCK_CLAMD_URL": parts.clamd.unix,
        "AIRLOCK_ORPHAN_AFTER_SECONDS": "5",
        "AIRLOCK_RECONCILE_SECONDS": "2",
        # Most of them are held back, so each kill also breaks a chain of turns.
        "AIRLOCK_DISPATCH_SINGLES": "2",
        "AIRLOCK_DISPATCH_WINDOW": "6",
    }
    with system(tmp_path, environment) as made:
        yield made


def bodies() -> list[tuple[str, bytes, State]]:
    """200 different files: mostly tables, some office documents and pictures, one in ten infected."""
    made: list[tuple[str, bytes, State]] = []
    for number in range(DOCUMENTS):
        text = f"document {number}"
        match number % 20:
            case 0 | 10:
                made.append(("archive.zip", samples.eicar_zip(text), State.REJECTED))
            case 5:
                made.append(("letter.docx", samples.docx(text), State.AVAILABLE))
            case 15:
                made.append(("scan.png", samples.png(text), State.AVAILABLE))
            case _:
                made.append(("table.csv", samples.csv(text), State.AVAILABLE))
    return made


class Sender(threading.Thread):
    """A client as it should be: sends each file with an Idempotency-Key until it gets an answer."""

    def __init__(self, airlock: System, files: list[tuple[str, bytes, State]]) -> None:
        super().__init__(name="sender", daemon=True)
        self.airlock, self.files = airlock, files
        self.acknowledged: dict[int, str] = {}
        self.resent = 0
        self.hold = threading.Event()  # lets the sending go on in steps, so that every kill meets work in progress
        self.goal = 0

    def run(self) -> None:
        with self.airlock.client() as client:
            for number, (name, body, _) in enumerate(self.files):
                while number >= self.goal:
                    self.hold.wait(0.1)
                self.acknowledged[number] = self._send(client, number, name, body)

    def _send(self, client: httpx.Client, number: int, name: str, body: bytes) -> str:
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = client.post(
                    "/v1/documents",
                    content=body,
                    headers={
                        "Content-Type": "application/octet-stream",
                        "Content-Disposition": f'attachment; filename="{name}"',
                        "Idempotency-Key": f"key-{number}",
                    },
                )
                if answer.status_code == 202:
                    return str(answer.json()["id"])
                assert answer.status_code >= 500, answer.text
            self.resent += 1


def test_killing_each_process_once_in_the_middle_of_200_documents(airlock: System, parts: Parts) -> None:
    files = bodies()
    sender = Sender(airlock, files)
    sender.start()

    def kill_worker() -> None:
        airlock.kill("worker")
        airlock.start("worker", "--concurrency=2")

    def kill_worker_child() -> None:
        child = next(c for c in airlock.children("worker") if "pipeline.cli" in " ".join(c.cmdline()))
        child.kill()

    def kill_api() -> None:
        airlock.kill("serve")
        airlock.start("serve")

    def kill_beat() -> None:
        airlock.kill("beat")
        airlock.start("beat")

    kills = [kill_worker_child, kill_api, parts.kill_redis, kill_worker, parts.kill_clamd, kill_beat]
    share = DOCUMENTS // (len(kills) + 1)
    fired: list[str] = []
    for number, kill in enumerate(kills, start=1):
        sender.goal = min(DOCUMENTS, (number + 1) * share)
        # In the middle: enough is in, more is coming, and some of it is on its way right now.
        unsettled = until(
            lambda n=number: len(sender.acknowledged) >= n * share and _unsettled(airlock),  # type: ignore[misc]
            "work is in progress",
        )
        kill()
        fired.append(f"{kill.__name__} with {unsettled} on their way")
    sender.goal = DOCUMENTS
    until(lambda: len(sender.acknowledged) == DOCUMENTS, "everything was sent")
    sender.join()

    documents = airlock.settled(list(sender.acknowledged.values()))
    for number, (_, _, expected) in enumerate(files):
        document = documents[sender.acknowledged[number]]
        assert document["state"] == expected, (number, document, fired)
    until(lambda: not violations(airlock.services, at_rest=True), f"the invariants hold at rest after {fired}")
    with airlock.services.ledger.reading() as tx:
        everything, _ = tx.documents(Filters(tenant="acme"), limit=2 * DOCUMENTS)
    assert Counter(document.id for document in everything) == Counter(map(UUID, sender.acknowledged.values()))
    assert len(fired) == len(kills), fired


def _unsettled(airlock: System) -> int:
    with airlock.services.ledger.reading() as tx:
        return sum(count for state, count in tx.counts().items() if state not in SETTLED)
