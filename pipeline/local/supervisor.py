"""Keeps a handful of processes running in the foreground: one log, restarts, and an end in order. One thread."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import Misconfigured
from pipeline.local.children import Child, Part

RESTARTS = 5  # so many within WINDOW seconds, and it is not an accident any more
WINDOW = 60.0
GRACE = 8.0  # seconds that a process gets to finish what it has in hand; a lease covers what it does not
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Stopped(Exception):
    """It was told to stop, while it waited for something."""


class Supervisor:
    """Runs parts until a signal comes. Use in the main thread, in a `with` block: it stops what it started."""

    def __init__(self, show: Callable[[str, str], None], stopping: Callable[[], None] = lambda: None) -> None:
        """`show(name, line)` writes the log; `stopping` is called once the end has begun."""
        self._show = show
        self._stopping = stopping
        self._children: dict[str, Child] = {}
        self._parts: dict[str, Part] = {}
        self._falls: defaultdict[str, list[float]] = defaultdict(list)
        self._again: dict[str, float] = {}
        self._alarms: list[tuple[float, Callable[[], None]]] = []
        self._finished: dict[str, Callable[[int], None]] = {}
        self._selector = selectors.DefaultSelector()
        self._before: dict[int, Any] = {}
        self._asked = 0

    def __enter__(self) -> Supervisor:
        # Signals arrive as bytes in a pipe, so that the loop wakes for them and nothing else runs in between.
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        for number in (*ENDINGS, signal.SIGCHLD):
            self._before[number] = signal.signal(number, self._ask if number in ENDINGS else lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._woken)
        os.close(self._waker)

    def start(self, part: Part, finished: Callable[[int], None] | None = None) -> None:
        """Start one part. Raises Misconfigured if its program cannot be run."""
        try:
            child = Child(part, self._show)
        except OSError as exc:
            raise Misconfigured(f"{part.command[0]} cannot be run: {exc.strerror}. Run `make setup`.") from exc
        self._parts[part.name] = part
        self._children[part.name] = child
        if finished is not None:
            self._finished[part.name] = finished
        self._selector.register(child.output, selectors.EVENT_READ, child)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Have the loop call something, once."""
        self._alarms.append((time.monotonic() + seconds, call))

    def wait_for(self, what: str, ready: Callable[[], bool], patience: float) -> bool:
        """Go on until `ready`; False after `patience` seconds. Raises Stopped, or Misconfigured when a part falls."""
        deadline = time.monotonic() + patience
        while not ready():
            if time.monotonic() > deadline:
                self._show("airlock", f"{what} did not become ready within {patience:.0f} seconds.")
                return False
            self._turn(0.05)
        return True

    def run(self) -> None:
        """Go on until a signal comes. Raises Misconfigured when a part cannot be kept running."""
        try:
            while True:
                self._turn(1.0)
        except Stopped:
            return

    def stop(self) -> None:
        """End all parts in the opposite order of their start, those that others lean on last. Idempotent."""
        self._again.clear()
        self._alarms.clear()
        if self._children:
            self._stopping()
        asked = self._asked
        # What works is ended before what it works with: a worker hands its message back to a living broker.
        leaning = [child for child in self._children.values() if child.part.ready is None]
        leaned_on = [child for child in self._children.values() if child.part.ready is not None]
        for wave in (leaning, leaned_on):
            for child in reversed(wave):
                child.tell(signal.SIGTERM)
            deadline = time.monotonic() + GRACE
            while any(child.process.poll() is None for child in wave):
                # Asked once more while stopping: somebody is in a hurry.
                if time.monotonic() > deadline or self._asked > max(asked, 1):
                    break
                self._read(0.05)
            for child in wave:
                self._drop(child)

    def _turn(self, timeout: float) -> None:
        if self._asked:
            raise Stopped
        now = time.monotonic()
        due = [at for at in (*self._again.values(), *(at for at, _ in self._alarms)) if at - now < timeout]
        self._read(max(0.0, min([timeout, *(at - now for at in due)])))
        if self._asked:
            raise Stopped
        self._reap()
        now = time.monotonic()
        for name in [name for name, at in self._again.items() if at <= now]:
            del self._again[name]
            self.start(self._parts[name])
        ripe = [call for at, call in self._alarms if at <= now]
        self._alarms = [(at, call) for at, call in self._alarms if at > now]
        for call in ripe:
            call()

    def _read(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                os.read(self._woken, 4096)
            elif key.data.read() is False:
                self._selector.unregister(key.fd)

    def _reap(self) -> None:
        for child in list(self._children.values()):
            code = child.process.poll()
            if code is None:
                continue
            self._drop(child)
            part = child.part
            if part.once:
                if call := self._finished.pop(part.name, None):
                    call(code)
                continue
            self._fell(part, code, child.tail)

    def _fell(self, part: Part, code: int, tail: Sequence[str]) -> None:
        """A part ended by itself: start it again, unless it keeps falling."""
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        now = time.monotonic()
        falls = self._falls[part.name] = [at for at in self._falls[part.name] if now - at < WINDOW] + [now]
        if part.quiet and tail:
            self._show(part.name, tail[-1])
        if len(falls) >= RESTARTS:
            last = f" Its last words: {tail[-1]}" if tail else ""
            raise Misconfigured(f"{part.name} does not stay up ({how}).{last}")
        delay = 0.5 * 2 ** (len(falls) - 1)
        self._show("airlock", f"{part.name} ended ({how}); it starts again in {delay:g} s.")
        self._again[part.name] = now + delay

    def _drop(self, child: Child) -> None:
        """Forget a child that is gone, or has to be; show what it still had to say."""
        child.kill()
        child.process.wait()
        while child.read():
            pass
        if child.output in self._selector.get_map():
            self._selector.unregister(child.output)
        child.close()
        self._children.pop(child.part.name, None)

    def _ask(self, *_: object) -> None:
        self._asked += 1
