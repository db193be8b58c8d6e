"""How SQLite goes about each statement: along an index, never through a whole table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, insert
from sqlalchemy.exc import IntegrityError

from pipeline.documents import Advance, Filters, Job, Part
from pipeline.ledger.models import documents, events
from pipeline.ledger.queries import Transaction
from pipeline.ledger.session import Ledger
from pipeline.states import WORKING, State
from pipeline.turns import USUAL, Turn, Window
from tests.contract.ledger_fixtures import MINUTE, claimed, clean, inserted, new_document

# With these rows the planner has every reason to use an index, and no statistics to be misled by.
CROWD = 300
WINDOW = USUAL.bulk  # so many of them are given to the queue
NOW = timedelta(0)


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger in which many documents wait."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.upgrade()
    with ledger.begin() as tx:
        for _ in range(CROWD):
            tx.insert(new_document())
    yield ledger
    ledger.dispose()


def plans(ledger: Ledger, run: Callable[[Transaction], object]) -> list[str]:
    """The plan of every statement that `run` sends."""
    found: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            first = parameters[0] if many else parameters
            rows = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", first).fetchall()
            found.extend(row[3] for row in rows)

    event.listen(ledger._engine, "before_cursor_execute", explain)
    try:
        with ledger.begin() as tx:
            run(tx)
    finally:
        event.remove(ledger._engine, "before_cursor_execute", explain)
    return [plan for plan in found if plan != "SCAN CONSTANT ROW" and "SCALAR SUBQUERY" not in plan]


def advance(job: Job) -> Callable[[Transaction], object]:
    part = Part("text", job.document.source, 1, "ab" * 32, "text/plain")
    step = Advance(State.CLEAN, verdicts=(clean(),), parts=(part,), receipt="r")
    return lambda tx: tx.settle(job, [step], keep=MINUTE)


def given(ledger: Ledger) -> UUID:
    """One of the many that were given to the queue."""
    with ledger.reading() as tx:
        one = documents.select().where(documents.c.turn == Turn.BULK).limit(1)
        found: UUID = tx._read(one).one().id
        return found


def passing_on(job: Job) -> Callable[[Transaction], object]:
    return lambda tx: tx.settle(job, [Advance(State.FAILED)])


def widened(tx: Transaction) -> Transaction:
    tx._window = Window(4, WINDOW + 5)
    return tx


def cursor(ledger: Ledger) -> str | None:
    with ledger.reading() as tx:
        return tx.documents(Filters("acme"), limit=5)[1]


CALLS: dict[str, Callable[[Ledger], Callable[[Transaction], object]]] = {
    "insert": lambda _: lambda tx: tx.insert(new_document()),
    "claim": lambda ledger: (
        lambda document_id: lambda tx: tx.claim(document_id, ready=WORKING, owner="w", lease=MINUTE)
    )(inserted(ledger)),
    "settle": lambda ledger: advance(claimed(ledger, inserted(ledger))),
    "renew": lambda ledger: (lambda job: lambda tx: tx.renew(job, MINUTE))(claimed(ledger, inserted(ledger))),
    "release": lambda ledger: (lambda job: lambda tx: tx.release(job, delay=MINUTE, counted=True, waiting_for="x"))(
        claimed(ledger, inserted(ledger))
    ),
    "move": lambda ledger: (
        lambda document_id: lambda tx: tx.move(document_id, tenant=None, to=State.FAILED, actor="api")
    )(inserted(ledger)),
    "stranded": lambda _: lambda tx: tx.stranded(states=WORKING, idle=NOW, limit=5),
    "settle and pass on": lambda ledger: passing_on(claimed(ledger, given(ledger))),
    "give up one's turn": lambda ledger: (
        lambda job: lambda tx: tx.release(job, delay=MINUTE, counted=True, waiting_for="x")
    )(claimed(ledger, given(ledger))),
    "give turns": lambda ledger: (lambda wider: lambda tx: wider(tx).give_turns("acme", limit=5))(widened),
    "held": lambda _: lambda tx: tx.held(),
    "holding": lambda _: lambda tx: tx.holding("aaa"),
    "unrelayed": lambda _: lambda tx: tx.mark_relayed([e.id for e in tx.unrelayed(older_than=NOW, limit=5)]),
    "first page": lambda _: lambda tx: tx.documents(Filters("acme"), limit=5),
    "next page": lambda ledger: (lambda after: lambda tx: tx.documents(Filters("acme"), limit=5, cursor=after))(
        cursor(ledger)
    ),
    "page of a state": lambda _: lambda tx: tx.documents(Filters("acme", states=frozenset({State.IN_REVIEW})), limit=5),
    "by hash": lambda _: lambda tx: tx.documents(Filters("acme", sha256="cd" * 32), limit=5),
    "erasure": lambda _: lambda tx: tx.due_for_erasure(5),
    "expiry": lambda _: lambda tx: tx.due_for_expiry(5),
    "known": lambda _: lambda tx: tx.known([new_document().id for _ in range(5)]),
    "histories": lambda ledger: lambda tx: tx.histories({new_document().id: -1 for _ in range(5)}),
    "idempotency": lambda _: lambda tx: tx.replay_of("acme", "key"),
    "api key": lambda _: lambda tx: tx.key_by_secret("ab" * 32),
    "oldest": lambda _: lambda tx: tx.oldest_waiting(),
    "waiting": lambda _: lambda tx: tx.waiting_for(),
}
# These sort what an index has already narrowed to one tenant's copies of one file.
MAY_SORT = {"by hash"}


@pytest.mark.parametrize("name", CALLS)
def test_no_statement_reads_a_whole_table(crowded: Ledger, name: str) -> None:
    found = plans(crowded, CALLS[name](crowded))
    if name != "insert":
        assert found
    for plan in found:
        assert plan.startswith(("SEARCH", "MULTI-INDEX OR", "INDEX ")) or name in MAY_SORT, plan
        assert "AUTOMATIC" not in plan
        assert not plan.startswith("SCAN") or "USING" in plan


@pytest.mark.parametrize("name", ["claim", "settle", "settle and pass on", "renew", "release", "move"])
def test_a_document_is_written_by_its_primary_key(crowded: Ledger, name: str) -> None:
    about = [plan for plan in plans(crowded, CALLS[name](crowded)) if " documents " in plan]
    if name == "settle and pass on":  # the next one is found along its index, and written by its key
        [found] = [plan for plan in about if "ix_documents_turn (turn=? AND tenant=?" in plan]
        about.remove(found)
    assert about
    assert all("sqlite_autoindex_documents_1 (id=?)" in plan for plan in about)


@pytest.mark.parametrize(
    "name",
    ["stranded", "unrelayed", "first page", "next page", "erasure", "expiry", "give turns", "settle and pass on"],
)
def test_a_list_is_read_in_the_order_of_its_index(crowded: Ledger, name: str) -> None:
    assert not [plan for plan in plans(crowded, CALLS[name](crowded)) if "TEMP B-TREE" in plan]


def test_the_plans_show_a_scan_where_there_is_one(crowded: Ledger) -> None:
    """The test above would be worth nothing if `plans` saw nothing."""
    found = plans(crowded, lambda tx: tx._read(documents.select().where(documents.c.size == 1)))
    assert found == ["SCAN documents"]


def test_the_statements_a_settle_sends_are_few(crowded: Ledger) -> None:
    job = claimed(crowded, inserted(crowded))
    sent: list[str] = []
    event.listen(crowded._engine, "before_cursor_execute", lambda *given: sent.append(given[2].split()[0]))
    with crowded.begin() as tx:
        tx.settle(job, [Advance(State.CLEAN), Advance(State.RECOGNIZED), Advance(State.APPROVED)], keep=MINUTE)
    assert sent == ["SELECT", "UPDATE", "INSERT"]


def test_what_an_upload_sends_is_no_more_for_being_fair(crowded: Ledger) -> None:
    sent: list[str] = []
    event.listen(crowded._engine, "before_cursor_execute", lambda *given: sent.append(given[2].split()[0]))
    with crowded.begin() as tx:
        tx.insert(new_document())
    assert sent == ["SELECT", "INSERT", "INSERT"]


def steps(ledger: Ledger, run: Callable[[Transaction], object]) -> int:
    """How many instructions SQLite's machine carries out: the same every time, whatever else the computer does."""
    done = [0]

    def count() -> int:
        done[0] += 1
        return 0

    with ledger.begin() as tx:
        driver: Any = tx._connection.connection.driver_connection
        driver.set_progress_handler(count, 1)
        try:
            run(tx)
        finally:
            driver.set_progress_handler(None, 1)
    return done[0]


@pytest.mark.parametrize("name", ["insert", "claim", "settle", "settle and pass on", "give up one's turn", "holding"])
def test_what_waits_costs_nothing(crowded: Ledger, name: str) -> None:
    few = steps(crowded, CALLS[name](crowded))
    with crowded.begin() as tx:
        for _ in range(5 * CROWD):
            tx.insert(new_document())
    many = steps(crowded, CALLS[name](crowded))
    assert few * 0.9 < many < few * 1.1


def test_the_tables_refuse_what_has_no_document(crowded: Ledger) -> None:
    orphan: dict[str, Any] = {column.name: 0 if column.type.python_type is int else "x" for column in events.c}
    del orphan["id"]
    with crowded._engine.connect() as connection, pytest.raises(IntegrityError, match="FOREIGN KEY"):
        connection.execute(insert(events), orphan | {"document_id": uuid4()})
