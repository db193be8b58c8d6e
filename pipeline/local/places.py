"""Where `airlock run` keeps things: one folder for what must last, a short one for sockets."""

from __future__ import annotations

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

    def close(self) -> None:
        """Give back what does not have to last."""
        if self.sockets != self.var / "run":
            shutil.rmtree(self.sockets, ignore_errors=True)
        self.lock.close()


def prepare(var: Path, *, patience: float = 15.0) -> Places:
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
    _take(lock, var, patience)
    try:
        for folder in (var / "redis", var / "clamav" / "db", var / "buckets", var / "keys", var / "spool"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied", str(folder))
        return Places(var, _socket_folder(var), lock)
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
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # One that was killed a moment ago may still be stopping what it started.
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            lock.seek(0)
            raise Misconfigured(
                f"Airlock already runs in {var} (process {lock.read().strip() or 'unknown'}): stop it, "
                "or name another folder in AIRLOCK_VAR_DIR."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        return


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
