"""The zygote: loads the parsers once, then forks one confined child a call. Run as `python -m scanners.sandbox_child`.

It reads what scanners/sandbox.py sends over one socket and hands each child its descriptors; it never reads a byte of a
sample. It is single-threaded, so a fork of it is a clean copy. See `Zygote` for the rules by which children end.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

Function = Callable[[dict[str, Any], list[int]], dict[str, Any]]

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
CAPABILITIES_V3 = 0x20080522
NOBODY = 65534
MAX_FDS = 32

_libc = ctypes.CDLL(None, use_errno=True)


def sandboxed(function: Function) -> Function:
    """Mark a function as callable from outside: `(args, fds) -> JSON object`. Its name is its place in the registry."""
    function.__sandboxed__ = True  # type: ignore[attr-defined]
    return function


def die_with_parent() -> None:
    """For `preexec_fn` of programs that a sandboxed function starts: they end with it, whatever ends it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Zygote:
    """Forks, watches and buries the children.

    A child ends when it returns, when its lifeline's other end is shut (timeout, or the caller is gone) or when the
    zygote ends. Then its whole process group is killed, then whoever left the group (they come to us: we are a
    subreaper), and only then the caller is told, so that nothing is left when a call returns.
    """

    def __init__(self, control: socket.socket, parent: int, registry: dict[str, Function]) -> None:
        self._control = control
        self._registry = registry
        self._baseline = _address_space()
        self._parent = os.pidfd_open(parent)
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(self._parent, select.POLLIN)
        self._lifelines: dict[int, tuple[int, socket.socket]] = {}  # a lifeline's descriptor -> pid, lifeline
        self._pids: dict[int, tuple[int, socket.socket]] = {}  # a pidfd -> pid, lifeline

    def serve(self) -> None:
        """Until the worker closes its end or is gone."""
        while True:
            ready = [fd for fd, _ in self._poll.poll()]
            for fd in ready:
                if fd in self._pids:
                    self._bury(fd)
                elif fd in self._lifelines:
                    self._poll.unregister(fd)  # its end is enough; the pidfd tells when the child is gone
                    _kill_group(self._lifelines.pop(fd)[0])
            # Last: a new call's descriptors may get numbers that were just closed and are still in `ready`.
            if self._parent in ready or (self._control.fileno() in ready and not self._start()):
                return self._close()

    def _start(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._control, 1 << 16, MAX_FDS)
        if not message:
            return False
        call = json.loads(message)
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            _be_child(call, fds, zygote, self._baseline, self._registry)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # both sides do it: whoever comes first, the group exists before it is needed
        talk, lifeline, *rest = fds
        for fd in (talk, *rest):
            os.close(fd)
        line = socket.socket(fileno=lifeline)
        line.setblocking(False)
        pidfd = os.pidfd_open(pid)
        self._lifelines[lifeline] = self._pids[pidfd] = (pid, line)
        self._poll.register(lifeline, select.POLLIN)
        self._poll.register(pidfd, select.POLLIN)
        return True

    def _bury(self, pidfd: int) -> None:
        pid, line = self._pids.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _kill_group(pid)  # before reaping: until then the number cannot belong to anybody else
        _, status = os.waitpid(pid, 0)
        self._sweep()
        if self._lifelines.pop(line.fileno(), None):
            self._poll.unregister(line)
        with contextlib.suppress(OSError):
            line.send(str(status).encode())
        line.close()

    def _sweep(self) -> None:
        """Kill and reap whoever was left to us: no group of a running call, no right to live."""
        running = {pid for pid, _ in self._pids.values()}
        for _ in range(1000):  # each round can only find what the last one's victims had forked
            strays = [pid for pid in _children() if pid not in running and _group(pid) not in running]
            if not strays:
                return
            for pid in strays:
                _kill_group(pid)
                os.waitpid(pid, 0)

    def _close(self) -> None:
        for pidfd in list(self._pids):
            _kill_group(self._pids[pidfd][0])
            self._bury(pidfd)


def _be_child(
    call: dict[str, Any], fds: list[int], zygote: int, baseline: int, registry: dict[str, Function]
) -> NoReturn:
    """From the fork to the end of the child. Nothing escapes: an exception's class is answered, never its text."""
    code = 1
    try:
        talk, _lifeline, *rest = fds
        os.setpgid(0, 0)
        die_with_parent()
        if os.getppid() != zygote:
            os._exit(1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        kept = {0, 1, 2, talk, *rest}
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            if int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        if call["scratch"]:
            scratch = rest.pop(0)
            if os.geteuid() == 0:
                os.fchown(scratch, NOBODY, NOBODY)
            os.fchdir(scratch)
            os.close(scratch)
        confine(call["limits"], baseline)
        code = _answer(registry[call["name"]], talk, rest, call["limits"]["reply_bytes"])
    except BaseException:  # noqa: BLE001 - a fork must never run on into the zygote's code
        code = 1
    finally:
        os._exit(code)


def _answer(function: Function, talk: int, fds: list[int], reply_bytes: int) -> int:
    with socket.socket(fileno=talk) as line, line.makefile("rb") as request:
        try:
            reply = json.dumps({"ok": function(json.loads(request.readline()), fds)}).encode()
        except BaseException as exc:  # noqa: BLE001 - whatever a parser throws is an answer too
            reply = json.dumps({"error": type(exc).__name__}).encode()
        line.sendall(reply[: reply_bytes + 1])  # one more than allowed is enough to be refused
    return 0


def confine(limits: dict[str, Any], baseline: int) -> bool:
    """Give up root, every capability and what is over the limits, for good. True: with a user namespace of our own."""
    _drop_root()
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # A namespace's first use here: processes are counted in it, so that the limit on them is this call's alone.
    own_user: bool = _libc.unshare(CLONE_NEWUSER) == 0
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0)
    _libc.capset(header, (ctypes.c_uint32 * 6)())
    processes = limits["processes"]
    if not own_user and processes > 1:
        processes += 4096  # counted over everything that this user runs, anywhere: only a last barrier
    seconds = int(limits["seconds"]) + 1
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, seconds, seconds + 5)
    _limit(resource.RLIMIT_AS, baseline + limits["memory"])
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _limit(resource.RLIMIT_NOFILE, limits["open_files"])
    _limit(resource.RLIMIT_NPROC, processes)
    die_with_parent()  # again: a change of user clears it
    return own_user


def _drop_root() -> bool:
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
    return os.geteuid() != 0


def _limit(what: int, soft: int, hard: int | None = None) -> None:
    ceiling = resource.getrlimit(what)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(what, (soft, hard))


def _leave_network() -> bool:
    """A network namespace of our own, with not even a loopback; one for all children, as making one takes long."""
    if os.geteuid() == 0:
        return bool(_libc.unshare(CLONE_NEWNET) == 0)
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    # Without a mapping of ourselves no child could have a namespace of its own inside this one.
    for name, text in (("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1"), ("uid_map", f"{uid} {uid} 1")):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(text)
    return True


def _probe() -> dict[str, bool]:
    """Try in a child what every child will do."""
    pid = os.fork()
    if pid == 0:
        unprivileged = own_user = False
        with contextlib.suppress(BaseException):
            unprivileged = _drop_root()
            own_user = confine({"processes": 1, "seconds": 5, "memory": 0, "file_bytes": 0, "open_files": 9}, 1 << 40)
        os._exit(own_user + 2 * unprivileged)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"own_user": bool(code > 0 and code & 1), "unprivileged": bool(code > 0 and code & 2)}


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _children() -> list[int]:
    try:
        with open("/proc/thread-self/children") as file:  # noqa: PTH123
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _address_space() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


def main(control: int, parent: int, modules: list[str]) -> None:
    """Load, close the doors, say so, serve."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the worker may finish its document first; we end with it
    loaded = [importlib.import_module(module) for module in modules]
    registry = {
        name: function
        for module in loaded
        for name, function in vars(module).items()
        if getattr(function, "__sandboxed__", False)
    }
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("900")  # when memory ends, a parser goes before a worker does
    line = socket.socket(fileno=control)
    line.set_inheritable(False)
    isolation = {"no_network": _leave_network(), **_probe()}
    # Parsers write to standard error what they read in a sample: that belongs in no log.
    with open(os.devnull, "w") as devnull:  # noqa: PTH123
        os.dup2(devnull.fileno(), 2)
    for module in loaded:  # what a module wants to have ready for its calls: every child gets it by the fork
        getattr(module, "prepare", lambda: None)()
    gc.freeze()  # pages that a child's collector touches would have to be copied
    # Only now: the limit on memory counts from what is loaded.
    zygote = Zygote(line, parent, registry)
    line.send(json.dumps(isolation).encode())
    zygote.serve()


if __name__ == "__main__":
    sys.modules["scanners.sandbox_child"] = sys.modules["__main__"]  # one module, whichever name it is imported by
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
