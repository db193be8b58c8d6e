"""`airlock run`."""

from __future__ import annotations

import sys


def run() -> None:
    """Start everything on this machine, in the foreground: what the environment names is used, the rest is started."""
    from pipeline.cli.console import load_settings
    from pipeline.local.guard import guarded

    settings = load_settings()

    def body() -> int:
        from pipeline.local.run import run as run_here

        return run_here(settings)

    sys.exit(guarded(body))
