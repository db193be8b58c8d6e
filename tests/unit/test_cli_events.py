"""`airlock dead-letters` and `airlock events`: what they show, and that what was mended is taken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.api_keys import make_key
from pipeline.cli.app import app
from pipeline.cli.checks import Finding, examine
from pipeline.errors import AirlockError, BadRequest, Misconfigured, NotFound
from pipeline.events import gcs, s3
from pipeline.events.intake import take
from pipeline.local.places import prepare
from pipeline.local.plan import make_plan
from pipeline.services import Services
from pipeline.settings import Settings
from pipeline.storage.base import Provisionable
from tests.messages import gcs_attributes, s3_event

KEY = "drop/acme/a.csv"


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    for name in list(os.environ):
        if name.startswith("AIRLOCK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AIRLOCK_VAR_DIR", str(tmp_path))
    # Nobody is rung: the outbox keeps what is taken here.
    monkeypatch.setenv("AIRLOCK_BROKER_URL", "memory://")
    made = Services(Settings())
    made.ledger.upgrade()
    assert isinstance(made.quarantine, Provisionable)
    made.quarantine.ensure_bucket()
    path = tmp_path / "buckets" / "quarantine" / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(b"some,text\n")
    yield made
    made.close()


def run(*arguments: str) -> Result:
    """The command, whose errors are raised."""
    result = CliRunner().invoke(app, ["dead-letters", *arguments])
    if isinstance(result.exception, AirlockError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def buried(services: Services) -> dict[str, str]:
    """The beginning of each id, by source."""
    with services.ledger.reading() as tx:
        return {letter.source: letter.id[:12] for letter in tx.dead_letters(100)}


def test_nothing_is_said_in_words(services: Services) -> None:
    assert run("list").output == "There are no dead letters.\n"
    assert run("retry", "--all").exit_code == 0


def test_each_is_listed_with_its_count_reason_and_text_and_steers_no_terminal(services: Services) -> None:
    for _ in range(3):
        take(b'{"hello":\n "\x1b[31m' + b"w" * 300 + b'"}', {}, s3.read, services, source="sqs/landed")
    take(b"", gcs_attributes("x" * 300, "k"), gcs.read, services, source="pubsub/landed")
    output = run("list").output
    assert "    3 x  sqs/landed" in output
    assert "The message is no" in output or "The message is not JSON" in output
    assert '{"hello": "?[31mwww' in output
    assert '"bucketId"' in output
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) < 120
    assert run("list", "--limit", "1").output.count(" x  ") == 1
    shown = run("show", buried(services)["pubsub/landed"]).output
    assert "eventType: OBJECT_FINALIZE" in shown
    assert "came    1 times" in shown
    assert "w" * 300 in run("show", buried(services)["sqs/landed"][:6]).output


def test_what_was_mended_is_taken_and_the_rest_stays(services: Services) -> None:
    take(s3_event("quarantine", KEY), {}, s3.read, services, source="sqs/landed")
    take(b"nonsense", {}, s3.read, services, source="webhook")
    first = run("retry", "--all")
    assert first.exit_code == 1
    assert first.output.count("not taken: ") == 2
    make_key(services.ledger, "acme")
    assert run("retry", buried(services)["sqs/landed"]).output.endswith("  taken\n")
    assert list(buried(services)) == ["webhook"]
    assert run("forget", buried(services)["webhook"]).output.endswith("  forgotten\n")
    assert buried(services) == {}


def test_what_cannot_be_meant(services: Services) -> None:
    for arguments in (["show", "../x"], ["forget", ""], ["retry"], ["retry", "abcd", "--all"]):
        with pytest.raises(BadRequest):
            run(*arguments)
    with pytest.raises(NotFound):
        run("show", "abcdef")


def test_a_database_that_is_not_up_to_date(services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRLOCK_VAR_DIR", str(tmp_path / "new"))
    with pytest.raises(Misconfigured, match="airlock migrate"):
        run("list")


QUEUE = "sqs+http://127.0.0.1:1/1/landed?region=x"


def test_the_doctor_names_the_queues_and_what_could_not_be_taken(services: Services) -> None:
    def found(**changes: Any) -> Finding:
        settings = Settings(**changes)
        return next(each for each in examine(settings) if each.part == "events")

    assert (found().summary, found().warnings) == ("no queue is read", ())
    take(b"nonsense", {}, s3.read, services, source="webhook")
    both = found(event_sources=f"{QUEUE},pubsub://acme-prod/landed")
    assert both.summary == "from pubsub/landed, sqs/landed"
    assert both.ok
    assert both.warnings == ("1 messages could not be taken: airlock dead-letters list",)
    assert not found(event_sources="kafka://here").ok


def test_airlock_run_receives_too(services: Services, tmp_path: Path) -> None:
    places = prepare(tmp_path / "var")
    given = {"var_dir": tmp_path / "var", "port": 0, "queue": "inline"}
    plan = make_plan(Settings(event_sources=QUEUE, **given), places)  # type: ignore[arg-type]
    assert [part.name for part in plan.own] == ["api", "events", "beat"]
    with pytest.raises(Misconfigured, match="AIRLOCK_EVENT_SOURCES"):
        make_plan(Settings(event_sources="kafka://here", **given), places)  # type: ignore[arg-type]
    places.close()


def test_receiving_from_nowhere_ends_in_a_sentence(services: Services) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "events"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "AIRLOCK_EVENT_SOURCES names no queue: there is nothing to receive.\n"
