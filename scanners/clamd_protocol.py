"""What clamd and we say to each other: the `clamd` package's protocol, with its transport made sound.

Replaced here: 1 KiB pieces, `send` where all must go out, a timeout that is set only once connected and then
starts anew with every piece, unbounded replies, and no FILDES (a descriptor passed instead of bytes).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from typing import BinaryIO

import clamd

PIECE = 256 << 10  # 64 KiB and up run at the same speed; 1 KiB at a fifth of it
MAX_REPLY = 4096
CONNECT_SECONDS = 5.0


class Unreachable(OSError):
    """Nobody listens at the address, or nobody accepts in time."""


class CutReply(OSError):
    """The connection ended before a whole reply had come."""


class _Session:
    """One connection, one command, one reply, within `timeout` seconds altogether."""

    timeout: float
    clamd_socket: socket.socket

    def ask(self, command: str) -> str:
        """A plain command's reply, e.g. to VERSION."""
        with self._connected():
            self.clamd_socket.sendall(f"n{command}\n".encode())
            return self._recv_response()

    def stream(self, body: BinaryIO) -> str:
        """INSTREAM: clamd's reply, which may come before all has gone out."""
        with self._connected():
            try:
                self.clamd_socket.sendall(b"nINSTREAM\n")
                while piece := body.read(PIECE):
                    self._hurry()
                    self.clamd_socket.sendall(struct.pack("!L", len(piece)))
                    self.clamd_socket.sendall(piece)
                self._hurry()
                self.clamd_socket.sendall(struct.pack("!L", 0))
            except (BrokenPipeError, ConnectionResetError):
                pass  # clamd hangs up on a stream it refuses, and has said why before it did
            return self._recv_response()

    def pass_descriptor(self, fd: int) -> str:
        """FILDES: clamd reads the file itself. Only over a Unix socket."""
        with self._connected():
            self.clamd_socket.sendall(b"nFILDES\n")
            socket.send_fds(self.clamd_socket, [b"\0"], [fd])
            return self._recv_response()

    def _connect(self) -> socket.socket:
        raise NotImplementedError

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        self._deadline = time.monotonic() + self.timeout
        try:
            self.clamd_socket = self._connect()
        except OSError as exc:
            raise Unreachable(exc.strerror or str(exc)) from exc
        with self.clamd_socket:
            self._hurry()
            yield

    def _hurry(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("clamd did not answer in time")
        self.clamd_socket.settimeout(left)

    def _recv_response(self) -> str:
        """One line. Raises CutReply when the connection ends before the line does."""
        reply = b""
        while not reply.endswith(b"\n"):
            self._hurry()
            try:
                piece = self.clamd_socket.recv(MAX_REPLY)
            except ConnectionError as exc:
                raise CutReply("the connection was reset") from exc
            if not piece or len(reply) > MAX_REPLY:
                raise CutReply("the reply was cut off" if reply else "there was no reply")
            reply += piece
        return reply.decode("utf-8", "replace").strip()


class UnixSession(_Session, clamd.ClamdUnixSocket):  # type: ignore[misc]
    """clamd on this machine."""

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(min(CONNECT_SECONDS, self.timeout))
        try:
            sock.connect(self.unix_socket)
        except OSError:
            sock.close()
            raise
        return sock


class TcpSession(_Session, clamd.ClamdNetworkSocket):  # type: ignore[misc]
    """clamd over the network: IPv4 and IPv6 (the package knows only the first)."""

    def _connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=min(CONNECT_SECONDS, self.timeout))
