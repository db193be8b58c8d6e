"""Any ASGI application behind a real uvicorn, with our protocol class, in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from ingest_api.wire import BoundedHttp


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Its address, until the block ends."""
    config = uvicorn.Config(app, loop="uvloop", http=BoundedHttp, log_config=None, access_log=False)
    server, started = uvicorn.Server(config), threading.Event()
    startup = server.startup

    async def tell(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = tell  # type: ignore[method-assign]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), name="uvicorn")
        thread.start()
        assert started.wait(60)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
