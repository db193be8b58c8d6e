"""`airlock run` as a process, and what is left of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0


def environment(var: Path, **more: str) -> dict[str, str]:
    """An environment with nothing of Airlock's in it but this."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRLOCK_", "PYTEST_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "AIRLOCK_VAR_DIR": str(var), **more}


def airlock(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=PATIENCE, check=False)


def until(what: str, true: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for it."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.05)


class Run:
    """One `airlock run`."""

    def __init__(self, var: Path, port: int, **more: str) -> None:
        self.var, self.port, self.url = var, port, f"http://127.0.0.1:{port}"
        self.env = environment(var, AIRLOCK_PORT=str(port), AIRLOCK_API_URL=self.url, **more)
        self._log = var.with_suffix(".log")
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", "run"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """Everything it said."""
        return self._log.read_text(errors="replace")

    def ready(self) -> None:
        """Wait until it says so."""

        def said() -> bool:
            assert self.process.poll() is None, self.log
            return "Ctrl-C stops everything." in self.log

        until("Airlock is ready", said)

    def key(self) -> str | None:
        """The API key that it showed."""
        match = re.search(r"API key: +(alk_\S+)", self.log)
        return match[1] if match else None

    def family(self) -> list[psutil.Process]:
        """It and everything below it."""
        guard = psutil.Process(self.process.pid)
        return [guard, *guard.children(recursive=True)]

    def supervisor(self) -> psutil.Process:
        """The guard's one child."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def strangers(self) -> list[psutil.Process]:
        """Processes of this run that are left, wherever they hang now: they have its folder in their environment or
        on their command line."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = [*process.cmdline(), process.environ().get("AIRLOCK_VAR_DIR", "")]
                if process.pid != os.getpid() and any(str(self.var) in word for word in words):
                    found.append(process)
        return found

    def gone(self, family: list[psutil.Process]) -> None:
        """Wait until nothing of it is left."""
        with contextlib.suppress(ChildProcessError):
            self.process.wait(PATIENCE)
        _, alive = psutil.wait_procs(family, timeout=20)
        alive = [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        assert alive == []
        until("no process is left", lambda: not self.strangers(), 20)


@contextlib.contextmanager
def started(var: Path, port: int, **more: str) -> Iterator[Run]:
    """A run that is ready; ended in any case."""
    run = Run(var, port, **more)
    try:
        run.ready()
        yield run
    finally:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGTERM)
            try:
                run.process.wait(30)
            except subprocess.TimeoutExpired:
                run.process.kill()
                run.process.wait()
        # After a test that failed: what should not be there must not disturb the others.
        for process in run.strangers():
            with contextlib.suppress(psutil.Error):
                process.kill()
