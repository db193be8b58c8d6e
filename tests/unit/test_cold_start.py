"""What a cold start does not load. How long it takes is measured by benchmarks/cold_start.py, and asserted nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each belongs to one adapter, step or command, and is loaded when that is first used.
VENDORS = {
    "boto3",
    "botocore",
    "s3transfer",
    "google",
    "grpc",
    "celery",
    "kombu",
    "billiard",
    "redis",
    "amqp",
    "mangum",
}
ENGINES = {"PIL", "pikepdf", "pypdfium2", "tesserocr", "magic", "olefile", "clamd"}
LEDGER = {"sqlalchemy", "alembic", "psycopg", "pymysql"}
OTHERS = {"cryptography", "jwt", "httpx", "httpcore", "rich", "typer", "click", "uvicorn", "uvloop", "httptools"}
NOT_LOADED = VENDORS | ENGINES | LEDGER | OTHERS

IMPORT = """
import json, sys
from ingest_api.app import create_app

app = create_app()
"""
ASK = """
import asyncio

async def ask(path):
    said = []
    async def receive():
        return {"type": "http.request"}
    async def send(message):
        said.append(message)
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
    return said[0]["status"]

assert asyncio.run(ask("/livez")) == 200
"""
TELL = """
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded(code: str, folder: Path) -> set[str]:
    """The top-level modules of a fresh interpreter that ran the code in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRLOCK_", "COV"))}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_app_loads_no_sdk_no_engine_and_no_database(tmp_path: Path) -> None:
    found = loaded(IMPORT + TELL, tmp_path)
    assert {"fastapi", "ingest_api", "pipeline"} <= found
    assert found & NOT_LOADED == set()
    assert "prometheus_client" not in found  # the start loads it, the import does not
    assert not list(tmp_path.iterdir())


def test_nor_does_a_first_answer_that_touches_nothing(tmp_path: Path) -> None:
    assert loaded(IMPORT + ASK + TELL, tmp_path) & NOT_LOADED == set()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("pipeline.flow", VENDORS | ENGINES),
        ("pipeline.sweeper", VENDORS | ENGINES),
        ("pipeline.cli.app", VENDORS | ENGINES | LEDGER | {"fastapi", "uvicorn"}),
    ],
)
def test_each_part_loads_what_it_needs(what: str, names: set[str], tmp_path: Path) -> None:
    assert loaded(f"import json, sys, {what}\n{TELL}", tmp_path) & names == set()


def test_what_is_to_be_missed_would_be_seen(tmp_path: Path) -> None:
    assert loaded(f"{IMPORT}\nimport sqlalchemy, google.cloud\n{TELL}", tmp_path) & NOT_LOADED == {
        "sqlalchemy",
        "google",
    }


def test_rich_is_hidden_only_while_structlog_is_loaded(tmp_path: Path) -> None:
    assert "rich" in loaded(f"import json, sys, pipeline.telemetry\nimport rich\n{TELL}", tmp_path)
    used = "import structlog.dev; assert structlog.dev.rich is None"
    assert "rich" not in loaded(f"import json, sys, pipeline.telemetry\n{used}\n{TELL}", tmp_path)


def test_the_garbage_collector_is_left_as_it_was(tmp_path: Path) -> None:
    import gc

    from ingest_api.app import create_app
    from pipeline.settings import Settings

    assert gc.isenabled()
    create_app(Settings(var_dir=tmp_path))
    assert gc.isenabled()
    gc.disable()
    try:
        create_app(Settings(var_dir=tmp_path))
        assert not gc.isenabled()
    finally:
        gc.enable()
