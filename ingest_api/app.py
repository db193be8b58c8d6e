"""The application, as servers and platforms load it: `ingest_api.app:create_app`.

What it is made of is loaded when it is made (assembly.py), and without the garbage collector: while modules are loaded
everything stays, and the collector would go through all of it again and again. Nor does it ever again, not even at the
end of the process: what was loaded is frozen. Together that is a third of a cold start.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipeline.services import Services
    from pipeline.settings import Settings


def create_app(settings: Settings | None = None, *, services: Services | None = None) -> FastAPI:
    """The ASGI application.

    `services` is for tests and embedders, who then close them themselves.
    """
    with _uncollected():
        from ingest_api.assembly import assemble

        return assemble(settings, services)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    loaded, collected = "ingest_api.assembly" in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not loaded:
            gc.freeze()  # once: what is made later is not the code
        if collected:
            gc.enable()
