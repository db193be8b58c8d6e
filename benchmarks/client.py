"""An HTTP client that is not the bottleneck: raw sockets, sendfile for large bodies, kept-alive connections for small.

Both sides of a comparison are driven by the same one.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PIECE = 4 << 20
PATIENCE = 600.0


@dataclass(frozen=True)
class Target:
    """Where requests go and what they carry besides the body."""

    port: int
    path: str
    headers: Mapping[str, str]
    method: str = "POST"

    def head(self, length: int) -> bytes:
        """The request up to its body."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Connection:
    """One connection, one request at a time."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sock = socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, body: bytes) -> None:
        """A body from memory. Raises RuntimeError unless the answer is 2xx."""
        self._sock.sendall(self._target.head(len(body)) + body)
        self._answered()

    def send_file(
        self,
        path: Path,
        before: bytes = b"",
        after: bytes = b"",
        *,
        at: int = 0,
        count: int | None = None,
        target: Target | None = None,
    ) -> None:
        """A file's bytes (or `count` of them, from `at`), by sendfile, with some bytes around them."""
        size = path.stat().st_size - at if count is None else count
        self._sock.sendall((target or self._target).head(len(before) + size + len(after)) + before)
        with path.open("rb") as file:
            end = at + size
            while at < end:
                at += self._pass_on(file.fileno(), at, min(PIECE, end - at))
        self._sock.sendall(after)
        self._answered()

    def send_pieces(self, pieces: Iterable[bytes], length: int, *, target: Target | None = None) -> None:
        """Pieces that are `length` bytes together."""
        self._sock.sendall((target or self._target).head(length))
        for piece in pieces:
            self._sock.sendall(piece)
        self._answered()

    def _pass_on(self, file: int, at: int, count: int) -> int:
        # A socket with a timeout does not block, so a full one is waited for.
        if not select.select([], [self._sock], [], PATIENCE)[1]:
            raise TimeoutError("the server takes nothing any more")
        return os.sendfile(self._sock.fileno(), file, at, count)

    def ask(self, headers: Mapping[str, str], target: Target) -> dict[bytes, bytes]:
        """A request without a body; the answer's headers, in lower case."""
        lines = Target(target.port, target.path, {**target.headers, **headers}, target.method)
        self._sock.sendall(lines.head(0))
        return self._answered()

    def _answered(self) -> dict[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        names = {name.lower(): value.strip() for name, _, value in lines}
        left = int(names.get(b"content-length", b"0")) - len(rest)
        while left > 0:
            left -= len(self._more())
        status = head.split(b" ", 2)[1]
        if not status.startswith(b"2"):
            raise RuntimeError(f"answered {status.decode()}: {rest[:300]!r}")
        return names

    def _more(self) -> bytes:
        data = self._sock.recv(65536)
        if not data:
            raise RuntimeError("the server hung up")
        return data

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


def send_file(target: Target, path: Path, before: bytes = b"", after: bytes = b"") -> float:
    """Seconds for one file on a connection of its own."""
    connection = Connection(target)
    try:
        started = time.perf_counter()
        connection.send_file(path, before, after)
        return time.perf_counter() - started
    finally:
        connection.close()


def send_many(target: Target, bodies: Sequence[bytes], connections: int) -> tuple[float, list[float]]:
    """Seconds for all bodies over so many kept-alive connections, and the seconds that each took."""
    took: list[float] = []
    failed: list[BaseException] = []
    start = threading.Barrier(connections + 1)

    def work(mine: Sequence[bytes]) -> None:
        connection = Connection(target)
        start.wait()
        try:
            for body in mine:
                began = time.perf_counter()
                connection.send(body)
                took.append(time.perf_counter() - began)
        except BaseException as exc:
            failed.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(bodies[at::connections],)) for at in range(connections)]
    for thread in threads:
        thread.start()
    start.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return time.perf_counter() - started, took
