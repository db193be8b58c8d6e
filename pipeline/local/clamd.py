"""clamd for one machine: its own signatures, a socket that only we can open, limits that never pass unseen bytes."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from pipeline.local.places import Places


def socket_path(places: Places) -> Path:
    """Where it listens."""
    return places.sockets / "clamd.sock"


def url(places: Places) -> str:
    """The engine's URL."""
    return f"unix://{socket_path(places)}"


def write_config(places: Places) -> Path:
    """Write clamd.conf and give its path."""
    config = places.clamav / "clamd.conf"
    lines = {
        "Foreground": "yes",
        "DatabaseDirectory": str(places.clamav / "db"),
        "LocalSocket": str(socket_path(places)),
        "LocalSocketMode": "600",
        "FixStaleSocket": "yes",
        "PidFile": str(places.sockets / "clamd.pid"),
        "LogFile": str(places.clamav / "clamd.log"),
        "LogFileMaxSize": "4M",
        "LogRotate": "yes",
        "LogTime": "yes",
        # New signatures are announced with RELOAD; looking for them beside that is work for nothing.
        "SelfCheck": "0",
        # Loading a second copy beside the first would take 2.5 GB with the public database.
        "ConcurrentDatabaseReload": "no",
        # A reload, and an end, waits for idle threads to give up: 30 seconds unless told otherwise.
        "IdleTimeout": "1",
        "MaxThreads": "4",
        "MaxConnectionQueueLength": "30",
        # Below 1024M and 1025M: CVE-2025-20260. Above the policy's limits, so that ours are the ones that are met.
        "StreamMaxLength": "512M",
        "MaxFileSize": "512M",
        "MaxScanSize": "1000M",
        "PCREMaxFileSize": "512M",
        "MaxRecursion": "17",
        "MaxFiles": "20000",
        "MaxScanTime": "110000",
        # clamd's defaults call what it did not look at clean.
        "AlertExceedsMax": "yes",
        "AlertEncrypted": "yes",
        "AlertOLE2Macros": "yes",
    }
    if os.geteuid() == 0:
        lines["User"] = "root"  # otherwise it changes to a user that cannot read this folder
    config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    return config


def command(places: Places, word: str, timeout: float) -> str | None:
    """clamd's answer to one command; None where there was none."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        sock.connect(str(socket_path(places)))
        sock.sendall(f"z{word}\0".encode())
        answer = b""
        while piece := sock.recv(4096):
            answer += piece
        return answer.rstrip(b"\0").decode(errors="replace")
    return None


def answers(places: Places) -> bool:
    """Whether it has loaded its signatures and takes samples."""
    return command(places, "PING", 1.0) == "PONG"
