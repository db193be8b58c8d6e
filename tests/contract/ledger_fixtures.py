"""One ledger after the other: SQLite, PostgreSQL, MariaDB; and documents to put into them.

Import `ledger` (and `empty_database`) into a test module to use the fixtures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

import pytest

from pipeline.documents import Advance, Document, Event, Job, NewDocument, VerdictRecord
from pipeline.ledger.models import metadata
from pipeline.ledger.session import Ledger
from pipeline.states import WORKING, State
from pipeline.storage.base import ObjectRef
from scanners.base import Engine, ScanResult, Verdict

T = TypeVar("T")
KINDS = ("sqlite", "postgresql", "mariadb")
MINUTE = timedelta(minutes=1)
LAPSED = timedelta(seconds=-1)  # a lease of this length has run out before it began: nobody need wait
SHA = "ab" * 32

_upgraded: set[str] = set()


@pytest.fixture(params=KINDS)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables."""
    return new_database(request, tmp_path, f"t{uuid4().hex}")


def new_database(request: pytest.FixtureRequest, folder: Path, name: str) -> str:
    """Make a database on the server of the fixture's kind."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{folder}/{name}.db"
        case "postgresql":
            server = request.getfixturevalue("postgres_server")
        case _:
            server = request.getfixturevalue("mariadb_server")
    server.admin(f"CREATE DATABASE {name}")
    url: str = server.url(name)
    return url


@pytest.fixture(params=KINDS)
def ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """An empty ledger with its tables. They are made once for each database, and emptied for each test."""
    if request.param == "sqlite":
        url = new_database(request, tmp_path_factory.mktemp("ledger"), "ledger")
    else:
        made = {each.split("://")[0]: each for each in _upgraded}
        kind = "postgresql+psycopg" if request.param == "postgresql" else "mysql+pymysql"
        url = made.get(kind) or new_database(request, Path(), "ledger")
    opened = Ledger(url)
    if url not in _upgraded:
        opened.upgrade()
        _upgraded.add(url)
    with opened._engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    yield opened
    opened.dispose()


def new_document(tenant: str = "acme", *, name: str | None = "report.pdf", sha256: str | None = SHA) -> NewDocument:
    """An upload that has just landed."""
    document_id = uuid4()
    return NewDocument(
        id=document_id,
        tenant=tenant,
        source=ObjectRef("quarantine", f"standard/{tenant}/{document_id}/original", "v1"),
        size=1024,
        sha256=sha256,
        name=name,
        declared_type="application/pdf",
        retention="standard",
        policy_digest="0" * 64,
        correlation_id=uuid4().hex,
    )


def inserted(ledger: Ledger, tenant: str = "acme") -> UUID:
    """A document that waits to be inspected."""
    new = new_document(tenant)
    with ledger.begin() as tx:
        tx.insert(new)
    return new.id


def claimed(ledger: Ledger, document_id: UUID, *, owner: str = "worker-1", lease: timedelta = MINUTE) -> Job:
    """The document, claimed; it must have been free."""
    with ledger.begin() as tx:
        job = tx.claim(document_id, ready=WORKING, owner=owner, lease=lease)
    assert job is not None
    return job


def settled(ledger: Ledger, job: Job, *to: State, keep: timedelta | None = None) -> Job | None:
    """Settle with one bare advance to each state."""
    with ledger.begin() as tx:
        return tx.settle(job, [Advance(state) for state in to], keep=keep)


ROAD = (State.CLEAN, State.RECOGNIZED, State.APPROVED, State.AVAILABLE)


def brought_to(ledger: Ledger, state: State, tenant: str = "acme") -> UUID:
    """A document that went the usual way up to `state`."""
    document_id = inserted(ledger, tenant)
    if state is State.FAILED:
        settled(ledger, claimed(ledger, document_id), State.CLEAN, State.FAILED)
    elif state is State.IN_REVIEW:
        settled(ledger, claimed(ledger, document_id), State.CLEAN, State.RECOGNIZED, State.IN_REVIEW)
    elif state is not State.QUARANTINED:
        settled(ledger, claimed(ledger, document_id), *ROAD[: ROAD.index(state) + 1])
    return document_id


def clean(scanner: str = "clamav", part: str = "original") -> VerdictRecord:
    """A clean verdict with all its evidence."""
    engine = Engine(scanner, "1.4.6", "27432")
    result = ScanResult(
        scanner, Verdict.CLEAN, "", None, engine, {"bytes": 1024, "whole": True}, "application/pdf", 3.25
    )
    return VerdictRecord(part, SHA, result)


def row_of(ledger: Ledger, document_id: UUID) -> Document:
    """The document as it is now."""
    with ledger.reading() as tx:
        return tx.document(document_id)


def history_of(ledger: Ledger, document_id: UUID) -> list[Event]:
    """Its events as they are now."""
    with ledger.reading() as tx:
        return tx.history(document_id)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run each call in a thread of its own, all released at the same moment; their answers in order."""
    gate = threading.Barrier(len(calls))

    def through(call: Callable[[], T]) -> T:
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(through, calls))
