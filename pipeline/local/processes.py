"""Processes and their descendants, as Linux shows them: what the guard needs to leave none behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# Looked up once, here: after a fork only the call itself is left to do.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with_parent(how: int = signal.SIGKILL) -> None:
    """Have the kernel send `how` to this process when the thread that made it is gone."""
    _prctl(PR_SET_PDEATHSIG, int(how), 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none can get away."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> set[int]:
    """Every process below `root`, at this moment; zombies too."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in brackets can hold anything: what follows the last bracket is state and parent.
                parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child)
    return found


def kill_descendants(patience: float = 5.0) -> None:
    """Kill and reap everything below this process (it must have adopted its orphans). Gives up after `patience` s."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)
