"""What the tests of the clients share: a browser, and a whole system for each kind of store that clients talk to."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.servers import POLICY
from tests.servers.chromium import Chromium, chromium
from tests.servers.clamd import clamd
from tests.servers.pages import pages
from tests.system import ROOT, System, system

KINDS = ("files", "s3", "gcs")  # each with a database of Redis of its own


@pytest.fixture(scope="package")
def origin() -> Iterator[str]:
    """Where the pages are served."""
    with pages() as address:
        yield address


@pytest.fixture(scope="package")
def browser(origin: str) -> Iterator[Chromium]:
    """A Chromium that tests share; each visit has a profile of its own."""
    with chromium(origin) as running:
        yield running


@contextlib.contextmanager
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, kind: str) -> Iterator[System]:
    """A whole system on this kind of store, that the pages may use, and that takes large files of any bytes."""
    tmp = tmp_path_factory.mktemp(f"clients-{kind}")
    policy = tmp / "policy.toml"
    policy.write_text(POLICY.format(ocr="off", required='"mime", "structure", "clamav"'))
    environment = {
        "AIRLOCK_BROKER_URL": f"{request.getfixturevalue('redis_url').rpartition('/')[0]}/{KINDS.index(kind) + 1}",
        "AIRLOCK_CORS_ORIGINS": request.getfixturevalue("origin"),
        "AIRLOCK_POLICY_FILE": str(policy),
        "AIRLOCK_DROP_AFTER_SECONDS": "0",
        "AIRLOCK_RECONCILE_SECONDS": "1",
        "AIRLOCK_CLAMD_MAX_FILE_BYTES": str(1000 << 20),
    }
    if kind != "files":
        server = request.getfixturevalue(f"{kind}_server")
        environment |= server.environment()
        for role in ("quarantine", "serving"):
            environment[f"AIRLOCK_{role.upper()}_URL"] = server.url(f"clients-{role}")
    large = {"StreamMaxLength": "1000M", "MaxScanSize": "1000M", "MaxFileSize": "1000M"}
    with contextlib.ExitStack() as parts:
        engine = parts.enter_context(clamd(tmp / "clamd", **large))
        made = parts.enter_context(system(tmp, environment | {"AIRLOCK_CLAMD_URL": engine.unix}))
        command = [sys.executable, "-m", "pipeline.cli", "buckets", "create"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **made.environment}, check=True, capture_output=True)
        yield made


@pytest.fixture(scope="package")
def on_files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """On local files."""
    with site(request, tmp_path_factory, "files") as made:
        yield made


@pytest.fixture(scope="package")
def on_s3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """On SeaweedFS."""
    with site(request, tmp_path_factory, "s3") as made:
        yield made


@pytest.fixture(scope="package")
def on_gcs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """On the double of Cloud Storage."""
    with site(request, tmp_path_factory, "gcs") as made:
        yield made


@pytest.fixture(params=["on_files", "on_s3"])
def anywhere(request: pytest.FixtureRequest) -> System:
    """On local files, then on SeaweedFS."""
    made: System = request.getfixturevalue(request.param)
    return made
