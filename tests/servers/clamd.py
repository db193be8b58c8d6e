"""A real clamd on a socket and a port of its own, with a handful of signatures."""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen

from tests.servers.process import free_port, need, running

# The EICAR test string's signature, and the hash of what all of clamav-testfiles unpack to.
SIGNATURES = {
    "test.ndb": (
        "Eicar-Test-Signature:0:0:58354f2150254041505b345c505a58353428505e2937434329377d2445494341522d5354414e44415244"
        "2d414e544956495255532d544553542d46494c452124482b482a\n"
    ),
    "test.hdb": (
        "44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test-Hash\naa15bcf478d165efd2065190eb473bcb:544:Clamav.Test.File\n"
    ),
}


@dataclass(frozen=True)
class ClamdServer:
    """A running clamd. `conf` is what it was started with, `db` where its signatures lie."""

    socket: Path
    port: int
    conf: Path
    db: Path
    process: Popen[bytes]

    @property
    def unix(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def ask(self, command: str) -> str:
        """One plain command and its reply."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.socket))
            sock.sendall(f"n{command}\n".encode())
            with sock.makefile() as reply:
                return reply.readline().strip()

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("PING") == "PONG"
        return False


def daily_database(version: int, built: datetime) -> bytes:
    """An unsigned `daily.cud` of that version and time, holding one signature that nothing matches."""
    when = built.astimezone(UTC)
    header = (
        f"ClamAV-VDB:{when:%d %b %Y %H-%M} +0000:{version}:1:90:{'0' * 32}:{'0' * 40}:airlock:{int(when.timestamp())}"
    )
    body = b"00000000000000000000000000000000:1:Airlock.Never\n"
    contents = f"{header}\ndaily.hdb:{len(body)}:{hashlib.sha256(body).hexdigest()}\n".encode()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in (("daily.info", contents), ("daily.hdb", body)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    return header.encode().ljust(512) + content.getvalue()


@contextlib.contextmanager
def clamd(tmp: Path, *, daily: tuple[int, datetime] | None = None, **overrides: str) -> Iterator[ClamdServer]:
    """clamd with the limits that Airlock asks for; `overrides` replace lines of its configuration.

    `daily` gives it a database version and date as a real daily database would.
    """
    program = need("clamd", "apt-get install clamav-daemon")
    db, port = tmp / "db", free_port()
    db.mkdir(parents=True)
    for name, text in SIGNATURES.items():
        (db / name).write_text(text)
    if daily is not None:
        (db / "daily.cud").write_bytes(daily_database(*daily))
    settings = {
        "Foreground": "yes",
        "DatabaseDirectory": str(db),
        "OfficialDatabaseOnly": "no",
        "LocalSocket": str(tmp / "clamd.sock"),
        "LocalSocketMode": "600",
        "FixStaleSocket": "yes",
        "TCPSocket": str(port),
        "TCPAddr": "127.0.0.1",
        "LogFile": str(tmp / "clamd.log"),
        "PidFile": str(tmp / "clamd.pid"),
        "TemporaryDirectory": str(tmp),
        "SelfCheck": "0",
        "ConcurrentDatabaseReload": "yes",
        "MaxThreads": "4",
        "StreamMaxLength": "64M",
        "MaxScanSize": "64M",
        "MaxFileSize": "32M",
        "MaxRecursion": "10",
        "MaxFiles": "1000",
        "MaxScanTime": "60000",
        "AlertExceedsMax": "yes",
        "AlertEncrypted": "yes",
        "AlertOLE2Macros": "yes",
        **overrides,
    }
    conf = tmp / "clamd.conf"
    conf.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    server: ClamdServer | None = None
    path = tmp / "clamd.sock"

    def ready() -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"nPING\n")
            return sock.recv(16) == b"PONG\n"
        return False

    with running([program, "-c", str(conf)], ready, log=tmp / "clamd.out") as process:
        server = ClamdServer(path, port, conf, db, process)
        yield server


def until_reloaded(server: ClamdServer, before: str, patience: float = 20) -> str:
    """RELOAD, and wait until VERSION is no longer `before`."""
    server.ask("RELOAD")
    deadline = time.monotonic() + patience
    while (version := server.ask("VERSION")) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    return version
