# ruff: noqa: PTH115, PTH208, PTH110, PTH123, PLW1509
"""What a parser that has been taken over, or is merely bad, does inside the sandbox."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from scanners.sandbox_child import die_with_parent, sandboxed


@sandboxed
def echo(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    return {"args": args, "read": [os.pread(fd, 100, 0).decode() for fd in fds], "pid": os.getpid()}


def prepare() -> None:
    os.environ["AIRLOCK_READY"] = os.environ.get("AIRLOCK_TOLD", "")


@sandboxed
def surroundings(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    return {
        "environment": dict(os.environ),
        "fds": sorted(
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}")
        ),
        "status": Path("/proc/self/status").read_text(),
        "interfaces": Path("/proc/net/dev").read_text(),
    }


@sandboxed
def hang(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    while True:
        signal.pause()


@sandboxed
def spin(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
    while True:
        pass


@sandboxed
def eat_memory(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    hoard = []
    while True:
        hoard.append(bytearray(16 << 20))


@sandboxed
def segfault(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


@sandboxed
def kill_itself(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@sandboxed
def kill_everybody(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    reached = []
    for pid in args["pids"]:
        try:
            os.kill(pid, 0)
            reached.append(pid)
        except PermissionError:
            pass
    return {"reached": reached}


@sandboxed
def exit_quietly(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    os._exit(0)


@sandboxed
def flood(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    return {"flood": "x" * args["bytes"]}


@sandboxed
def flood_raw(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            while os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(int(name), b"x" * 65536)
    return {}


@sandboxed
def throw(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    raise LookupError(args["secret"])


@sandboxed
def bad_answer(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    return {"not json": object()}


@sandboxed
def fork_bomb(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    forked = 0
    try:
        while True:
            if os.fork() == 0:
                if args.get("leave"):
                    os.setsid()
                time.sleep(600)
                os._exit(0)
            forked += 1
    except OSError:
        pass
    if args.get("hang"):
        signal.pause()
    return {"forked": forked}


@sandboxed
def write_file(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    with open(args["path"], "wb") as file:
        for _ in range(args["mib"]):
            file.write(b"x" * (1 << 20))
    return {"cwd": os.listdir(".")}


@sandboxed
def run_programs(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    programs = [
        subprocess.Popen(["cat"], stdin=fds[0], stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        for _ in range(args["count"])
    ]
    return {"outputs": [program.communicate()[0].decode() for program in programs]}


@sandboxed
def connect(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    with socket.socket() as sock:
        sock.settimeout(2)
        return {"errno": sock.connect_ex(("127.0.0.1", args["port"]))}
