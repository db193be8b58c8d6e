"""Many uploads in one commit: none is lost, none suffers for another, and doubt is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ingest_api.uploads.recorder import AlreadyUsed, Entry, Recorder
from pipeline.documents import NewDocument, Replay
from pipeline.errors import LedgerUnavailable
from pipeline.ledger.session import Ledger
from pipeline.services import Services
from pipeline.storage.base import ObjectRef
from tests.integration.api_server import settings_in


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = Services(settings_in(tmp_path))
    made.ledger.upgrade()
    yield made
    made.close()


def entry(replay: tuple[str, Replay] | None = None, *, documents: int = 1) -> Entry:
    ref = ObjectRef("quarantine", "k", "v")
    return Entry(
        [
            NewDocument(uuid4(), "acme", ref, 1, "0" * 64, None, None, "standard", "0" * 64, "c")
            for _ in range(documents)
        ],
        replay,
    )


def known(services: Services, entries: list[Entry]) -> list[bool]:
    ids = [document.id for each in entries for document in each.documents]
    with services.ledger.reading() as tx:
        found = tx.known(ids)
    return [one in found for one in ids]


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, during: Callable[[int], None] = lambda _: None) -> Iterator[list[int]]:
    """Counts transactions; `during` is called inside the nth, before its commit."""
    begin = Ledger.begin
    commits: list[int] = []

    @contextmanager
    def counting(self: Ledger) -> Iterator[Any]:
        with begin(self) as tx:
            commits.append(1)
            number = len(commits)
            yield tx
            during(number)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "begin", counting)
        yield commits


def test_whoever_comes_during_a_commit_shares_the_next(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(services)
    entries = [entry(documents=2) for _ in range(9)]
    started, go = threading.Event(), threading.Event()

    def during(number: int) -> None:
        if number == 1:
            started.set()
            assert go.wait(30)

    with counted(monkeypatch, during) as commits, ThreadPoolExecutor(9) as pool:
        first = pool.submit(recorder.record, entries[0])
        assert started.wait(30)
        others = [pool.submit(recorder.record, each) for each in entries[1:]]
        while len(recorder._waiting) < 8:
            threading.Event().wait(0.001)
        go.set()
        for each in (first, *others):
            each.result(30)
    assert len(commits) == 2
    assert all(known(services, entries))
    assert all(len(each.events) == 2 and each.error is None for each in entries)


def test_many_at_once_all_get_their_own_rows(services: Services) -> None:
    recorder = Recorder(services)
    entries = [entry() if number % 3 else entry((f"key-{number}", Replay("f", ()))) for number in range(200)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(recorder.record, entries))
    assert all(known(services, entries))
    for each in entries:
        assert [event.document_id for event in each.events] == [document.id for document in each.documents]


def test_one_that_cannot_be_written_harms_no_other(services: Services) -> None:
    recorder = Recorder(services)
    good, same_id, taken = entry(), entry(), entry(("key", Replay("f", ())))
    recorder.record(entry(("key", Replay("f", ()))))
    same_id.documents = good.documents
    other = entry()
    recorder._write([good, same_id, taken, other])
    assert good.error is None
    assert same_id.error is not None
    assert isinstance(taken.error, AlreadyUsed)
    assert other.error is None
    assert known(services, [good, other, taken]) == [True, True, False]
    assert not any(each.in_doubt for each in (good, same_id, taken, other))


def test_a_lost_answer_is_doubt_for_all_and_a_failure_before_is_none(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(services)
    begin = Ledger.begin

    @contextmanager
    def lossy(self: Ledger) -> Iterator[Any]:
        with begin(self) as tx:
            yield tx
        raise LedgerUnavailable

    @contextmanager
    def away(self: Ledger) -> Iterator[Any]:
        raise LedgerUnavailable
        yield

    lost, refused = [entry(), entry()], [entry(), entry()]
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "begin", lossy)
        recorder._write(lost)
        patch.setattr(Ledger, "begin", away)
        recorder._write(refused)
    assert [each.in_doubt for each in lost] == [True, True]
    assert [each.in_doubt for each in refused] == [False, False]
    assert all(isinstance(each.error, LedgerUnavailable) for each in (*lost, *refused))
    recorder.record(last := entry())
    assert known(services, [last]) == [True]
