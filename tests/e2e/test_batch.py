"""`airlock batch` against a running system; and whoever works a batch off is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from pipeline.documents import Filters
from pipeline.invariants import violations
from tests import samples
from tests.servers.clamd import clamd
from tests.system import ROOT, System, system, until
from tests.world import EICAR

MANY = 40


@pytest.fixture(scope="module")
def airlock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    tmp = tmp_path_factory.mktemp("batch")
    with clamd(tmp / "clamd") as server:
        environment = {
            "AIRLOCK_BROKER_URL": request.getfixturevalue("redis_url"),
            "AIRLOCK_CLAMD_URL": server.unix,
            "AIRLOCK_BATCH_WINDOW": "16",
            "AIRLOCK_BATCH_SECONDS": "0.2",
            "AIRLOCK_RECONCILE_SECONDS": "600",  # what lies in a drop folder is the batch's to find
        }
        with system(tmp, environment) as made:
            yield made


def environment(airlock: System) -> Mapping[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AIRLOCK_API_URL": f"http://127.0.0.1:{airlock.port}",
        "AIRLOCK_API_KEY": airlock.key,
    }


COMMAND = [sys.executable, "-m", "pipeline.cli", "batch"]


def batch(airlock: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = environment(airlock)
    return subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=240, check=False)


def folder(tmp: Path, many: int, word: str) -> Path:
    made = tmp / f"folder {word}"
    for number in range(many):
        place = made / ("deep" if number % 3 == 0 else "")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"table {number}.csv").write_bytes(samples.csv(f"{word} {number}"))
    return made


def named(airlock: System, word: str) -> list[Any]:
    """The documents whose name holds the word."""
    with airlock.services.ledger.reading() as tx:
        found, _ = tx.documents(Filters(tenant="acme"), limit=10_000)
    return [document for document in found if document.name and word in document.name]


def documents(airlock: System) -> int:
    with airlock.services.ledger.reading() as tx:
        return sum(tx.counts().values())


def test_a_folder_becomes_available_and_the_same_command_again_stores_nothing_twice(
    airlock: System, tmp_path: Path
) -> None:
    made, before = folder(tmp_path, MANY, "one"), documents(airlock)
    for _ in range(2):
        done = batch(airlock, str(made), "--name", "Mai")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"completed, {MANY} of {MANY} ended" in done.stdout
        assert "available" in done.stdout
    assert documents(airlock) == before + MANY
    with airlock.client() as client:
        [found] = [each for each in client.get("/v1/batches").json()["batches"] if each.get("name") == "Mai"]
    assert found["counts"] == {"available": MANY}


def test_what_did_not_become_available_is_named_and_the_exit_code_is_1(airlock: System, tmp_path: Path) -> None:
    made = folder(tmp_path, 3, "two")
    (made / "deep" / "in\x1bvoice.txt").write_bytes(EICAR)
    (made / "empty.txt").write_bytes(b"")
    (made / "link.txt").symlink_to("/etc/passwd")
    done = batch(airlock, str(made))
    assert done.returncode == 1
    assert "deep/in?voice.txt: rejected (infected" in done.stdout
    assert "empty.txt" in done.stderr
    assert "link.txt" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "rejected" in done.stdout
    assert "refused" in done.stdout


def test_a_manifest_of_objects_is_sent_as_it_is(airlock: System, tmp_path: Path) -> None:
    keys = [f"drop/acme/three/{number}.csv" for number in range(5)]
    for key in keys:
        with airlock.services.quarantine.create(key) as writer:
            writer.write(samples.csv(key))
            writer.commit()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("key,name\n" + "".join(f"{key},three {at}.csv\n" for at, key in enumerate(keys)))
    assert batch(airlock, str(manifest)).returncode == 0
    assert len(named(airlock, "three ")) == 5
    bad = tmp_path / "bad.ndjson"
    bad.write_text(f'{{"key": "{keys[0]}"}}\n{{"key": "drop/other/x"}}\n{{}}\n')
    done = batch(airlock, str(bad))
    assert done.returncode == 1
    assert "line 3: It names an object" in done.stderr
    assert "drop/other/x: failed (object-not-found)" in done.stdout


def test_what_failed_is_tried_again_by_the_same_command(airlock: System, tmp_path: Path) -> None:
    manifest = tmp_path / "late.csv"
    manifest.write_text("key\ndrop/acme/late.csv\n")
    assert batch(airlock, str(manifest)).returncode == 1
    with airlock.services.quarantine.create("drop/acme/late.csv") as writer:
        writer.write(samples.csv("late"))
        writer.commit()
    assert batch(airlock, str(manifest)).returncode == 0


@pytest.mark.parametrize("wrong", ["no such folder", "empty", "notes.txt"])
def test_what_cannot_be_a_source_is_a_usage_error(airlock: System, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert batch(airlock, str(tmp_path / wrong)).returncode == 2


def test_a_command_that_is_killed_half_way_goes_on_where_it_was(airlock: System, tmp_path: Path) -> None:
    made, before = folder(tmp_path, MANY, "four"), documents(airlock)
    killed = subprocess.Popen(
        [*COMMAND, str(made), "--at-once", "1"],
        env=environment(airlock),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: documents(airlock) >= before + 5, "some files are sent")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert documents(airlock) < before + MANY
    assert batch(airlock, str(made)).returncode == 0
    assert documents(airlock) == before + MANY


def test_beat_and_worker_killed_in_the_middle_of_a_batch_cost_nothing(airlock: System) -> None:
    keys = [f"drop/acme/five/five-{number}.csv" for number in range(120)]
    for key in keys:
        with airlock.services.quarantine.create(key) as writer:
            writer.write(samples.csv(key))
            writer.commit()
    with airlock.client() as client:
        made = client.post("/v1/batches", json={"objects": keys}).raise_for_status().json()
        fired = 0

        def stand() -> dict[str, Any]:
            found: dict[str, Any] = client.get(made["links"]["self"]).json()
            return found

        for part, arguments, at in (("beat", (), 20), ("worker", ("--concurrency=2",), 50), ("beat", (), 80)):
            until(lambda at=at: stand()["ended"] >= at, f"{at} have ended")  # type: ignore[misc]
            assert stand()["state"] == "running"
            airlock.kill(part)
            airlock.start(part, *arguments)
            fired += 1
        until(lambda: stand()["state"] == "completed", "the batch has ended")
        assert (fired, stand()["counts"]) == (3, {"available": len(keys)})
    assert len(named(airlock, "five-")) == len(keys)
    with airlock.services.ledger.reading() as tx:
        assert len(tx.batch_events(UUID(made["id"]))) == 1
    until(lambda: not violations(airlock.services, at_rest=True), "the invariants hold at rest")
