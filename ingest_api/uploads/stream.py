"""The body of an upload, as it comes from the socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ingest_api.problems import Stalled

PATIENCE = 60.0  # seconds without a single byte, after which an upload is given up


async def unstalled(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream, given up if nothing comes for PATIENCE: a slow client is fine, a silent one is not.

    Raises:
        Stalled: half a body stays half for good.
    """
    while True:
        try:
            async with asyncio.timeout(PATIENCE):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Stalled(f"No byte came for {PATIENCE:.0f} seconds.") from None
        yield chunk
