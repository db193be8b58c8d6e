"""A deployed Airlock: API, worker and beat as processes of their own, which a test can kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil

from pipeline.api_keys import make_key
from pipeline.services import Services
from pipeline.settings import Environment, Settings
from pipeline.states import SETTLED
from pipeline.storage.base import Provisionable
from tests.servers.process import accepts, free_port, running

ROOT = Path(__file__).parents[1]
AIRLOCK = [sys.executable, "-m", "pipeline.cli"]
PATIENCE = 240.0  # seconds until something that must happen counts as lost


def until(true: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait for an event of another process; the patience only bounds a failure."""
    deadline = time.monotonic() + patience
    while not (answer := true()):
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.05)
    return answer


class System:
    """The processes, an HTTP client with a key, and the ledger and buckets behind them (as `services`)."""

    def __init__(self, tmp: Path, environment: Mapping[str, str]) -> None:
        self.tmp = tmp
        self.port = free_port()
        self.environment = {
            "AIRLOCK_VAR_DIR": str(tmp / "var"),
            "AIRLOCK_PORT": str(self.port),
            "AIRLOCK_ENVIRONMENT": "development",
            "AIRLOCK_LEASE_SECONDS": "3",
            "AIRLOCK_SWEEP_SECONDS": "1",
            "AIRLOCK_RELAY_SECONDS": "1",
            "AIRLOCK_REQUEUE_AFTER_SECONDS": "10",
            "AIRLOCK_RETRY_BASE_SECONDS": "0.2",
            "AIRLOCK_RETRY_CAP_SECONDS": "2",
            "AIRLOCK_MAX_TRIES": "10",
            **environment,
        }
        fields = {name.removeprefix("AIRLOCK_").lower(): value for name, value in self.environment.items()}
        self.services = Services(Settings(**fields))  # type: ignore[arg-type]
        assert self.services.settings.environment is Environment.DEVELOPMENT
        self.services.ledger.upgrade()
        for store in (self.services.quarantine, self.services.serving):
            if isinstance(store, Provisionable):
                store.ensure_bucket()
        self.key = make_key(self.services.ledger, "acme")
        self._stack = contextlib.ExitStack()
        self._running: dict[str, contextlib.AbstractContextManager[subprocess.Popen[bytes]]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Start `airlock NAME`, and wait until it serves."""
        ready = {
            "serve": lambda: accepts(self.port),
            "worker": lambda: b" ready." in (self.tmp / "worker.log").read_bytes(),
            "beat": lambda: True,
        }[name]
        part = running(
            [*AIRLOCK, name, *arguments], ready, log=self.tmp / f"{name}.log", env=self.environment, cwd=ROOT
        )
        self.processes[name] = part.__enter__()
        self._running[name] = part

    def kill(self, name: str) -> None:
        """SIGKILL to the process and everything it started: a machine that lost its power."""
        process = self.processes[name]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._running.pop(name).__exit__(None, None, None)

    def end(self, name: str) -> None:
        """SIGTERM, and wait for the end."""
        self._running.pop(name).__exit__(None, None, None)

    def children(self, name: str) -> list[psutil.Process]:
        """The processes that a part has started."""
        return psutil.Process(self.processes[name].pid).children(recursive=True)

    def stop(self) -> None:
        for part in reversed(list(self._running.values())):
            part.__exit__(None, None, None)
        self.services.close()

    def client(self) -> httpx.Client:
        """An HTTP client that holds the key."""
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=60,
        )

    def settled(self, document_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Wait until every document has gone as far as it will; what the API says of each."""

        def done() -> bool:
            with self.services.ledger.reading() as tx:
                states = tx.states([UUID(document_id) for document_id in document_ids])
            return len(states) == len(set(document_ids)) and all(state in SETTLED for state in states.values())

        until(done, "all documents settled")
        with self.client() as client:
            return {one: client.get(f"/v1/documents/{one}").raise_for_status().json() for one in document_ids}


@contextlib.contextmanager
def system(tmp: Path, environment: Mapping[str, str]) -> Iterator[System]:
    """A whole system, started and ready; all of it ends with the block."""
    made = System(tmp, environment)
    try:
        made.start("serve")
        made.start("worker", "--concurrency=2")
        made.start("beat")
        yield made
    finally:
        made.stop()
