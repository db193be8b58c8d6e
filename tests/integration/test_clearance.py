"""The last door before serving: what the ledger says of exactly these bytes, and nothing else, opens it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from pipeline.documents import Advance, Lane, Part, VerdictRecord
from pipeline.errors import EngineUnavailable, LeaseLost
from pipeline.gate import Gate
from pipeline.invariants import violations
from pipeline.lease import Lease
from pipeline.states import WORKING, Reason, State
from pipeline.storage.keys import key_of
from scanners.base import Finding, Fitness, Sample, ScannerError, ScannerUnavailable, ScanResult, Verdict
from tests.world import EICAR, TENANT, FakeScanner, World, worlds

BODY = b"the document itself"
TEXT = b"what was read in it"
ALL = ("clamav", "mime", "structure")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path, orphan_after_seconds=1e-9)


def clean(part: str, body: bytes, *scanners: str) -> list[VerdictRecord]:
    sha256 = hashlib.sha256(body).hexdigest()
    return [VerdictRecord(part, sha256, ScanResult(scanner, Verdict.CLEAN)) for scanner in scanners]


def infected(part: str, body: bytes) -> list[VerdictRecord]:
    result = ScanResult("clamav", Verdict.INFECTED, "Eicar-Test", Finding.INFECTED)
    return [VerdictRecord(part, hashlib.sha256(body).hexdigest(), result)]


def approved(world: World, verdicts: Sequence[VerdictRecord]) -> UUID:
    """A document with a text, and these verdicts on the two, right before its promotion."""
    document_id = world.land(BODY)
    with world.services.quarantine.create(key_of("standard", TENANT, document_id, "text")) as writer:
        writer.write(TEXT)
        stat = writer.commit()
    text = Part("text", stat.ref, len(TEXT), hashlib.sha256(TEXT).hexdigest(), "text/plain")
    with world.services.ledger.begin() as tx:
        job = tx.claim(document_id, ready=WORKING, owner="test", lease=timedelta(minutes=1))
        assert job is not None
        road = [
            Advance(State.CLEAN, detected_type="text/csv", verdicts=tuple(verdicts)),
            Advance(State.RECOGNIZED, parts=(text,)),
            Advance(State.APPROVED),
        ]
        tx.settle(job, road)
    return document_id


def test_clean_verdicts_on_both_open_the_door(world: World) -> None:
    document_id = approved(world, [*clean("original", BODY, *ALL), *clean("text", TEXT, "clamav")])
    assert world.run(document_id) is State.AVAILABLE
    assert set(world.served().values()) == {BODY, TEXT}
    assert violations(world.services, at_rest=True) == []


@pytest.mark.parametrize(
    "verdicts",
    [
        [],
        clean("text", TEXT, "clamav"),
        [*clean("original", BODY, "clamav", "mime"), *clean("text", TEXT, "clamav")],
        [*clean("original", b"other bytes", *ALL), *clean("text", TEXT, "clamav")],
        [*clean("original", BODY, *ALL), *infected("original", BODY), *clean("text", TEXT, "clamav")],
        clean("original", BODY, *ALL),
        [*clean("original", BODY, *ALL), *clean("text", TEXT, "mime", "structure")],
        [*clean("original", BODY, *ALL), *clean("text", b"other bytes", "clamav")],
        [*clean("original", BODY, *ALL), *clean("text", TEXT, "clamav"), *infected("text", TEXT)],
    ],
    ids=[
        "no verdict at all",
        "none on the original",
        "one scanner of three is missing",
        "on other bytes",
        "another verdict says infected",
        "none on the text",
        "the engine has not seen the text",
        "the engine has seen another text",
        "another verdict on the text says infected",
    ],
)
def test_anything_less_serves_nothing(world: World, verdicts: list[VerdictRecord]) -> None:
    document_id = approved(world, verdicts)
    assert world.run(document_id) is State.FAILED
    assert world.document(document_id).reason is Reason.PROCESSING_ERROR
    assert world.served() == {}


@pytest.mark.parametrize("part", ["original", "text"])
def test_other_bytes_that_lie_where_the_copy_goes_are_neither_served_nor_in_the_way(world: World, part: str) -> None:
    document_id = approved(world, [*clean("original", BODY, *ALL), *clean("text", TEXT, "clamav")])
    with world.services.serving.create(key_of("standard", TENANT, document_id, part)) as writer:
        writer.write(b"nobody called these bytes clean")
        writer.commit()
    assert world.run(document_id) is State.AVAILABLE
    assert set(world.served().values()) == {BODY, TEXT}
    assert violations(world.services, at_rest=True) == []


def test_a_text_that_is_gone_is_made_again_by_a_replay_and_costs_nobody_the_document(world: World) -> None:
    document_id = approved(world, [*clean("original", BODY, *ALL), *clean("text", TEXT, "clamav")])
    [text] = world.document(document_id).parts
    world.services.quarantine.delete(text.source)
    assert world.run(document_id) is State.FAILED
    with world.services.ledger.begin() as tx:
        assert tx.replay(document_id).parts == ()
    assert world.run(document_id) is State.AVAILABLE
    assert list(world.served().values()) == [BODY]
    assert violations(world.services, at_rest=True) == []


def test_an_answer_under_another_name_is_no_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.structure, "scan", world.mime.scan)
    document_id = world.land()
    world.run(document_id)
    assert world.document(document_id).waiting_for == "engine-unavailable"


def test_a_scanner_that_is_down_speaks_before_one_that_chokes(world: World) -> None:
    def down(_: Sample) -> None:
        raise ScannerUnavailable("clamd is down")

    def choke(_: Sample) -> None:
        raise ScannerError("no verdict")

    world.clamav.before, world.mime.before = choke, down
    document_id = world.land()
    world.run(document_id)
    document = world.document(document_id)
    assert (document.waiting_for, document.tries) == ("engine-unavailable", 0)


def test_handing_over_costs_no_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for world in worlds(tmp_path, lanes="inspect"):
        monkeypatch.setattr("pipeline.flow.lane_of", lambda *_: Lane.OCR)
        document_id = world.land()
        for _ in range(2 * world.services.settings.max_tries):
            assert world.run(document_id) is State.QUARANTINED
        assert world.document(document_id).tries == 0


def test_a_lease_is_renewed_while_the_work_goes_on_and_says_when_it_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for world in worlds(tmp_path, lease_seconds=0.3):
        document_id = world.land()
        with world.services.ledger.begin() as tx:
            job = tx.claim(document_id, ready=WORKING, owner=world.services.owner, lease=timedelta(seconds=0.3))
        assert job is not None
        asked = threading.Semaphore(0)
        monkeypatch.setattr(world.services.ledger, "begin", counting(world.services.ledger.begin, asked))
        with Lease(job, world.services) as lease:
            for _ in range(2):  # the second is asked for only once the first has ended
                assert asked.acquire(timeout=30)
            lease.check()
            deadline = world.document(document_id).lease_until
            assert deadline is not None
            assert job.document.lease_until is not None
            assert deadline > job.document.lease_until
            with world.services.ledger.begin() as tx:
                tx.move(document_id, tenant=None, to=State.DELETED, actor="api")
            lease._thread.join(30)  # it ends by itself, for there is nothing left to renew
            assert not lease._thread.is_alive()
            with pytest.raises(LeaseLost):
                lease.check()


def counting(function: Callable[..., Any], calls: threading.Semaphore) -> Callable[..., Any]:
    def counted(**options: bool) -> object:
        calls.release()
        return function(**options)

    return counted


def test_without_a_scanner_nothing_is_clean(world: World) -> None:
    world.place(scanners=())
    document_id = world.land()
    world.run(document_id)
    assert world.document(document_id).waiting_for == "engine-unavailable"
    assert world.served() == {}


def test_what_is_rejected_is_kept_as_long_as_the_policy_says_and_then_goes(world: World) -> None:
    document_id = world.land(EICAR)
    world.run(document_id)
    document = world.document(document_id)
    assert document.erase_at is not None
    assert document.erase_at - document.updated_at == timedelta(days=world.services.policy.retention.rejected_days)


def test_a_text_that_is_a_virus_is_withheld_and_the_picture_of_it_served(world: World) -> None:
    world.place(recognizer=Reader(EICAR))
    document_id = world.land(b"a photograph of it")
    assert world.run(document_id) is State.AVAILABLE
    assert list(world.served().values()) == [b"a photograph of it"]
    assert world.quarantined() == []
    assert violations(world.services, at_rest=True) == []


def test_a_text_waits_for_a_scanner_that_is_fit_again(world: World) -> None:
    def meanwhile() -> None:
        world.clamav.fit = False
        world.services.gate.doubt()

    world.place(recognizer=Reader(TEXT, TEXT, before=meanwhile))
    document_id = world.land(BODY)
    assert world.run(document_id) is State.CLEAN
    assert world.document(document_id).waiting_for == "engine-unavailable"
    world.clamav.fit = True
    world.services.gate.doubt()
    world.hurry(document_id)
    world.services.recognizer.before = lambda: None  # type: ignore[union-attr]
    assert world.run(document_id) is State.AVAILABLE
    assert set(world.served().values()) == {BODY, TEXT}


class Reader:
    """A recognizer that finds what the test says."""

    def __init__(self, *texts: bytes, before: Callable[[], None] = lambda: None) -> None:
        self.texts = list(texts)
        self.before = before

    def reads(self, _kind: str) -> bool:
        return True

    def needs_ocr_lane(self, _kind: str) -> bool:
        return True

    def recognize(self, _sample: Sample, _kind: str, into: Path) -> SimpleNamespace:
        self.before()
        text = into / "text"
        text.write_bytes(self.texts.pop(0))
        return SimpleNamespace(text=text, pdf=None, text_length=1, pages=(1,), complete=True, problem=None)


def test_a_fit_scanner_is_asked_now_and_then_and_an_unfit_or_doubted_one_again_and_again() -> None:
    scanner, other = FakeScanner("clamav"), FakeScanner("mime")
    asked: list[bool] = []
    check = scanner.check

    def counted() -> Fitness:
        asked.append(scanner.fit)
        return check()

    scanner.check = counted  # type: ignore[method-assign]
    gate = Gate([scanner, other], fresh=3600, retry=0)
    for _ in range(3):
        gate.require()
    assert len(asked) == 1
    gate.doubt()
    gate.require()
    assert len(asked) == 2
    scanner.fit = False
    gate.doubt()
    for _ in range(3):
        with pytest.raises(EngineUnavailable):
            gate.require()
    assert len(asked) == 5
    Gate([scanner], fresh=0).fitness()
    assert len(asked) == 6


def test_an_answer_is_not_fresh_for_ever() -> None:
    scanner = FakeScanner("clamav")
    gate = Gate([scanner], fresh=0, retry=3600)
    gate.require()
    scanner.fit = False
    with pytest.raises(EngineUnavailable):
        gate.require()


def test_an_engine_that_failed_is_asked_whether_it_is_fit_before_the_next_document(world: World) -> None:
    def down(_: Sample) -> None:
        world.clamav.fit = False
        raise ScannerUnavailable("clamd is down")

    world.clamav.before = down
    world.run(world.land(b"first"))
    assert not all(answer.fit for answer in world.services.gate.fitness())
