"""A way to a server that is cut once so many bytes have gone through: the middle of a request, for sure."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Iterator

PATIENCE = 120.0
PIECE = 1 << 16


class Cutting:
    """Forwards a loopback port, until somebody does `with way.cut(after): ...`: then everything stands still in the
    middle of whatever is sent; behind the block all connections are dropped, and new ones are taken."""

    def __init__(self, port: int, rate: float) -> None:
        """`rate`: at most so many bytes of a connection a second."""
        self.sent = 0  # to the server, over all connections
        self._target = port
        self._pause = PIECE / rate
        self._mark = math.inf
        self._reached = threading.Event()
        self._go_on = threading.Event()
        self._gate = threading.Lock()  # held by whoever forwards a piece, and while everything stands still
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @contextlib.contextmanager
    def cut(self, after: int) -> Iterator[None]:
        """Wait until so many more bytes have gone to the server, and let nothing go on before the block ends."""
        with self._gate:
            self._reached.clear()
            self._go_on.clear()
            self._mark = self.sent + after
        assert self._reached.wait(PATIENCE), f"only {self.sent} of {self._mark} bytes came"
        try:
            yield
        finally:
            self._go_on.set()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), self._connected() as server:
            pair = {client, server}
            self._open |= pair
            back = threading.Thread(target=self._answers, args=(server, client), daemon=True)
            back.start()
            while piece := client.recv(PIECE):
                with self._gate:
                    self._forward(piece, server)
                time.sleep(self._pause)
            self._open -= pair
            server.shutdown(socket.SHUT_WR)
            back.join()

    def _connected(self) -> socket.socket:
        # The server may be on its way up again: a client that comes meanwhile waits.
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _forward(self, piece: bytes, server: socket.socket) -> None:
        part = piece[: int(min(len(piece), self._mark - self.sent))]
        server.sendall(part)
        self.sent += len(part)
        if self.sent < self._mark:
            return
        self._mark = math.inf
        self._reached.set()
        self._go_on.wait()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()
        raise ConnectionAbortedError

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := server.recv(PIECE):
                client.sendall(piece)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextlib.contextmanager
def cutting(port: int, rate: float = math.inf) -> Iterator[Cutting]:
    """Forward to the port until the block ends."""
    way = Cutting(port, rate)
    threading.Thread(target=way.serve, daemon=True).start()
    try:
        yield way
    finally:
        way.close()
