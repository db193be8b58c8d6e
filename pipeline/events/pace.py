"""How long to wait when something is away: longer each time, a little at random, and at once again when it is back."""

from __future__ import annotations

import random
import threading

from pipeline.settings import Settings

LONGEST = 60.0  # seconds: a queue that is back is not left alone for longer than that


class Pace:
    """Shared by the threads of one consumer."""

    def __init__(self, settings: Settings) -> None:
        self._base = settings.retry_base_seconds
        self._cap = min(settings.retry_cap_seconds, LONGEST)
        self._failures = 0
        self._lock = threading.Lock()

    def failed(self) -> float:
        """Something failed: how many seconds to wait now."""
        with self._lock:
            self._failures += 1
            longest: float = min(self._cap, self._base * 2 ** min(self._failures - 1, 20))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - so that many consumers do not come back as one

    def worked(self) -> None:
        """Something worked."""
        with self._lock:
            self._failures = 0
