"""One sandboxed call: what it may spend, how it is handed over, how it ends and what that means."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scanners.base import SampleTimeout, ScannerError

KILL_SECONDS = 10.0  # patience with the kernel: a killed process is gone in microseconds, but for one in a device


class SandboxError(ScannerError):
    """The sandboxed function failed, or its answer was not one."""

    code = "sandbox-error"


class SandboxTimeout(SampleTimeout, SandboxError):
    """The call used up its wall time or its CPU time; everything it had started was killed."""


class SandboxKilled(SandboxError):
    """The call ran out of memory or died by a signal."""

    code = "sandbox-killed"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may spend. Everything counts for each process of the call; `processes` bounds how many there are.

    `memory` is address space in bytes on top of what the zygote has; `file_bytes` bounds each file written (0: none can
    be); `seconds` is wall time, and CPU time of each process. Raise `processes` to start an external program.
    """

    seconds: float = 20.0
    memory: int = 512 << 20
    file_bytes: int = 0
    open_files: int = 64
    processes: int = 1
    reply_bytes: int = 1 << 20


class Call:
    """One call on its way: a socket for request and answer, and a lifeline whose end kills the child."""

    def __init__(
        self,
        control: socket.socket,
        name: str,
        request: bytes,
        fds: Sequence[int],
        scratch: Path | None,
        limits: Limits,
    ) -> None:
        self._name, self._request, self._limits = name, request, limits
        self._deadline = time.monotonic() + limits.seconds
        with contextlib.ExitStack() as handed_over:
            self._talk, talk = socket.socketpair()
            handed_over.enter_context(talk)
            self._lifeline, lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            handed_over.enter_context(lifeline)
            passed = [talk.fileno(), lifeline.fileno()]
            if scratch is not None:
                passed.append(os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                handed_over.callback(os.close, passed[-1])
            header = {"name": name, "scratch": scratch is not None, "limits": asdict(limits)}
            try:
                socket.send_fds(control, [json.dumps(header).encode()], [*passed, *fds])
            except OSError:
                self.__exit__()
                raise

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self._talk.close()
        self._lifeline.close()

    def finish(self) -> dict[str, Any]:
        """Talk until the zygote says how the child ended, or the time is up."""
        answer = bytearray()
        status = self._talk_until_ended(answer)
        if status is None:
            raise SandboxTimeout(f"{self._name} did not finish within {self._limits.seconds:g} s.")
        if len(answer) > self._limits.reply_bytes:
            raise SandboxError(f"{self._name} answered more than {self._limits.reply_bytes} bytes.")
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGXCPU:
                raise SandboxTimeout(f"{self._name} used up {self._limits.seconds:g} s of CPU time.")
            raise SandboxKilled(f"{self._name} was ended by {_signal_name(number)}.")
        return self._read(bytes(answer))

    def _read(self, answer: bytes) -> dict[str, Any]:
        try:
            reply = json.loads(answer)
        except (ValueError, RecursionError):
            raise SandboxError(f"{self._name} ended without an answer.") from None
        match reply:
            case {"ok": dict() as value}:
                return value
            case {"error": "MemoryError"}:
                raise SandboxKilled(f"{self._name} ran out of its {self._limits.memory >> 20} MiB of memory.")
            case {"error": str() as error} if error.isidentifier():  # a class's name, never its text: that may quote
                raise SandboxError(f"{self._name} failed with {error[:64]}.")
        raise SandboxError(f"{self._name} gave an answer that cannot be read.")

    def _talk_until_ended(self, answer: bytearray) -> int | None:
        """Send the request, collect the answer; the child's wait status, or None if it had to be killed."""
        unsent = memoryview(self._request + b"\n")
        self._talk.setblocking(False)
        poll = select.poll()
        poll.register(self._lifeline, select.POLLIN)
        poll.register(self._talk, select.POLLIN | select.POLLOUT)
        while (left := self._deadline - time.monotonic()) > 0:
            events = dict(poll.poll(left * 1000))
            talk = events.get(self._talk.fileno(), 0)
            if talk & select.POLLOUT and unsent:
                with contextlib.suppress(OSError):  # it may have ended without reading: the status will say how
                    unsent = unsent[self._talk.send(unsent) :]
            if not unsent and talk & select.POLLOUT:
                poll.modify(self._talk, select.POLLIN)
            if talk & (select.POLLIN | select.POLLHUP | select.POLLERR) and self._collect(answer) == 0:
                poll.unregister(self._talk)  # closed; what is left to come is the status
            if len(answer) > self._limits.reply_bytes:
                return self._end() or 0
            if self._lifeline.fileno() in events:
                status = self._status()
                # Everything the child sent was in our buffer before the zygote could see its end.
                while len(answer) <= self._limits.reply_bytes and self._collect(answer) > 0:
                    pass
                return status
        self._end()
        return None

    def _collect(self, answer: bytearray) -> int:
        """Take what there is: the number of bytes, 0 at the end, -1 when there is nothing yet."""
        try:
            piece = self._talk.recv(1 << 16)
        except BlockingIOError:
            return -1
        except OSError:
            return 0
        answer += piece
        return len(piece)

    def _end(self) -> int | None:
        """Have the child killed, and wait until it and all that it started are gone."""
        with contextlib.suppress(OSError):
            self._lifeline.shutdown(socket.SHUT_WR)
        self._lifeline.settimeout(KILL_SECONDS)
        try:
            return self._status()
        except OSError:
            return None  # the zygote itself is stuck or gone; whoever calls next finds out

    def _status(self) -> int:
        """The child's wait status, as the zygote tells it after the last process of the call is gone."""
        said = self._lifeline.recv(16)
        if not said:
            raise SandboxKilled(f"{self._name} was ended together with its sandbox.")
        return int(said)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
