"""The snippets in README and docs, run as they stand there: a reader who copies one gets what the text says.

A fenced `sh` block is run if the line before it is `<!-- run -->`, one shell a page, in order, in a folder that holds
the files that the snippets name. `<!-- run: s3 -->` asks for a stack on S3. A snippet passes if every command in it
succeeds; it says itself what it expects (`test`, `grep`).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import samples
from tests.e2e.test_road import STACKS
from tests.servers.clamd import clamd
from tests.system import System, system

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^<!-- run(?:: (\w+))? -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
assert "files, SQLite, Redis" in STACKS


def snippets(kind: str) -> list[tuple[str, str]]:
    """(page, script) for each page that has some of this kind."""
    found = []
    for page in PAGES:
        blocks = [script for which, script in BLOCK.findall(page.read_text()) if (which or "files") == kind]
        if blocks:
            found.append((page.name, "\n".join(blocks)))
    return found


@pytest.fixture(scope="module", params=["files", "s3", "gcs"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, System]]:
    """A whole system on local files, on S3, or on the double of Cloud Storage."""
    kind = request.param
    if not snippets(kind):
        pytest.skip("no snippet asks for it")
    tmp = tmp_path_factory.mktemp(f"snippets-{kind}")
    environment = {"AIRLOCK_BROKER_URL": request.getfixturevalue("redis_url"), "AIRLOCK_DROP_AFTER_SECONDS": "0"}
    environment |= {"AIRLOCK_RECONCILE_SECONDS": "1", "AIRLOCK_CORS_ORIGINS": "https://app.example.com"}
    environment |= {"AIRLOCK_EVENT_SECRET": "the secret of the bucket's webhook"}
    if kind != "files":
        server = request.getfixturevalue(f"{kind}_server")
        environment |= server.environment()
        for role in ("quarantine", "serving"):
            environment[f"AIRLOCK_{role.upper()}_URL"] = server.url(f"snippets-{role}")
    with contextlib.ExitStack() as parts:
        engine = parts.enter_context(clamd(tmp / "clamd"))
        made = parts.enter_context(system(tmp, environment | {"AIRLOCK_CLAMD_URL": engine.unix}))
        yield kind, made


def folder(tmp: Path) -> Path:
    """The files that the snippets name."""
    tmp.mkdir(exist_ok=True)
    (tmp / "report.pdf").write_bytes(samples.born_digital_pdf())
    (tmp / "scan.png").write_bytes(samples.png())
    (tmp / "table.csv").write_bytes(samples.csv())
    (tmp / "big.pdf").write_bytes(samples.born_digital_pdf() + b"\n%" + b" " * (12 << 20))
    (tmp / "folder").mkdir(exist_ok=True)
    for number in range(3):
        (tmp / "folder" / f"{number}.csv").write_bytes(samples.csv(f"row {number}"))
    return tmp


def test_every_snippet_does_what_it_says(stack: tuple[str, System], tmp_path: Path) -> None:
    kind, made = stack
    binaries = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        **made.environment,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "AIRLOCK_API_URL": f"http://127.0.0.1:{made.port}",
        "AIRLOCK_API_KEY": made.key,
        "TENANT": "acme",
        "VAR": made.environment["AIRLOCK_VAR_DIR"],
        "S3_ENDPOINT": made.environment.get("AIRLOCK_QUARANTINE_URL", "").partition("endpoint=")[2].partition("&")[0],
        "QUARANTINE": made.services.quarantine.bucket,
    }
    for page, script in snippets(kind):
        (tmp_path / ".venv").mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (tmp_path / ".venv" / "bin").symlink_to(binaries)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder(tmp_path),
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{page}\n{script}\n--- said:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
