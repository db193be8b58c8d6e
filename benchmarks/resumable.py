"""The ways in beside @tus/server on the same machine, and tus beside itself: line 2. Part of `benchmarks.upload`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from benchmarks import servers
from benchmarks.client import Connection, Target
from benchmarks.measure import MIB, Report, ratio, rounds, seconds
from benchmarks.servers import NotHere

if TYPE_CHECKING:
    from benchmarks.upload import Airlock

CHUNK = 8 * MIB  # what Uppy and tus-js-client are usually told, if they are told anything
PATCH = {"Content-Type": "application/offset+octet-stream"}


def send_tus(target: Target, path: Path, chunk: int | None = None) -> None:
    """Send a file by tus on one connection, in one request or in chunks of so many bytes."""
    size = path.stat().st_size
    with _created(target, size) as (connection, upload):
        for at in range(0, size, chunk or size):
            connection.send_file(path, at=at, count=min(chunk or size, size - at), target=_patch(upload, at))


def send_tus_pieces(target: Target, pieces: Iterable[bytes], size: int) -> None:
    """Send pieces, which are `size` bytes together, by tus in one request."""
    with _created(target, size) as (connection, upload):
        connection.send_pieces(pieces, size, target=_patch(upload, 0))


@contextlib.contextmanager
def _created(target: Target, size: int) -> Iterator[tuple[Connection, Target]]:
    connection = Connection(target)
    try:
        where = connection.ask({"Upload-Length": str(size)}, target)[b"location"].decode()
        yield connection, Target(target.port, urlsplit(where).path, target.headers, "PATCH")
    finally:
        connection.close()


def _patch(upload: Target, at: int) -> Target:
    return Target(upload.port, upload.path, {**upload.headers, **PATCH, "Upload-Offset": str(at)}, upload.method)


def beside_tus(
    report: Report, folder: Path, ours: Airlock, file: Path, count: int, others: Mapping[str, Callable[[], object]]
) -> None:
    """Line 2: `others` (ways of ours that are not tus) and tus, beside @tus/server, which neither hashes nor syncs."""

    def swept(send: Callable[[], object]) -> float:
        took = seconds(send)
        ours.sweep()
        return took

    try:
        with servers.tus(folder) as theirs:

            def cleared(chunk: int | None) -> float:
                took = seconds(lambda: send_tus(theirs.target, file, chunk))
                for left in (folder / "tus").iterdir():
                    left.unlink()
                return took

            took = rounds(
                {
                    **{name: lambda send=send: swept(send) for name, send in others.items()},  # type: ignore[misc]
                    "tus": lambda: swept(lambda: send_tus(ours.tus(), file)),
                    "tus, chunks": lambda: swept(lambda: send_tus(ours.tus(), file, CHUNK)),
                    "@tus/server": lambda: cleared(None),
                    "@tus/server, chunks": lambda: cleared(CHUNK),
                },
                count,
            )
    except NotHere as exc:
        report.none("2", ">= 1.0 x @tus/server", str(exc))
        return
    size = file.stat().st_size
    speed = {name: size / median(times) / 1e6 for name, times in took.items()}
    goals = dict.fromkeys((*others, "tus"), "@tus/server") | {"tus, chunks": "@tus/server, chunks"}
    for way, beside in goals.items():
        found = ratio(took[beside], took[way])
        label = f"{way}{' of 8 MiB' if way.endswith('chunks') else ''} >= 1.0 x @tus/server the same way"
        label = label if way.startswith("tus") else f"{way} with SHA-256 >= 1.0 x @tus/server, which hashes nothing"
        absolute = f"{speed[way]:.0f} against {speed[beside]:.0f} MB/s"
        report.reached("2", label, f"{found:.2f} ({absolute})", found >= 1)
