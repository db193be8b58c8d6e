"""What one API process holds: the services, its threads, its caches. Made in the app's lifespan, never at import."""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from fastapi import Request

from pipeline.services import Services

if TYPE_CHECKING:
    from ingest_api.auth import KeyCache
    from ingest_api.batch_events import BatchWatcher
    from ingest_api.events import Watcher
    from ingest_api.health import Health
    from ingest_api.metrics import Metrics
    from ingest_api.oidc import PushTokens
    from ingest_api.uploads.recorder import Recorder
    from ingest_api.uploads.tus_append import Holdings

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Where the sync ports are called. A thread is held for one piece of work, never while a client is waited for.

    Pools apart, so that a store that hangs cannot keep the ledger from answering, nor either the hashing; and whoever
    works on documents here (AIRLOCK_QUEUE) takes no thread from those who send and fetch them.
    """

    def __init__(self) -> None:
        self._bytes = ThreadPoolExecutor(32, "bytes")
        self._rows = ThreadPoolExecutor(16, "rows")
        self._hashing = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "hash")
        self._flow = ThreadPoolExecutor(16, "flow")

    def bytes(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run what talks to a store."""
        return _submit(self._bytes, call, *args, **kwargs)

    def rows(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run what talks to the ledger only."""
        return _submit(self._rows, call, *args, **kwargs)

    def hashing(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run what only computes, with the interpreter's lock released."""
        return _submit(self._hashing, call, *args, **kwargs)

    def flow(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run what takes documents on, for minutes perhaps."""
        return _submit(self._flow, call, *args, **kwargs)

    def close(self) -> None:
        """Take no more work; what runs is left to finish."""
        for pool in (self._bytes, self._rows, self._hashing, self._flow):
            pool.shutdown(wait=False, cancel_futures=True)


def _submit(pool: ThreadPoolExecutor, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    # The context goes along: it carries the correlation id into the thread's log lines.
    context = contextvars.copy_context()

    def run() -> T:
        return context.run(call, *args, **kwargs)

    return asyncio.get_running_loop().run_in_executor(pool, run)


class Web:
    """One API process."""

    def __init__(self, services: Services) -> None:
        from ingest_api.auth import KeyCache
        from ingest_api.batch_events import BatchWatcher
        from ingest_api.events import Watcher
        from ingest_api.health import Health
        from ingest_api.metrics import Metrics
        from ingest_api.oidc import PushTokens
        from ingest_api.uploads.recorder import Recorder
        from ingest_api.uploads.tus_append import Holdings

        self.services = services
        self.threads = Threads()
        self.recorder: Recorder = Recorder(services)
        self.keys: KeyCache = KeyCache(services)
        self.push_tokens: PushTokens = PushTokens(services.settings, self.threads)
        self.metrics: Metrics = Metrics()
        self.health: Health = Health(services, self.threads)
        self.watcher: Watcher = Watcher(services, self.threads)
        self.batch_watcher: BatchWatcher = BatchWatcher(services, self.threads)
        self.holdings: Holdings = Holdings(services)

    async def close(self) -> None:
        """Keep what uploads have received, end the watcher, let go of the threads. The services are closed by whoever
        made them."""
        await self.holdings.close()
        await self.watcher.close()
        await self.batch_watcher.close()
        self.threads.close()


def web_of(request: Request) -> Web:
    """The process that this request came to."""
    state: Any = request.app.state
    return cast("Web", state.web)
