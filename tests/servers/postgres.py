"""A real PostgreSQL in a folder of its own. Made for tests: what it writes survives kill -9, not the power."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import psycopg

from tests.servers.process import free_port, need, running

HOW = "apt-get install postgresql"
FOLDERS = tuple(str(path / "bin") for path in sorted(Path("/usr/lib/postgresql").glob("*"), reverse=True))
FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "16MB",
    "autovacuum": "off",
    "unix_socket_directories": "",
}


@dataclass(frozen=True)
class Cluster:
    """A data directory that can be started and stopped."""

    data: Path
    log: Path
    user: str
    port: int

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://{self.user}@127.0.0.1:{self.port}/{database}"

    def admin(self, statement: str) -> None:
        """Run one statement outside of any transaction, e.g. CREATE DATABASE."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=self.user, dbname="postgres", autocommit=True
        ) as db:
            db.execute(statement.encode())

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """The server runs until the block ends; SIGQUIT: it does not wait for its clients."""
        server = need("postgres", HOW, *FOLDERS)
        command = [server, "-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1"]
        for name, value in FAST.items():
            command += ["-c", f"{name}={value}"]
        with running(command, self._answers, log=self.log, user=self.user, cwd=self.data, stop_signal=3):
            yield

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.admin("SELECT 1")
            return True
        return False


@contextlib.contextmanager
def cluster(tmp: Path) -> Iterator[Cluster]:
    """A new data directory, not started. It lies outside of `tmp`, which other users cannot enter where we are root."""
    initdb = need("initdb", HOW, *FOLDERS)
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    home = Path(mkdtemp(prefix="airlock-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(home, user, user)
        data = home / "data"
        subprocess.run(
            [initdb, "-D", str(data), "-U", user, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            user=user if os.geteuid() == 0 else None,
            group=user if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            cwd=home,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        yield Cluster(data, tmp / "postgres.log", user, free_port())
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def postgres(tmp: Path) -> Iterator[str]:
    """A running server with an empty database; gives its URL."""
    with cluster(tmp) as server, server.started():
        yield server.url()
