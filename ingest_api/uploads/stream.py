"""The body of an upload, as it comes from the socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from ingest_api.problems import Stalled, UnsupportedContent

PATIENCE = 60.0  # seconds without a single byte, after which an upload is given up


def refuse_coded(headers: Mapping[str, str]) -> None:
    """Raises UnsupportedContent unless the body is the sender's bytes as they are."""
    if (coding := headers.get("content-encoding", "identity").strip().lower()) not in {"", "identity"}:
        # Unpacked here, a small request could fill the disk; kept packed, it would not be what the sender has.
        raise UnsupportedContent(
            "Send the bytes as they are, without Content-Encoding.",
            coding=coding if coding in {"gzip", "br", "deflate", "zstd", "compress"} else "other",
            _headers={"Accept-Encoding": "identity"},
        )
    if headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
        # Its other codings would be left on the bytes, and the bytes called the file.
        raise UnsupportedContent("Of the transfer codings only chunked is taken.", coding="other")


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
