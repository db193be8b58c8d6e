"""What the documents name is there: links, problems, metrics, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from ingest_api.problems import catalogue
from pipeline.cli.app import app

PAGES = [Path("README.md"), Path("CHANGELOG.md"), *sorted(Path("docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The ids that a forge gives the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_every_problem_that_clients_meet_is_in_the_table() -> None:
    table = Path("docs/api.md").read_text().partition("## Problems")[2]
    named = set(re.findall(r"`([a-z-]+)`", table))
    assert {code for code in named if "-" in code} <= set(catalogue())
    inside = {"lease-lost"}  # between workers
    met = {code for code, kind in catalogue().items() if kind.status < 500} - inside
    assert met <= named


def test_alarms_name_metrics_that_there_are() -> None:
    named = set(re.findall(r"airlock_[a-z_]+", Path("docs/operations.md").read_text()))
    there = set(re.findall(r'"(airlock_[a-z_]+)"', Path("ingest_api/metrics.py").read_text()))
    assert len(named) > 5
    assert named <= there


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_that_are_shown_exist(page: Path) -> None:
    command = typer.main.get_command(app)
    known = set(getattr(command, "commands", {}))
    shown = re.findall(r"(?:^|`|\s|\.venv/bin/)airlock ([a-z][a-z-]+)(?=[ `\n])", "\n".join(code_of(page.read_text())))
    assert set(shown) <= known


def code_of(text: str) -> list[str]:
    """Blocks and spans of code."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [*blocks, *re.findall(r"`(airlock [^`\n]+)`", text)]
