"""Where `airlock run` keeps things: one folder for what must last, a short one for sockets."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import Misconfigured

STOPPING = "stopping"
SOCKET_PATH_BYTES = 107  # sun_path, without its final zero


@dataclass(frozen=True, slots=True)
class Places:
    """The folders, made and writable. Holding `lock` keeps a second `airlock run` out of `var`."""

    var: Path
    sockets: Path
    lock: IO[str]

    @property
    def redis(self) -> Path:
        """Redis' append-only file."""
        return self.var / "redis"

    @property
    def clamav(self) -> Path:
        """clamd's configuration, log and signatures."""
        return self.var / "clamav"

    def stopping(self) -> None:
        """Let whoever wants to start here know that waiting is worth it."""
        _write(self.lock, STOPPING)

    def close(self) -> None:
        """Give back what does not have to last."""
        if self.sockets != self.var / "run":
            shutil.rmtree(self.sockets, ignore_errors=True)
        self.lock.close()


def prepare(var: Path, *, patience: float = 20.0) -> Places:
    """Make the folders.

    Raises:
        Misconfigured: a folder cannot be made or written, or another `airlock run` holds it.
    """
    var = var.absolute()
    try:
        var.mkdir(parents=True, exist_ok=True)
        lock = (var / "run.lock").open("a+")
    except OSError as exc:
        raise Misconfigured(
            f"The folder {var} cannot be written ({exc.strerror}): give yourself access to it, "
            "or name another one in AIRLOCK_VAR_DIR."
        ) from exc
    try:
        _take(lock, var, patience)
        return Places(var, _folders(var), lock)
    except BaseException:
        lock.close()
        raise


def _folders(var: Path) -> Path:
    """Make what is kept, and give the folder of the sockets."""
    try:
        for folder in (var / "redis", var / "clamav" / "db", var / "buckets", var / "keys", var / "spool"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return _socket_folder(var)
    except OSError as exc:
        raise Misconfigured(
            f"The folder {exc.filename} cannot be written ({exc.strerror}): give yourself access to it, "
            "or name another place in AIRLOCK_VAR_DIR."
        ) from exc


def is_held(var: Path) -> bool:
    """Whether an `airlock run` runs in this folder."""
    try:
        with (var / "run.lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _take(lock: IO[str], var: Path, patience: float) -> None:
    now = time.monotonic()
    # One whose terminal was closed a moment ago needs some seconds to stop what it started, and says so.
    shortly, deadline = now + 1.0, now + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            if time.monotonic() < (deadline if holder == STOPPING else shortly):
                time.sleep(0.1)
                continue
            raise Misconfigured(
                f"Airlock already runs in {var} (process {holder or 'unknown'}): stop it, "
                "or name another folder in AIRLOCK_VAR_DIR."
            ) from None
        _write(lock, str(os.getpid()))
        return


def _write(lock: IO[str], text: str) -> None:
    lock.seek(0)
    lock.truncate(0)
    lock.write(f"{text}\n")
    lock.flush()


def _socket_folder(var: Path) -> Path:
    folder = var / "run"
    if len(os.fsencode(folder / "clamd.sock")) <= SOCKET_PATH_BYTES:
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder
    # Too deep for a socket's name. The same name every time, so that a killed run leaves at most one of it.
    digest = hashlib.sha256(os.fsencode(var)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"airlock-{os.geteuid()}-{digest}"
    folder.mkdir(exist_ok=True, mode=0o700)
    found = folder.lstat()
    # The temporary folder belongs to everybody: somebody else may have made ours first.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Misconfigured(f"{folder} is not yours alone: remove it, or set TMPDIR to another place.")
    return folder
