"""The `airlock` command. Each module holds a few commands; what they need is imported when they run."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run one command. What Airlock can name ends in one sentence on standard error and a non-zero exit code."""
    from pipeline.cli.app import app
    from pipeline.errors import AirlockError

    try:
        app()
    except AirlockError as exc:
        sys.stderr.write(f"{exc.detail}\n")
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not try to flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
