"""The road a document takes, on a real ledger and real stores; only the engines are played."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.errors import BadRequest, Conflict, DigestMismatch, LedgerUnavailable
from pipeline.invariants import violations
from pipeline.receipts import verify_receipt
from pipeline.states import WORKING, Reason, State
from pipeline.sweeper import reconcile, sweep
from scanners.base import Finding, Sample, ScannerError, ScannerUnavailable, ScanResult, Verdict
from tests.world import EICAR, TENANT, World, bucket_urls, worlds


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path)


@pytest.fixture(params=["local", "s3"])
def either(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """The same, on each kind of bucket: for tests whose end hangs on what a store does."""
    yield from worlds(tmp_path, **bucket_urls(request.param, request))


def test_a_clean_document_becomes_available_with_its_bytes_and_leaves_quarantine(either: World) -> None:
    body = b"name,amount\nx,1\n" * 1000
    document_id = either.land(body)
    assert either.run(document_id) is State.AVAILABLE
    document = either.document(document_id)
    assert list(either.served().values()) == [body]
    assert document.served is not None
    assert document.served.key == f"standard/{TENANT}/{document_id}/original"
    assert either.quarantined() == []
    headers = either.services.serving.head(document.served.key).headers
    assert headers.content_type == "text/plain"  # what it is, not what it was said to be
    assert headers.content_disposition == "attachment; filename=\"a.csv\"; filename*=UTF-8''a.csv"
    states = [event.to for event in either.history(document_id)]
    assert states == [State.QUARANTINED, State.CLEAN, State.RECOGNIZED, State.APPROVED, State.AVAILABLE]
    assert violations(either.services, at_rest=True) == []


def test_the_receipt_convinces_offline_and_only_of_those_bytes(world: World, tmp_path: Path) -> None:
    body = b"a receipt is about bytes"
    document_id = world.land(body)
    world.run(document_id)
    with world.services.ledger.reading() as tx:
        receipt = tx.receipt(document_id)
    assert receipt is not None
    same, other = tmp_path / "same", tmp_path / "other"
    same.write_bytes(body)
    other.write_bytes(body + b"!")
    pem = world.services.receipts.public_pem
    claims = verify_receipt(same, receipt, pem)
    assert claims["sub"] == str(document_id)
    assert {verdict["scanner"] for verdict in claims["verdicts"]} == {"clamav", "mime", "structure"}
    with pytest.raises(DigestMismatch):
        verify_receipt(other, receipt, pem)
    head, payload, signature = receipt.split(".")
    with pytest.raises(BadRequest):
        verify_receipt(same, f"{head}.{payload[:-2]}AA.{signature}", pem)


def test_an_infected_document_is_rejected_and_nothing_of_it_is_served(either: World) -> None:
    document_id = either.land(b"look: " + EICAR)
    assert either.run(document_id) is State.REJECTED
    document = either.document(document_id)
    assert (document.reason, document.served) == (Reason.INFECTED, None)
    assert either.served() == {}
    assert either.run(document_id) is None  # an end is an end
    with pytest.raises(Conflict), either.services.ledger.begin() as tx:
        tx.replay(document_id)
    assert violations(either.services, at_rest=True) == []


@pytest.mark.parametrize(
    ("verdict", "finding"),
    [
        (Verdict.INCOMPLETE, Finding.LIMIT_EXCEEDED),
        (Verdict.INCOMPLETE, Finding.ENCRYPTED),
        (Verdict.REFUSED, Finding.TYPE_MISMATCH),
    ],
)
@pytest.mark.parametrize("who", ["clamav", "mime", "structure"])
def test_whatever_is_not_clean_from_any_scanner_is_rejected_with_its_finding(
    world: World, who: str, verdict: Verdict, finding: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner = getattr(world, who)
    monkeypatch.setattr(scanner, "scan", lambda _: ScanResult(who, verdict, "so", finding))
    document_id = world.land()
    assert world.run(document_id) is State.REJECTED
    assert world.document(document_id).reason == Reason(finding.value)
    assert world.served() == {}


def test_the_worst_verdict_gives_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = ScanResult("mime", Verdict.REFUSED, "no", Finding.TYPE_NOT_ALLOWED)
    monkeypatch.setattr(world.mime, "scan", lambda _: refused)
    document_id = world.land(EICAR)
    world.run(document_id)
    assert world.document(document_id).reason is Reason.INFECTED


def test_an_engine_that_is_down_makes_the_document_wait_and_costs_it_no_try(world: World) -> None:
    def down(_: Sample) -> None:
        raise ScannerUnavailable("clamd is down")

    document_id = world.land()
    world.clamav.before = down
    for _ in range(2 * world.services.settings.max_tries):
        world.run(document_id)
        document = world.document(document_id)
        assert (document.state, document.waiting_for) == (State.QUARANTINED, "engine-unavailable")
        world.hurry(document_id)
    assert world.served() == {}
    world.clamav.before = lambda _: None
    assert world.run(document_id) is State.AVAILABLE
    assert world.document(document_id).waiting_for is None


def test_an_unfit_scanner_is_not_asked_at_all(world: World) -> None:
    world.clamav.fit = False
    document_id = world.land()
    world.run(document_id)
    assert world.clamav.scanned == []
    assert world.document(document_id).waiting_for == "engine-unavailable"


def test_an_error_on_this_sample_is_tried_again_and_ends_as_failed_with_its_cause(world: World) -> None:
    def choke(_: Sample) -> None:
        raise ScannerError("no verdict")

    world.structure.before = choke
    document_id = world.land()
    for tried in range(1, 4):
        assert world.document(document_id).state is State.QUARANTINED
        world.run(document_id)
        assert world.rings.rung == [] or world.rings.rung[-1][2] > 0  # rung again, later
        if tried < 3:
            world.hurry(document_id)
    document = world.document(document_id)
    assert (document.state, document.reason) == (State.FAILED, Reason.ATTEMPTS_EXHAUSTED)
    assert document.detail is not None
    assert "step-error" in document.detail
    assert world.served() == {}
    world.structure.before = lambda _: None
    with world.services.ledger.begin() as tx:
        assert tx.replay(document_id).state is State.QUARANTINED
    assert world.run(document_id) is State.AVAILABLE
    assert violations(world.services, at_rest=True) == []


def test_a_bug_in_a_scanner_is_an_error_and_never_clean(world: World) -> None:
    def bug(_: Sample) -> None:
        raise ZeroDivisionError

    world.mime.before = bug
    document_id = world.land()
    for _ in range(3):
        world.run(document_id)
        world.hurry(document_id)
    assert world.document(document_id).state is State.FAILED
    assert world.served() == {}


def test_a_document_that_takes_its_worker_with_it_each_time_ends_as_failed(world: World) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL: no handler of ours may stop it."""

    def die(_: Sample) -> None:
        raise Killed

    world.clamav.before = die
    document_id = world.land()
    for _ in range(3):
        with pytest.raises(Killed):
            world.run(document_id)
        world.hurry(document_id)
    assert world.run(document_id) is State.FAILED
    assert world.document(document_id).reason is Reason.WORKER_LOST


def test_a_superseded_worker_commits_nothing(either: World) -> None:
    document_id = either.land()
    once = threading.Event()

    def overtaken(_: Sample) -> None:
        if not once.is_set():
            once.set()
            either.hurry(document_id)  # the lease lapses while this worker is still at it
            assert either.run(document_id) is State.AVAILABLE  # and another one does the whole trip

    either.clamav.before = overtaken
    assert either.run(document_id) is State.QUARANTINED  # what the first one knows, and nobody writes
    assert once.is_set()
    assert either.document(document_id).state is State.AVAILABLE
    assert [event.to for event in either.history(document_id)].count(State.CLEAN) == 1
    assert violations(either.services, at_rest=True) == []


def test_a_ledger_that_is_away_for_a_moment_costs_no_work(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    document_id = world.land()
    begin = world.services.ledger.begin
    failed: list[object] = []

    @contextlib.contextmanager
    def flaky(**options: bool) -> Iterator[object]:
        with begin(**options) as tx:
            yield tx
            if options.get("durable", True) and len(failed) < 2:
                failed.append(tx)
                raise LedgerUnavailable  # a deadlock's victim: rolled back

    monkeypatch.setattr(world.services.ledger, "begin", flaky)
    assert world.run(document_id) is State.AVAILABLE
    assert len(failed) == 2
    assert len(world.clamav.scanned) == 1  # nothing was scanned again
    assert violations(world.services, at_rest=True) == []


def test_five_deliveries_at_once_have_one_effect(world: World) -> None:
    document_id = world.land()
    together = threading.Barrier(5)
    answers: list[State | None] = []

    def deliver() -> None:
        together.wait()
        answers.append(world.run(document_id))

    threads = [threading.Thread(target=deliver) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(State.AVAILABLE) == 1
    assert answers.count(None) == 4
    assert violations(world.services, at_rest=True) == []


def test_bytes_replaced_in_quarantine_are_never_served(either: World) -> None:
    document_id = either.land(b"harmless")
    document = either.document(document_id)
    either.services.quarantine.delete(document.source)
    with either.services.quarantine.create(document.source.key) as writer:
        writer.write(b"harmful!")
        writer.commit()
    either.run(document_id)
    assert either.document(document_id).reason is Reason.SOURCE_CHANGED
    assert either.served() == {}


def test_bytes_replaced_between_scan_and_promotion_are_never_served(
    either: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_id = either.land(b"harmless")
    source = either.document(document_id).source
    copy = either.services.serving.copy

    def swap(*args: object, **kwargs: object) -> object:
        either.services.quarantine.delete(source)
        with either.services.quarantine.create(source.key) as writer:
            writer.write(b"harmful!")
            writer.commit()
        return copy(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(either.services.serving, "copy", swap)
    assert either.run(document_id) is State.REJECTED
    assert either.document(document_id).reason is Reason.SOURCE_CHANGED
    assert either.served() == {}


def test_deleting_removes_the_bytes_everywhere_and_fences_off_whoever_works_on_it(either: World) -> None:
    done, raced = either.land(b"one"), either.land(b"two")
    either.run(done)

    def deleted_meanwhile(_: Sample) -> None:
        with either.services.ledger.begin() as tx:
            tx.move(raced, tenant=TENANT, to=State.DELETED, actor="api", erase_in=timedelta(0))

    either.clamav.before = deleted_meanwhile
    either.run(raced)
    with either.services.ledger.begin() as tx:
        tx.move(done, tenant=TENANT, to=State.DELETED, actor="api", erase_in=timedelta(0))
    assert sweep(either.services)["erased"] == 2
    assert either.served() == {}
    assert either.quarantined() == []
    assert either.document(raced).state is State.DELETED
    assert violations(either.services, at_rest=True) == []


def test_what_expires_is_gone_from_serving(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    shipped = Path(__file__).parents[2] / "pipeline" / "policy.default.toml"
    policy.write_text(shipped.read_text().replace("days = 365 ", "days = 1e-9 "))
    for world in worlds(tmp_path / "var", policy_file=policy):
        document_id = world.land()
        assert world.run(document_id) is State.AVAILABLE
        assert sweep(world.services)["expired"] == 1
        document = world.document(document_id)
        assert (document.state, document.reason) == (State.EXPIRED, Reason.RETENTION)
        assert world.served() == {}


def test_an_object_that_no_row_knows_becomes_a_document(tmp_path: Path) -> None:
    for world in worlds(tmp_path, orphan_after_seconds=1e-9):
        document_id = world.land(b"the api died before its commit")
        key = world.document(document_id).source.key
        lost = key.replace(str(document_id), "00000000-0000-4000-8000-00000000abcd")
        with world.services.quarantine.create(lost) as writer:
            writer.write(b"stored, never announced")
            writer.commit()
        assert reconcile(world.services)["adopted"] == 1
        assert reconcile(world.services)["adopted"] == 0
        [(adopted, _, _)] = world.rings.rung
        assert world.run(adopted) is State.AVAILABLE
        assert world.document(adopted).via == "adopted"


def test_a_stray_whose_sender_has_sent_it_again_is_a_double_and_goes(tmp_path: Path) -> None:
    for world in worlds(tmp_path, orphan_after_seconds=1e-9):
        stray = f"standard/{TENANT}/00000000-0000-4000-8000-00000000abcd/original"
        with world.services.quarantine.create(stray) as writer:
            writer.write(b"sent twice")
            writer.commit()
        world.run(world.land(b"sent twice"))
        assert reconcile(world.services)["adopted"] == 0
        assert world.quarantined() == []
        assert violations(world.services, at_rest=True) == []


def test_the_sweeper_rings_for_what_lost_its_message_or_its_worker(world: World) -> None:
    documents = {world.land() for _ in range(5)}
    for document_id in documents:
        world.hurry(document_id)
    assert sweep(world.services)["rung"] == 5
    assert {document_id for document_id, _, _ in world.rings.rung} == documents
    assert sweep(world.services)["rung"] == 0  # not again at once
    assert all(world.document(document_id).state in WORKING for document_id in documents)
