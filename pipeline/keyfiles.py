"""Secrets that are made on first use and kept in files that only their owner can read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import Misconfigured


def made_once(path: Path, make: Callable[[], bytes]) -> bytes:
    """The file's content; made by `make` where there is none. Safe when several processes start at once.

    Raises:
        Misconfigured: the folder cannot be made or written.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as out:
                    out.write(make())
                    out.flush()
                    os.fsync(out.fileno())
                # A link fails if somebody was first: then theirs is the secret, whole.
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return path.read_bytes()
    except OSError as exc:
        raise Misconfigured(f"The key file {path.name} cannot be made or read: {exc.strerror}.") from exc
