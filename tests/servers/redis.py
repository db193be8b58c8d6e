"""A real Redis with an append-only file, on a port and in a folder of its own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.servers.process import free_port, need, running


@contextlib.contextmanager
def redis(tmp: Path, *, port: int | None = None) -> Iterator[str]:
    """The URL of a Redis server that ends with the block. The same `tmp` and `port` again: the same content."""
    server = need("redis-server", "apt-get install redis-server")
    port = port or free_port()
    folder = tmp / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"]
    with running(command, lambda: answers(port), log=tmp / "redis.log"):
        yield f"redis://127.0.0.1:{port}/0"


def answers(port: int) -> bool:
    """Whether a Redis on that loopback port has loaded its file and takes commands."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
        sock.sendall(b"PING\r\n")
        return sock.recv(64).startswith(b"+PONG")
    return False
