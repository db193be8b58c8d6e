"""When the database is away, everybody is told so in one way; when it is back, the ledger works by itself."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from pipeline.errors import LedgerUnavailable
from pipeline.ledger import connect
from pipeline.ledger.session import Ledger
from pipeline.states import State
from tests.contract.ledger_fixtures import claimed, inserted, ledger, new_document, row_of, settled
from tests.servers.mariadb import installation
from tests.servers.postgres import cluster

__all__ = ["ledger"]


@pytest.mark.parametrize("server_of", [cluster, installation])
def test_a_server_that_goes_and_comes_back(server_of: object, tmp_path: Path) -> None:
    with server_of(tmp_path) as server:  # type: ignore[operator]
        ledger = Ledger(server.url("postgres" if server_of is cluster else "airlock"))
        with pytest.raises(LedgerUnavailable):
            ledger.upgrade()
        with server.started():
            ledger.upgrade()
            document_id = inserted(ledger)
            job = claimed(ledger, document_id)
            running = ledger.begin()
            tx = running.__enter__()
            new = new_document()
            tx.insert(new)
        with pytest.raises(LedgerUnavailable) as caught:
            running.__exit__(None, None, None)  # the server died between the insert and the commit
        assert str(caught.value).startswith("The database cannot be reached, or is busy")
        for call in (ledger.ping, ledger.upgrade, ledger.revision, lambda: inserted(ledger)):
            with pytest.raises(LedgerUnavailable) as caught:
                call()
            assert caught.value.__cause__ is not None
            assert caught.value.retryable
        with server.started():
            ledger.ping()
            with ledger.reading() as tx:
                assert tx.known([document_id, new.id]) == {document_id}
            settled(ledger, job, State.CLEAN)
            assert row_of(ledger, document_id).state is State.CLEAN
        ledger.dispose()


def test_a_file_that_stays_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "PATIENCE_S", 0.01)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.upgrade()
    document_id = inserted(ledger)
    holder = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable):
        inserted(ledger)
    assert row_of(ledger, document_id).id == document_id  # reading needs no lock
    holder.execute("ROLLBACK")
    holder.close()
    inserted(ledger)
    ledger.dispose()


def test_a_file_that_cannot_be_opened_or_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("these are words, not pages" * 99)
    for path in (tmp_path / "no" / "such" / "folder.db", tmp_path / "text.db"):
        with pytest.raises(LedgerUnavailable):
            Ledger(f"sqlite:///{path}").ping()


def test_what_the_block_raises_is_not_renamed_and_undoes_it(ledger: Ledger) -> None:
    new = new_document()

    def fall() -> None:
        with ledger.begin() as tx:
            tx.insert(new)
            raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        fall()
    with ledger.reading() as tx:
        assert tx.known([new.id]) == set()


def in_child(ledger: Ledger, answers: multiprocessing.SimpleQueue[str]) -> None:
    """Runs after a fork, with whatever the parent had open."""
    try:
        for _ in range(5):
            inserted(ledger)
        answers.put("fine")
    except Exception as error:
        answers.put(repr(error))
    finally:
        os._exit(0)


def test_a_forked_child_has_connections_of_its_own(ledger: Ledger) -> None:
    inserted(ledger)  # a connection now lies in the pool, and the child inherits it
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=in_child, args=(ledger, answers))
    child.start()
    for _ in range(20):
        inserted(ledger)
    child.join(30)
    assert answers.get() == "fine"
    with ledger.reading() as tx:
        assert tx.counts() == {State.QUARANTINED: 26}


def test_more_threads_than_connections_take_turns(ledger: Ledger) -> None:
    done: list[object] = []
    threads = [threading.Thread(target=lambda: done.append(inserted(ledger))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 40
