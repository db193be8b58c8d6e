"""Redis for one machine: a socket that only we can open, an append-only file, nothing else."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from pipeline.local.places import Places


def socket_path(places: Places) -> Path:
    """Where it listens. No TCP port: none can be taken, and no other user of the machine can reach it."""
    return places.sockets / "redis.sock"


def url(places: Places) -> str:
    """The broker's URL in Celery's words."""
    return f"redis+socket://{socket_path(places)}"


def write_config(places: Places) -> Path:
    """Write redis.conf and give its path."""
    config = places.redis / "redis.conf"
    lines = {
        "port": "0",
        "unixsocket": quoted(socket_path(places)),
        "unixsocketperm": "700",
        "dir": quoted(places.redis),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",  # a queue must refuse, never forget
        "loglevel": "warning",
        "daemonize": "no",
    }
    config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    return config


def quoted(path: Path) -> str:
    """A path as redis.conf wants it where it holds blanks or quotes."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def answers(places: Places) -> bool:
    """Whether it has loaded its file and takes commands."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        sock.connect(str(socket_path(places)))
        sock.sendall(b"PING\r\n")
        return sock.recv(64).startswith(b"+PONG")
    return False
