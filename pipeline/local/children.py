"""The processes that the supervisor keeps: started in groups of their own, their output read line by line."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.local.processes import die_with_parent

LINE_LIMIT = 64 * 1024  # a line that is longer comes in pieces


@dataclass(frozen=True, slots=True)
class Part:
    """One process to run. `env` is all of its environment; `quiet`: its output is kept, but not shown."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    ready: Callable[[], bool] | None = None
    quiet: bool = False
    once: bool = False  # its end is not an accident


class Child:
    """One running process and what it said last."""

    def __init__(self, part: Part, show: Callable[[str, str], None]) -> None:
        self.part = part
        self.started = time.monotonic()
        self.tail: deque[str] = deque(maxlen=20)
        self._show = show
        self._rest = b""
        # preexec_fn is safe here: the supervisor has one thread.
        self.process = subprocess.Popen(
            part.command,
            env=dict(part.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
        assert self.process.stdout is not None  # noqa: S101
        self.output = self.process.stdout.fileno()
        os.set_blocking(self.output, False)

    def read(self) -> bool | None:
        """Show what it wrote since the last call. None: nothing; False: this was the end of its output."""
        try:
            piece = os.read(self.output, LINE_LIMIT)
        except BlockingIOError:
            return None
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop() if piece and len(lines[-1]) < LINE_LIMIT else b""
        for line in lines:
            if text := line.decode(errors="replace").rstrip():
                self.tail.append(text)
                if not self.part.quiet:
                    self._show(self.part.name, text)
        return bool(piece)

    def tell(self, number: int) -> None:
        """Send a signal to the process itself: its own children are its own business."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it and everything in its group, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Reap it and let its pipe go."""
        self.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def find_program(name: str, *places: Path) -> str | None:
    """A program on PATH, or where distributions put servers."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin", *map(str, places)])
    return shutil.which(name, path=path)
