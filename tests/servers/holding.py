"""A way to a server on which one can wait: a connection that carries a given text is held before its end arrives."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Holding:
    """Forwards a loopback port. What is sent after the text was seen is kept back while `holding` is set."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.seen = threading.Event()  # a connection with the text is being held
        self.go_on = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _serve(self, port: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client, port), daemon=True).start()

    def _carry(self, client: socket.socket, port: int) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=self._pump, args=(server, client, False), daemon=True)
            back.start()
            self._pump(client, server, True)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket, watched: bool) -> None:
        last = b""
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                if watched and self.text in last + piece and not self.go_on.is_set():
                    self.seen.set()
                    self.go_on.wait()
                last = piece[-len(self.text) :]
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.go_on.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextlib.contextmanager
def holding(port: int, text: bytes) -> Iterator[Holding]:
    """Forward to the port until the block ends."""
    door = Holding(text)
    threading.Thread(target=door._serve, args=(port,), daemon=True).start()
    try:
        yield door
    finally:
        door.close()
