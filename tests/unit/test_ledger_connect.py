"""Which URLs are taken, and that none is repeated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pipeline.ledger
from pipeline.errors import Misconfigured
from pipeline.ledger.connect import open_engine
from pipeline.ledger.session import Ledger


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:////var/lib/ledger.db", "sqlite+pysqlite"),
        ("postgres://u:p@h/d", "postgresql+psycopg"),
        ("postgresql://u:p@h/d", "postgresql+psycopg"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg"),
        ("mysql://u:p@h/d", "mysql+pymysql"),
        ("mariadb://u:p@h/d", "mysql+pymysql"),
        ("mysql+pymysql://u:p@h/d", "mysql+pymysql"),
    ],
)
def test_the_usual_spellings_are_taken(url: str, driver: str) -> None:
    assert open_engine(url).url.drivername == driver


@pytest.mark.parametrize(
    "url", ["", "secret", "oracle://u:secret@h/d", "sqlite://", "sqlite:///:memory:", "postgres:/secret"]
)
def test_others_are_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        Ledger(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_sqlite_keeps_what_it_has_acknowledged(tmp_path: Path) -> None:
    with open_engine(f"sqlite:///{tmp_path}/ledger.db").connect() as connection:
        told = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}


def test_no_worker_clock_is_asked() -> None:
    folder = Path(pipeline.ledger.__file__).parent
    # monotonic() measures patience and cannot be set wrong; every clock that tells the hour can.
    asked = re.compile(r"\btime\.(?!monotonic\(|sleep\()\w+\(|\bdatetime\.now\(|utcnow|\btoday\(|from time import\b")
    assert [path.name for path in folder.rglob("*.py") if asked.search(path.read_text())] == []


def test_there_is_one_commit() -> None:
    folder = Path(pipeline.ledger.__file__).parent
    places = {path.name for path in folder.rglob("*.py") if ".commit()" in path.read_text()}
    assert places == {"session.py", "schema.py"}  # the second is the upgrade's own
