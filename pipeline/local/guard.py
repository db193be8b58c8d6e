"""The outer process of `airlock run`: passes signals on, and leaves nothing behind however the inner one ends.

    guard ── supervisor ── redis, clamd, api, workers, beat ── their children

- The supervisor ends (also by SIGKILL): the guard is the adopted parent of all that is left, and kills it.
- The guard ends (also by SIGKILL): the kernel sends SIGTERM to the supervisor, which stops everything in order.
- Both end: the kernel kills the supervisor's children.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from pipeline.local.processes import adopt_orphans, die_with_parent, kill_descendants

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def guarded(body: Callable[[], int]) -> int:
    """Run `body` in a child and give its exit code, after every process below it is gone. Call before any thread."""
    adopt_orphans()
    guard = os.getpid()
    # Held back until there is somebody to pass them on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    child = os.fork()
    if child == 0:
        _become_supervisor(guard, body)
    for number in PASSED_ON:
        signal.signal(number, lambda received, _: _pass_on(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    while True:
        # Orphans of the supervisor end up here too and are reaped on the way.
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            break
    kill_descendants()
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _pass_on(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _become_supervisor(guard: int, body: Callable[[], int]) -> None:
    code = 70
    try:
        # A session of its own: the terminal's Ctrl-C reaches it once, through the guard, and its children not at all.
        os.setsid()
        die_with_parent(signal.SIGTERM)
        if os.getppid() != guard:
            return
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        code = body()
    except KeyboardInterrupt:
        code = 130
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:  # noqa: BLE001
        # Never fall through into the guard's code: two processes would go on with the caller's work.
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            import sys

            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
