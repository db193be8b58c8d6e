"""A real MariaDB in a folder of its own. Made for tests: what it writes survives kill -9, not the power."""

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

import pymysql

from tests.servers.process import free_port, need, running

HOW = "apt-get install mariadb-server"
FAST = (
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-doublewrite=0",
    "--innodb-flush-method=nosync",
    "--innodb-log-file-size=16M",
    "--innodb-buffer-pool-size=32M",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--performance-schema=off",
    "--max-connections=100",
)


@dataclass(frozen=True)
class Installation:
    """A data directory that can be started and stopped."""

    home: Path
    log: Path
    user: str
    port: int

    def url(self, database: str = "airlock") -> str:
        return f"mysql+pymysql://airlock:airlock@127.0.0.1:{self.port}/{database}"

    def admin(self, statement: str) -> None:
        """Run one statement, e.g. CREATE DATABASE."""
        with (
            pymysql.connect(
                host="127.0.0.1", port=self.port, user="airlock", password="airlock", autocommit=True
            ) as db,
            db.cursor() as cursor,
        ):
            cursor.execute(statement)

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """The server runs until the block ends; SIGKILL: it does not wait for its clients."""
        server = need("mariadbd", HOW)
        command = [server, "--no-defaults", f"--datadir={self.home}/data", f"--socket={self.home}/s"]
        command += [f"--port={self.port}", "--bind-address=127.0.0.1", f"--pid-file={self.home}/pid", *FAST]
        command += [f"--init-file={self.home}/init.sql"]
        with running(command, self._answers, log=self.log, user=self.user, cwd=self.home, stop_signal=9):
            yield

    def _answers(self) -> bool:
        with contextlib.suppress(pymysql.err.OperationalError):
            self.admin("USE airlock")
            return True
        return False


@contextlib.contextmanager
def installation(tmp: Path) -> Iterator[Installation]:
    """A new data directory, not started. It lies outside of `tmp`, which other users cannot enter where we are root."""
    install = need("mariadb-install-db", HOW)
    user = "mysql" if os.geteuid() == 0 else getpass.getuser()
    home = Path(mkdtemp(prefix="airlock-db-"))
    try:
        (home / "init.sql").write_text(
            "CREATE DATABASE IF NOT EXISTS airlock;\n"
            "CREATE USER IF NOT EXISTS airlock@'127.0.0.1' IDENTIFIED BY 'airlock';\n"
            "GRANT ALL ON *.* TO airlock@'127.0.0.1';\n"
        )
        if os.geteuid() == 0:
            shutil.chown(home, user, user)
        subprocess.run(
            [
                install,
                "--no-defaults",
                f"--datadir={home}/data",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *FAST,
            ],
            user=user if os.geteuid() == 0 else None,
            group=user if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            cwd=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        yield Installation(home, tmp / "mariadb.log", user, free_port())
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def mariadb(tmp: Path) -> Iterator[str]:
    """A running server with an empty database; gives its URL."""
    with installation(tmp) as server, server.started():
        yield server.url()
