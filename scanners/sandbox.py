"""Where untrusted bytes are parsed: a child process that can spend little, reach nothing and spoil nothing.

Each worker process keeps one *zygote* (scanners/sandbox_child.py): it has the parsers loaded, never touches a byte of a
sample, and forks one child a call, which takes about a millisecond. So one document cannot poison the next, and a
crash, a hang or a bomb ends one call.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scanners.base import ScannerUnavailable
from scanners.sandbox_call import KILL_SECONDS, Call, Limits, SandboxError, SandboxKilled, SandboxTimeout

__all__ = ["Isolation", "Limits", "Sandbox", "SandboxError", "SandboxKilled", "SandboxTimeout"]

# The modules whose functions marked with `sandbox_child.sandboxed` can be called: the registry is closed at start.
MODULES = ("scanners.structure.look",)  # nothing that is large: forking it is on every document's way
START_SECONDS = 60.0
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TESSDATA_PREFIX", "TMPDIR", "TZ", "MAGIC")  # nothing else of our environment


@dataclass(frozen=True, slots=True)
class Isolation:
    """What the kernel let us have; the limits themselves always hold."""

    no_network: bool  # a network namespace without interfaces
    own_user: bool  # a user namespace a call: processes are counted a call, nobody else's can be touched
    unprivileged: bool  # not root


class Sandbox:
    """Calls functions of a closed registry in disposable children. Safe from several threads and after a fork."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        modules: Sequence[str] = MODULES,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`variables` are added to the zygote's environment, for the `prepare` of its modules."""
        self.limits = limits or Limits()
        self._modules, self._variables = tuple(modules), dict(variables or {})
        self._lock = threading.Lock()
        self._zygote: _Zygote | None = None

    def call(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        fds: Sequence[int] = (),
        scratch: Path | None = None,
        timeout: float | None = None,
        memory: int | None = None,
        limits: Limits | None = None,
    ) -> dict[str, Any]:
        """Run the registered function `name(args, fds)` and return its answer, a JSON object.

        The child gets copies of `fds` (which share their offset with the caller's). `scratch` is a directory that
        becomes its working directory and that it may write to; the caller makes and removes it.

        Raises:
            SandboxTimeout, SandboxKilled, SandboxError: this sample's fault, which one says how.
            ScannerUnavailable: no sandbox could be started.
        """
        limits = limits or self.limits
        limits = replace(
            limits,
            seconds=limits.seconds if timeout is None else timeout,
            memory=limits.memory if memory is None else memory,
        )
        request = json.dumps(dict(args or {})).encode()
        # A zygote may have died since the last call (the kernel's OOM killer is not choosy): one new one, then give up.
        # It cannot have begun the call, so trying again runs nothing twice.
        try:
            call = Call(self._alive().control, name, request, fds, scratch, limits)
        except (BrokenPipeError, ConnectionResetError):
            try:
                call = Call(self._alive().control, name, request, fds, scratch, limits)
            except (BrokenPipeError, ConnectionResetError) as exc:
                raise ScannerUnavailable("The sandbox ends as soon as it is started.") from exc
        with call:
            return call.finish()

    @property
    def isolation(self) -> Isolation:
        """What the kernel lets the sandbox have; starts it when it is not running."""
        return self._alive().isolation

    def close(self) -> None:
        """End the zygote and every call that runs. The next call starts a new one."""
        with self._lock:
            zygote, self._zygote = self._zygote, None
        if zygote is not None and zygote.owner == os.getpid():
            zygote.stop()

    def _alive(self) -> _Zygote:
        with self._lock:
            zygote = self._zygote
            if zygote is not None and (zygote.owner != os.getpid() or zygote.process.poll() is not None):
                zygote.forget()
                zygote = None
            if zygote is None:
                zygote = self._zygote = _Zygote(self._modules, self._variables)
            return zygote


class _Zygote:
    """One running zygote and the socket to it. Belongs to the process that started it, and ends with it."""

    def __init__(self, modules: Sequence[str], variables: Mapping[str, str]) -> None:
        self.owner = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = ours
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        # Without our path in PYTHONPATH, `-m scanners...` would depend on the directory the worker was started in.
        environment |= {
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "OMP_THREAD_LIMIT": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            **variables,
        }
        with theirs:
            command = [sys.executable, "-m", "scanners.sandbox_child", str(theirs.fileno()), str(self.owner), *modules]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a ^C or a group kill is meant for the worker, which may want to finish first
            )
        try:
            ours.settimeout(START_SECONDS)
            self.isolation = Isolation(**json.loads(ours.recv(4096)))
            ours.settimeout(None)
        except (OSError, ValueError, TypeError) as exc:
            self.stop()
            raise ScannerUnavailable("The sandbox did not start; its standard error says why.") from exc

    def stop(self) -> None:
        """Closing the socket ends it; it kills and reaps its children first."""
        self.control.close()
        try:
            self.process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """Give up our end, in a forked child too, where the process is not ours to wait for."""
        self.control.close()
        if self.owner != os.getpid():
            self.process.returncode = 0  # keeps Popen from warning that a process of our parent still runs
