"""A TCP forwarder that counts at the server's door: which requests came, and how many bytes went each way."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

REQUEST = re.compile(rb"^(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")
PIECE = 1 << 18


@dataclass
class Counts:
    """What went through. A client sends each request's head in a piece of its own, so the heads can be seen."""

    port: int
    requests: list[tuple[str, str]] = field(default_factory=list)  # method, path without its query
    up: int = 0
    down: int = 0

    def reset(self) -> None:
        """Begin anew."""
        self.requests.clear()
        self.up = self.down = 0

    def of(self, method: str, part: str) -> int:
        """How many requests of that method name that part of a path."""
        return sum(1 for verb, path in self.requests if verb == method and part in path)


@contextlib.contextmanager
def counting(port: int) -> Iterator[Counts]:
    """Forward to a loopback port from another, until the block ends."""
    door = socket.create_server(("127.0.0.1", 0), backlog=64)
    counts = Counts(door.getsockname()[1])

    def pump(source: socket.socket, target: socket.socket, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE):
                if up:
                    counts.up += len(piece)
                    if (match := REQUEST.match(piece)) is not None:
                        counts.requests.append((match[1].decode(), match[2].decode().partition("?")[0]))
                else:
                    counts.down += len(piece)
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        if not up:
            source.close()
            target.close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = door.accept()
                server = socket.create_connection(("127.0.0.1", port))
                threading.Thread(target=pump, args=(client, server), kwargs={"up": True}, daemon=True).start()
                threading.Thread(target=pump, args=(server, client), kwargs={"up": False}, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield counts
    finally:
        door.shutdown(socket.SHUT_RDWR)
        door.close()
