"""The benchmarks still run: each once, at its smallest. How fast anything is, no test asserts."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from benchmarks import cold_start, fairness, ledger, measure, ocr, pipeline, stores, upload
from benchmarks.counting import REQUEST
from benchmarks.measure import MIB, Mark, Report
from tests.servers.process import need

SMALL = 64 << 10


def test_the_way_in() -> None:
    need("redis-server", "apt-get install redis-server")
    sizes = upload.Sizes(1, MIB, MIB, (MIB, 2 * MIB), (2, MIB), (4, SMALL))
    report = Report()
    upload.run(report, sizes)
    assert {line.number for line in report.lines} == {"1", "2", "3", "4", "5"}


def test_the_road() -> None:
    need("clamd", "apt-get install clamav-daemon")
    need("tesseract", "apt-get install tesseract-ocr")
    report = Report()
    pipeline.run(report, pipeline.Sizes(1, 4, 1))
    assert {line.number for line in report.lines} == {"6", "7"}


def test_reading() -> None:
    need("tesseract", "apt-get install tesseract-ocr")
    report = Report()
    ocr.run(report, ocr.Sizes(1, 1, 1))
    assert {line.number for line in report.lines} == {"8"}


def test_the_stores() -> None:
    need("clamd", "apt-get install clamav-daemon")
    report = Report()
    stores.run(report, stores.Sizes(1, (1, SMALL), MIB, MIB, (MIB, 2 * MIB)))
    assert {line.number for line in report.lines} == {"9", "10"}
    once = next(line for line in report.lines if line.goal.startswith("each quarantined object is fetched"))
    assert once.mark is Mark.MET  # counted, not timed


def test_the_ledger() -> None:
    report = Report()
    ledger.run(report, many=50, few=20, count=2)
    assert {line.number for line in report.lines} == {"11"}


def test_the_cold_start() -> None:
    report = Report()
    cold_start.run(report, count=1)
    assert {line.number for line in report.lines} == {"13"}


def test_fairness() -> None:
    need("redis-server", "apt-get install redis-server")
    need("clamd", "apt-get install clamav-daemon")
    report = Report()
    fairness.run(report, fairness.Sizes(60, 1, 1, unfair=0, together=False))
    assert [line.number for line in report.lines] == ["12"]
    assert report.lines[0].mark is not Mark.NONE


def test_sides_take_turns_and_the_first_changes() -> None:
    order: list[str] = []

    def side(name: str) -> measure.Run:
        def go() -> float:
            order.append(name)
            return 1.0

        return go

    assert measure.rounds({"a": side("a"), "b": side("b")}, 2) == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert order == ["a", "b", "b", "a"]


def test_the_ratio_is_of_the_rounds_not_of_the_medians() -> None:
    assert measure.ratio([1, 20, 3], [2, 10, 6]) == 0.5
    assert measure.difference([1, 20, 3], [2, 10, 6]) == -1


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [
        ("", "", 0),
        ("abc", "", 3),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("x" * 200, "y" * 190, 200),
    ],
)
def test_edits(a: str, b: str, edits: int) -> None:
    assert ocr.distance(a, b) == edits


def test_requests_are_seen_without_their_query() -> None:
    match = REQUEST.match(b"GET /quarantine/a?versionId=1 HTTP/1.1\r\nHost: x\r\n")
    assert match is not None
    assert match[2] == b"/quarantine/a?versionId=1"
    assert REQUEST.match(b"xGET /a HTTP/1.1\r\n") is None


def test_a_table_has_every_line_in_the_goals_order(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.none("12", "later", "not built")
    report.reached("4", "little memory", "1 MiB", met=True)
    report.reached("1", "fast", "0.1", met=False)
    report.aside("1", "why", "because")
    rows = report.table().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| 1", "| 1", "| 4", "| 12"]
    assert "SHORT" in rows[0]
    assert dataclasses.asdict(report.lines[1])["mark"] == "met"
    assert "little memory" in capsys.readouterr().out


def test_the_kernel_keeps_a_high_water_mark() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("Linux only")
    measure.reset_peak(os.getpid())
    assert 1 < measure.peak(os.getpid()) < 10_000
    assert measure.rss(os.getpid()) > 1
