"""The tables: the models and the migrations say the same, from wherever a database stands."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from pipeline.errors import Misconfigured
from pipeline.ledger import schema
from pipeline.ledger.models import metadata
from pipeline.ledger.session import Ledger
from tests.contract.ledger_fixtures import claimed, empty_database, history_of, inserted

__all__ = ["empty_database"]

REVISIONS = [script.revision for script in ScriptDirectory.from_config(schema.configuration()).walk_revisions()][::-1]


def differences(ledger: Ledger) -> object:
    with ledger._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, metadata)


@pytest.mark.parametrize("start", [None, *REVISIONS])
def test_any_earlier_revision_becomes_what_the_models_say(empty_database: str, start: str | None) -> None:
    ledger = Ledger(empty_database)
    assert ledger.revision() == (None, REVISIONS[-1])
    if start is not None:
        with ledger._engine.connect() as connection:
            schema.upgrade(connection, start)
        assert ledger.revision()[0] == start
    ledger.upgrade()
    ledger.upgrade()
    assert ledger.revision() == (REVISIONS[-1], REVISIONS[-1])
    assert differences(ledger) == []
    document_id = inserted(ledger)
    claimed(ledger, document_id)
    assert len(history_of(ledger, document_id)) == 1
    ledger.dispose()


def upgrade(url: str, gate: multiprocessing.synchronize.Barrier, answers: multiprocessing.SimpleQueue[str]) -> None:
    """One of several processes that start at once."""
    ledger = Ledger(url)
    gate.wait()
    try:
        ledger.upgrade()
        answers.put(str(ledger.revision()[0]))
    except Exception as error:
        answers.put(repr(error))


def test_several_processes_may_start_at_once(empty_database: str) -> None:
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(4), context.SimpleQueue()
    starting = [context.Process(target=upgrade, args=(empty_database, gate, answers)) for _ in range(4)]
    for process in starting:
        process.start()
    for process in starting:
        process.join(60)
    assert [answers.get() for _ in starting] == [REVISIONS[-1]] * 4


def test_an_upgrade_that_broke_off_can_be_run_again(empty_database: str) -> None:
    ledger = Ledger(empty_database)
    with ledger._engine.begin() as connection:
        metadata.tables["documents"].create(connection)  # as MariaDB leaves it: no revision, some tables
    ledger.upgrade()
    assert differences(ledger) == []
    ledger.dispose()


def test_tables_of_a_newer_airlock_are_left_alone(empty_database: str) -> None:
    ledger = Ledger(empty_database)
    ledger.upgrade()
    with ledger._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for ask in (ledger.revision, ledger.upgrade):
        with pytest.raises(Misconfigured, match=r"revision 9999, .* newer Airlock"):
            ask()
    ledger.dispose()


def test_each_revision_is_one_file_of_its_number() -> None:
    folder = Path(schema.__file__).parent / "migrations" / "versions"
    numbers = sorted(path.name[:4] for path in folder.glob("[0-9]*.py"))
    assert numbers == [f"{n:04}" for n in range(1, len(REVISIONS) + 1)] == REVISIONS
