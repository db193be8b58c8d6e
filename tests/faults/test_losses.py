"""Two that do the same at once, and faults in between: nothing may be lost, doubled, left lying or stand in the way."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from pipeline import hand as hands
from pipeline.documents import Lane
from pipeline.errors import QueueUnavailable
from pipeline.flow import backoff
from pipeline.invariants import violations
from pipeline.outbox import Announcer, relay
from pipeline.settings import Settings
from pipeline.states import Reason, State
from pipeline.sweeper import reconcile
from scanners.base import Engine, Fitness, Sample, ScannerError, ScannerUnavailable
from tests.world import World, worlds


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path, orphan_after_seconds=1e-9, requeue_after_seconds=1e-9)


class Reader:
    """A recognizer that says what the test says."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.before: Callable[[], None] = lambda: None

    def reads(self, _kind: str) -> bool:
        return True

    def needs_ocr_lane(self, _kind: str) -> bool:
        return True

    def recognize(self, _sample: Sample, _kind: str, into: Path) -> SimpleNamespace:
        if not self.texts:
            raise ScannerError("it cannot be read")
        made = into / "text"
        made.write_text(self.texts.pop(0))
        self.before()
        return SimpleNamespace(
            text=made, pdf=None, text_length=made.stat().st_size, pages=(1,), complete=True, problem=None
        )


class Killed(BaseException):
    """The process is gone."""


def die() -> None:
    raise Killed


def killed_after_keeping_its_text(world: World, monkeypatch: pytest.MonkeyPatch, document_id: UUID) -> None:
    """Leave a text in quarantine that no row names."""
    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("pipeline.steps.recognize"), "_keep", killed_after())
        with pytest.raises(Killed):
            world.run(document_id)
    world.hurry(document_id)
    assert any(key.endswith("/text") for key in world.quarantined())


def killed_after() -> Callable[..., Any]:
    _keep = importlib.import_module("pipeline.steps.recognize")._keep

    def keep(*args: Any) -> Any:
        _keep(*args)
        raise Killed

    return keep


def test_a_text_that_its_attempt_left_behind_goes_with_the_rest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.place(recognizer=Reader("left behind"))
    document_id = world.land()
    killed_after_keeping_its_text(world, monkeypatch, document_id)
    assert world.run(document_id) is State.AVAILABLE  # this time it could not be read
    assert world.document(document_id).parts == ()
    reconcile(world.services)
    assert world.quarantined() == []


@pytest.mark.parametrize("second", ["left behind", "read otherwise"])
def test_a_text_of_an_earlier_attempt_is_used_or_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    world.place(recognizer=Reader("left behind", second))
    document_id = world.land()
    killed_after_keeping_its_text(world, monkeypatch, document_id)
    assert world.run(document_id) is State.AVAILABLE
    assert second.encode() in world.served().values()
    assert violations(world.services, at_rest=True) == []


@pytest.mark.parametrize("second", ["the same", "read otherwise"])
def test_a_superseded_reader_takes_nothing_from_the_one_that_took_over(world: World, second: str) -> None:
    reader = Reader("the same", second)
    world.place(recognizer=reader)
    document_id = world.land()

    def overtaken() -> None:
        reader.before = lambda: None
        world.hurry(document_id)
        # The other one keeps its text, settles, and hands over: from here on the ledger names that text.
        world.services.__dict__["settings"] = world.services.settings.model_copy(update={"lanes": frozenset(Lane)})
        promote = world.services.serving.copy
        world.services.serving.copy = lambda *_, **__: die()  # type: ignore[method-assign,assignment]
        try:
            with pytest.raises(Killed):
                world.run(document_id)
        finally:
            world.services.serving.copy = promote  # type: ignore[method-assign]
        assert world.document(document_id).state is State.APPROVED

    reader.before = overtaken
    world.run(document_id)
    world.hurry(document_id)
    assert world.run(document_id) is State.AVAILABLE
    assert second.encode() in world.served().values()
    assert violations(world.services, at_rest=True) == []


def test_a_document_that_has_waited_long_is_rung_for_when_its_time_comes(world: World) -> None:
    document_id = world.land()
    entered_an_hour_ago(world, document_id)
    world.clamav.fit = False
    world.run(document_id)
    [(_, _, delay)] = world.rings.rung
    assert 0 < delay <= world.services.settings.retry_cap_seconds


def test_a_document_that_is_handed_over_late_is_rung_for_at_once(tmp_path: Path) -> None:
    for world in worlds(tmp_path, lanes="inspect"):
        world.place(recognizer=Reader("text"))
        document_id = world.land()
        world.run(document_id)
        entered_an_hour_ago(world, document_id)
        world.run(document_id)
        assert [(lane, delay) for _, lane, delay in world.rings.rung] == [(Lane.OCR, 0.0), (Lane.OCR, 0.0)]


def entered_an_hour_ago(world: World, document_id: UUID) -> None:
    from sqlalchemy import update

    from pipeline.ledger.models import documents

    hour = 3_600_000
    with world.services.ledger.begin() as tx:
        tx._connection.execute(
            update(documents)
            .where(documents.c.id == document_id)
            .values(updated_at=documents.c.updated_at - hour, available_at=documents.c.available_at - 1)
        )


def test_the_longer_it_waits_the_less_often_it_asks(world: World) -> None:
    settings = world.services.settings
    short, long = timedelta(0), timedelta(days=1)
    first = [backoff(1, short, world.services) for _ in range(200)]
    later = [backoff(1, long, world.services) for _ in range(200)]
    assert max(first) <= timedelta(seconds=settings.retry_base_seconds * 2)
    assert max(later) <= timedelta(seconds=settings.retry_cap_seconds)
    assert sum(later, short) > 10 * sum(first, short)


def test_a_replay_after_the_policy_asked_for_more_is_scanned_by_what_it_asks_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = world.land()
    world.services.__dict__["scanners"] = (world.clamav, world.mime)  # before the policy asked for the third
    assert world.run(document_id) is State.FAILED
    assert world.document(document_id).reason is Reason.PROCESSING_ERROR
    assert world.served() == {}
    world.services.__dict__["scanners"] = (world.clamav, world.mime, world.structure)
    with world.services.ledger.begin() as tx:
        tx.replay(document_id)
    assert world.run(document_id) is State.AVAILABLE
    assert violations(world.services, at_rest=True) == []


def test_no_room_here_is_not_the_documents_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "LocalFiles", int)  # as if the bucket were elsewhere
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    document_id = world.land()
    for _ in range(2 * world.services.settings.max_tries):
        world.run(document_id)
        world.hurry(document_id)
    document = world.document(document_id)
    assert document.state is State.QUARANTINED
    assert document.waiting_for is not None
    assert not any(world.services.settings.spool_dir.iterdir())
    monkeypatch.undo()
    assert world.run(document_id) is State.AVAILABLE


def test_whoever_is_superseded_at_a_hand_over_ends_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for world in worlds(tmp_path, lanes="inspect"):
        world.place(recognizer=Reader("text"))
        document_id = world.land()

        def overtaken(*_: object, world: World = world, document_id: UUID = document_id) -> Lane:
            world.hurry(document_id)
            return Lane.OCR

        monkeypatch.setattr("pipeline.flow.lane_of", overtaken)
        world.run(document_id)
        monkeypatch.undo()


class DownBroker:
    """Takes its time to say that it is not there."""

    def __init__(self) -> None:
        self.asked = 0

    def ring(self, *_: object, **__: object) -> None:
        self.asked += 1
        raise QueueUnavailable

    def ping(self) -> None:
        raise QueueUnavailable


def test_a_broker_that_is_down_is_not_asked_for_every_document(world: World) -> None:
    for number in range(5):
        world.land(b"%d" % number)
    broker = DownBroker()
    world.place(queue=broker)
    assert relay(world.services, older_than=timedelta(0)) == 0
    assert broker.asked == 1
    announcer = Announcer(world.services)
    with world.services.ledger.reading() as tx:
        events = tx.unrelayed(older_than=timedelta(0), limit=10)
    for event in events:
        announcer.announce([event])
    assert broker.asked == 2
    announcer.close()
    world.place(queue=world.rings)
    assert relay(world.services, older_than=timedelta(0)) == 5
    assert len(world.rings.rung) == 5


def test_what_the_broker_does_not_take_was_not_rung_whatever_its_library_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amqp.exceptions import PreconditionFailed as Refused

    from pipeline.queue.celery import CeleryQueue

    queue = CeleryQueue(Settings(var_dir=tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise Refused("inequivalent arg 'durable'")

    monkeypatch.setattr(queue._app, "send_task", refuse)
    with pytest.raises(QueueUnavailable):
        queue.ring(uuid4(), Lane.INSPECT)


def test_a_verdict_of_signatures_that_the_gate_never_saw_is_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = Engine("fake", "1", "6")
    monkeypatch.setattr(world.clamav, "check", lambda: Fitness("clamav", True, official))
    document_id = world.land()
    world.services.gate.require()
    # Its database is replaced right after it was found fit; asked again, it is not.
    monkeypatch.setattr(world.clamav, "check", lambda: Fitness("clamav", False, None, ("Only test signatures.",)))
    world.run(document_id)
    assert world.document(document_id).waiting_for == "engine-unavailable"
    assert world.served() == {}
    # New signatures that are fit are merely asked about once more.
    monkeypatch.setattr(world.clamav, "check", lambda: Fitness("clamav", True, Engine("fake", "1", "7")))
    world.services.gate.doubt()
    world.hurry(document_id)
    assert world.run(document_id) is State.AVAILABLE


def test_no_word_of_the_clients_reaches_the_log_by_an_exception(
    world: World, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from pipeline.telemetry import configure_logging

    def bug(sample: Sample) -> None:
        raise ValueError(f"cannot make sense of {sample.declared.name}")

    configure_logging()
    world.mime.before = bug
    world.run(world.land(name="passport of Erika Mustermann.csv"))
    said = capsys.readouterr().err
    assert "step failed" in said
    assert "ValueError" in said
    assert "Mustermann" not in said + caplog.text


def test_a_scanner_that_is_down_while_the_text_is_scanned_costs_no_try(world: World) -> None:
    def down(sample: Sample) -> None:
        if sample.declared.name is None:  # ours: the text
            raise ScannerUnavailable("clamd is down")

    world.place(recognizer=Reader(*["text"] * 10))
    world.clamav.before = down
    document_id = world.land()
    for _ in range(2 * world.services.settings.max_tries):
        world.run(document_id)
        assert world.document(document_id).state is State.CLEAN
        world.hurry(document_id)
    world.clamav.before = lambda _: None
    assert world.run(document_id) is State.AVAILABLE
    assert violations(world.services, at_rest=True) == []


def test_a_hundred_documents_leave_no_descriptor_thread_or_file_behind(world: World) -> None:
    def held() -> tuple[int, int]:
        return sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count()

    def take(bodies: range) -> None:
        for number in bodies:
            assert world.run(world.land(b"%d" % number)) is State.AVAILABLE

    take(range(10))  # connections and threads that stay are there from now on
    files, threads = held()
    take(range(100, 200))
    assert held() <= (files + 1, threads + 1)
    spool = world.services.settings.spool_dir
    assert not spool.exists() or not any(spool.iterdir())
