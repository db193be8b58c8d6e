"""A manifest of any length, and its results, in flat memory: the API's own, as the kernel counts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.measure import peak, reset_peak
from tests.system import System

MIB = 8.0  # of growth that is none


@pytest.fixture
def airlock(tmp_path: Path) -> Iterator[System]:
    """An API alone: nobody works the batches off."""
    made = System(tmp_path, {"AIRLOCK_BROKER_URL": "redis://127.0.0.1:1/0"})
    try:
        made.start("serve")
        yield made
    finally:
        made.stop()


def manifest(lines: int, kind: str) -> Iterator[bytes]:
    """Every tenth line cannot be an item."""
    if kind == "text/csv":
        yield b"key,name,sha256\n"
    for at in range(0, lines, 500):
        numbers = range(at, min(at + 500, lines))
        if kind == "text/csv":
            made = [f"drop/acme/{n}.pdf,Invoice {n}.pdf,{'x' if n % 10 == 0 else ''}" for n in numbers]
        else:
            made = [f'{{"key": "drop/acme/{n}.pdf", "name": {1 if n % 10 == 0 else chr(34) * 2}}}' for n in numbers]
        yield "\n".join(made).encode() + b"\n"


def send(client: httpx.Client, lines: int, kind: str) -> dict[str, Any]:
    answer = client.post("/v1/batches", content=manifest(lines, kind), headers={"Content-Type": kind}, timeout=600)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert found["counts"] == {"waiting": lines - lines // 10, "invalid": lines // 10}
    assert len(found["problems"]) == min(100, lines // 10)
    return found


def read(client: httpx.Client, batch: dict[str, Any], shape: str) -> int:
    with client.stream("GET", batch["links"]["results"], params={"format": shape}, timeout=600) as answer:
        return sum(1 for _ in answer.iter_lines())


@pytest.mark.parametrize("lines", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_long_manifest_takes_the_memory_of_a_short_one(airlock: System, lines: int) -> None:
    pid = airlock.processes["serve"].pid
    with airlock.client() as client:
        for kind in ("text/csv", "application/x-ndjson"):
            few = send(client, 1000, kind)
            for shape in ("csv", "ndjson"):
                read(client, few, shape)
            reset_peak(pid)
            many = send(client, 1000, kind)
            usual = peak(pid)
            reset_peak(pid)
            many = send(client, lines, kind)
            assert peak(pid) < usual + MIB, kind
            for shape, header in (("csv", 1), ("ndjson", 0)):
                reset_peak(pid)
                assert read(client, many, shape) == lines + header
                assert peak(pid) < usual + MIB, shape
