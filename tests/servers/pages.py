"""The web pages in tests/clients/pages, from an address of their own: to a browser the API is another origin."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers.node import CLIENTS, module


class _Door(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(CLIENTS))

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def pages() -> Iterator[str]:
    """Serve them and the packages that they load, until the block ends; the origin."""
    for name in ("tus-js-client", "uppy", "uppy5"):
        module(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Door) as server:
        server.daemon_threads = True
        server.block_on_close = False  # the browser keeps its connections open
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
