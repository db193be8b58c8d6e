"""The ways in, beside what somebody would write instead: lines 1 to 5. `python -m benchmarks.upload [--quick]`."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median

from benchmarks import servers
from benchmarks.client import Connection, Target, send_file, send_many
from benchmarks.measure import MIB, Report, peak, percentile, ratio, reset_peak, rounds, rss, seconds
from benchmarks.resumable import beside_tus, send_tus_pieces
from benchmarks.servers import NotHere, Server
from pipeline.services import Services
from pipeline.storage.base import Sweepable
from tests.servers.redis import redis

BOUNDARY = "benchmark7f3a9c"
BEFORE = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()
AFTER = f"\r\n--{BOUNDARY}--\r\n".encode()


@dataclass(frozen=True)
class Sizes:
    """How much is sent."""

    rounds: int = 5
    large: int = 1 << 30
    junk: int = 256 * MIB
    memory: tuple[int, int] = (64 * MIB, 5 << 30)
    at_once: tuple[int, int] = (16, 256 * MIB)
    small: tuple[int, int] = (1000, 100 << 10)


QUICK = Sizes(3, 256 * MIB, 64 * MIB, (64 * MIB, 1 << 30), (16, 64 * MIB), (400, 100 << 10))


class Airlock:
    """The API with everything behind it, and a broom: what one round stored must not slow down the next."""

    def __init__(self, server: Server, services: Services) -> None:
        self.pid, self.target, self._services = server.pid, server.target, services

    def form(self) -> Target:
        """The same, for a form."""
        headers = {**self.target.headers, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return Target(self.target.port, self.target.path, headers)

    def raw(self) -> Target:
        """The same, for a raw body."""
        return Target(
            self.target.port,
            self.target.path,
            {**self.target.headers, "Content-Type": "application/octet-stream"},
        )

    def tus(self) -> Target:
        """The same, for tus."""
        return Target(self.target.port, "/v1/uploads/tus", {**self.target.headers, "Tus-Resumable": "1.0.0"})

    def sweep(self) -> None:
        """Remove all objects, and what is on its way to be one; their rows stay."""
        store = self._services.quarantine
        for stat in list(store.list()):
            store.delete(stat.ref)
        assert isinstance(store, Sweepable)
        store.abort_stale_uploads(timedelta(0))


@contextlib.contextmanager
def airlock(folder: Path) -> Iterator[Airlock]:
    """Airlock with local buckets, SQLite and Redis."""
    with redis(folder) as url:
        variables = servers.environment(folder, AIRLOCK_BROKER_URL=url)
        with servers.installation(variables) as services, servers.api(folder, services, variables) as server:
            yield Airlock(server, services)


def large(report: Report, folder: Path, ours: Airlock, sizes: Sizes) -> None:
    """Lines 1 to 3: one large file."""
    file = folder / "large.bin"
    _random_file(file, sizes.large)
    copy = folder / "copy.bin"

    def tee(then: str = "") -> float:
        with file.open("rb") as source:
            line = ["sh", "-c", f'tee "$0" | openssl dgst -sha256{then}', str(copy)]
            took = seconds(lambda: subprocess.run(line, stdin=source, check=True, stdout=subprocess.DEVNULL))
        copy.unlink()
        return took

    def swept(send: float) -> float:
        ours.sweep()
        return send

    with contextlib.ExitStack() as stack:
        form = stack.enter_context(servers.other("uploadfile", folder))
        sink = stack.enter_context(servers.other("sink", folder))
        as_form = Target(form.target.port, "/", {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
        sides = {
            "raw": lambda: swept(send_file(ours.raw(), file)),
            "form": lambda: swept(send_file(ours.form(), file, BEFORE, AFTER)),
            "tee": tee,
            "tee synced": lambda: tee('; sync "$0"'),
            "uploadfile": lambda: send_file(as_form, file, BEFORE, AFTER),
            "sink": lambda: send_file(sink.target, file),
        }
        took = rounds(sides, sizes.rounds)
    speed = {name: sizes.large / median(times) / 1e6 for name, times in took.items()}

    def beside(mine: str, theirs: str) -> float:
        return ratio(took[theirs], took[mine])

    found = beside("raw", "tee")
    absolute = f"{speed['raw']:.0f} against {speed['tee']:.0f} MB/s"
    report.reached("1", "raw upload with SHA-256 >= 0.75 x `tee | openssl`", f"{found:.2f} ({absolute})", found >= 0.75)
    report.aside("1", "beside the same with `sync`, as ours is durable", f"{beside('raw', 'tee synced'):.2f}")
    report.aside("1", "beside a bare ASGI sink that neither hashes nor syncs", f"{beside('raw', 'sink'):.2f}")
    found = beside("raw", "uploadfile")
    report.reached(
        "2", ">= 2.2 x FastAPI UploadFile + SHA-256", f"{found:.2f} ({speed['uploadfile']:.0f} MB/s)", found >= 2.2
    )
    found = beside("form", "uploadfile")
    report.reached(
        "3", "multipart >= 1.8 x UploadFile + SHA-256", f"{found:.2f} ({speed['form']:.0f} MB/s)", found >= 1.8
    )
    others = {
        "raw": lambda: send_file(ours.raw(), file),
        "multipart": lambda: send_file(ours.form(), file, BEFORE, AFTER),
    }
    beside_tus(report, folder, ours, file, sizes.rounds, others)
    file.unlink()


def awkward(report: Report, folder: Path, ours: Airlock, sizes: Sizes) -> None:
    """Line 3: bodies that slow form parsers down."""
    file, tiny = folder / "awkward.bin", folder / "tiny.bin"
    tiny.write_bytes(b"x" * 1000)
    for name, pattern in {"CRLF only": b"\r\n", "almost the boundary": f"\r\n--{BOUNDARY[:-1]}".encode()}.items():
        with file.open("wb") as out:
            block = pattern * (MIB // len(pattern))
            for _ in range(sizes.junk // len(block)):
                out.write(block)
        size = file.stat().st_size
        took = [send_file(ours.form(), file, BEFORE, AFTER) for _ in range(sizes.rounds)]
        ours.sweep()
        speed = size / median(took) / 1e6
        report.reached("3", f"multipart, {name}: >= 100 MB/s", f"{speed:.0f} MB/s", speed >= 100)
    _random_file(file, sizes.junk)
    for name, before, after in (
        ("preamble", b"", b"\r\n" + BEFORE + b"x" + AFTER),
        ("epilogue", BEFORE + b"x" + AFTER, b""),
    ):
        try:
            took = [send_file(ours.form(), file, before, after) for _ in range(sizes.rounds)]
            speed = sizes.junk / median(took) / 1e6
            report.reached("3", f"multipart, junk {name}: >= 100 MB/s", f"{speed:.0f} MB/s", speed >= 100)
        except (RuntimeError, OSError) as exc:
            report.reached("3", f"multipart, junk {name}: >= 100 MB/s", f"refused at once ({exc})"[:120], met=True)
        ours.sweep()
    file.unlink()


def memory(report: Report, folder: Path, ours: Airlock, sizes: Sizes) -> None:
    """Line 4: the API's high-water mark. What is sent is made as it goes: nothing of that size lies on disk twice."""
    piece = os.urandom(MIB)
    tails = {"raw": (ours.raw(), b"", b""), "multipart": (ours.form(), BEFORE, AFTER)}

    def send(way: str, size: int) -> None:
        body = itertools.repeat(piece, size // MIB)
        if way == "tus":
            send_tus_pieces(ours.tus(), body, size)
            return
        target, before, after = tails[way]
        connection = Connection(target)
        connection.send_pieces(itertools.chain([before], body, [after]), len(before) + size + len(after))
        connection.close()

    def most(way: str, size: int) -> float:
        reset_peak(ours.pid)
        send(way, size)
        found = peak(ours.pid)
        ours.sweep()
        return found

    small, big = sizes.memory
    for way in (*tails, "tus"):
        most(way, small)  # what is loaded on first use is not growth
        first, second = most(way, small), most(way, big)
        report.reached(
            "4", f"API peak for one {way} upload <= 96 MiB", f"{max(first, second):.0f} MiB", max(first, second) <= 96
        )
        label = f"its growth from {small // MIB} MiB to {big // MIB} MiB <= 8 MiB"
        report.reached("4", label, f"{second - first:+.1f} MiB", second - first <= 8)
    count, size = sizes.at_once
    idle = rss(ours.pid)
    reset_peak(ours.pid)

    def one() -> None:
        connection = Connection(ours.raw())
        connection.send_pieces(itertools.repeat(piece, size // MIB), size)
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    grown = peak(ours.pid) - idle
    ours.sweep()
    report.reached(
        "4", f"{count} uploads at once <= idle + {count} x 2 parts of 1 MiB", f"+{grown:.0f} MiB", grown <= count * 2
    )


def small(report: Report, folder: Path, ours: Airlock, sizes: Sizes) -> None:
    """Line 5: many small files, each with a row and a message."""
    count, size = sizes.small
    bodies = [os.urandom(size) for _ in range(count)]
    late: list[float] = []

    def mine(connections: int) -> float:
        took, each = send_many(ours.raw(), bodies, connections)
        if connections == 8:
            late.extend(each)
        ours.sweep()
        return took

    with servers.other("hashing-sink", folder) as bare, servers.other("durable-sink", folder) as durable:
        send_many(ours.raw(), bodies[:50], 8)
        ours.sweep()
        took = rounds(
            {
                "airlock": lambda: mine(8),
                "bare": lambda: send_many(bare.target, bodies, 8)[0],
                "durable": lambda: send_many(durable.target, bodies, 8)[0],
                "one": lambda: mine(1),
                "bare one": lambda: send_many(bare.target, bodies, 1)[0],
            },
            sizes.rounds,
        )
    found = ratio(took["bare"], took["airlock"])
    each = f"{count / median(took['airlock']):.0f} against {count / median(took['bare']):.0f} a second"
    label = "100 KiB with row and message >= 0.5 x a bare handler that writes and hashes"
    report.reached("5", label, f"{found:.2f} ({each}, 8 connections)", found >= 0.5)
    found = percentile(late, 0.99) * 1000
    report.reached(
        "5", "p99 at 8 connections <= 100 ms", f"{found:.0f} ms (median {median(late) * 1000:.1f})", found <= 100
    )
    report.aside("5", "beside the bare handler with fsync", f"{ratio(took['durable'], took['airlock']):.2f}")
    report.aside("5", "the same on one connection", f"{ratio(took['bare one'], took['one']):.2f}")


def _random_file(path: Path, size: int) -> None:
    with path.open("wb") as out:
        for _ in range(size // MIB):
            out.write(os.urandom(MIB))


def run(report: Report, sizes: Sizes) -> None:
    """All of them."""
    folder = Path(tempfile.mkdtemp(prefix="airlock-bench-"))
    try:
        with airlock(folder) as ours:
            for part in (large, awkward, memory, small):
                part(report, folder, ours, sizes)
    except NotHere as exc:
        report.none("1", "uploads", str(exc))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    import sys

    run(Report(), QUICK if "--quick" in sys.argv else Sizes())
