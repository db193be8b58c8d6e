"""Airlock's API and workers, and what they are compared with, each a process of its own with a folder of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.client import Target
from pipeline.api_keys import make_key
from pipeline.services import Services
from pipeline.settings import Environment, Settings
from pipeline.storage.base import Provisionable
from pipeline.telemetry import configure_logging
from tests.servers.node import CLIENTS, module, node
from tests.servers.process import accepts, free_port, running

TENANT = "bench"
NotHere = pytest.skip.Exception  # what the servers raise when their program is not installed
REPOSITORY = Path(__file__).resolve().parent.parent
AIRLOCK = [sys.executable, "-m", "pipeline.cli"]

POLICY = """
version = 1
[accept]
types = ["application/pdf", "image/png", "image/jpeg", "text/plain", "text/csv", "application/json",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document", "application/octet-stream"]
[limits]
bytes = "8 GiB"
unpacked_bytes = "8 GiB"
members = 10000
depth = 8
pixels = 250000000
[scan]
required = [{required}]
max_signature_age_days = 7
[recognize]
mode = "{ocr}"
languages = ["eng"]
max_pages = 200
page_seconds = 60
document_seconds = 900
[retention]
class = "standard"
days = 365
rejected_days = 7
"""


@dataclass(frozen=True)
class Server:
    """One that runs."""

    pid: int
    target: Target


def environment(folder: Path, *, ocr: str = "off", **more: str) -> dict[str, str]:
    """Airlock's settings for an installation under `folder`, with limits that large files fit in."""
    folder.mkdir(parents=True, exist_ok=True)
    policy = folder / "policy.toml"
    policy.write_text(POLICY.format(ocr=ocr, required='"mime", "structure", "clamav"'))
    return {
        "AIRLOCK_ENVIRONMENT": Environment.DEVELOPMENT.value,
        "AIRLOCK_VAR_DIR": str(folder / "var"),
        "AIRLOCK_POLICY_FILE": str(policy),
        "AIRLOCK_LOG_LEVEL": "INFO",
        **more,
    }


@contextlib.contextmanager
def applied(variables: Mapping[str, str]) -> Iterator[None]:
    """The environment with these in it, until the block ends."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def installation(variables: Mapping[str, str]) -> Iterator[Services]:
    """Airlock's parts in this process, with tables and buckets made."""
    configure_logging("WARNING")
    with applied(variables):
        services = Services(Settings())
    try:
        services.ledger.upgrade()
        for store in (services.quarantine, services.serving):
            if isinstance(store, Provisionable):
                store.ensure_bucket()
        yield services
    finally:
        services.close()


@contextlib.contextmanager
def api(folder: Path, services: Services, variables: Mapping[str, str]) -> Iterator[Server]:
    """Airlock's API: one process of `airlock serve`."""
    key, port = make_key(services.ledger, TENANT), free_port()
    command = [*AIRLOCK, "serve", "--port", str(port)]
    with running(command, lambda: accepts(port), log=folder / "api.log", env=variables, cwd=REPOSITORY) as process:
        yield Server(process.pid, Target(port, "/v1/documents", {"Authorization": f"Bearer {key}"}))


@contextlib.contextmanager
def other(name: str, folder: Path) -> Iterator[Server]:
    """One of `benchmarks.apps`. Raises NotHere where what it needs cannot be had."""
    files, port = folder / name, free_port()
    files.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.apps", name, str(port), str(files)]
    env = {"PYTHONPATH": str(_form_parser(folder))} if name == "uploadfile" else {}
    with running(command, lambda: accepts(port), log=folder / f"{name}.log", env=env, cwd=REPOSITORY) as process:
        yield Server(process.pid, Target(port, "/", {}))


def _form_parser(folder: Path) -> Path:
    # FastAPI's form parser takes the same module name as ours, so the two cannot live in one environment.
    place = folder / "python-multipart"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(place), "python-multipart"]
    if not place.exists() and _failed(install):
        raise NotHere("python-multipart cannot be installed here")
    return place


def _failed(command: list[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True, timeout=180).returncode != 0


@contextlib.contextmanager
def tus(folder: Path) -> Iterator[Server]:
    """@tus/server from npm. Raises NotHere where it cannot be had."""
    files, port = folder / "tus", free_port()
    files.mkdir(parents=True, exist_ok=True)
    for package in ("@tus/server", "@tus/file-store"):
        module(package)
    command = [node(), str(CLIENTS / "tus_server.mjs"), str(port), str(files)]
    with running(command, lambda: accepts(port), log=folder / "tus.log") as process:
        yield Server(process.pid, Target(port, "/files", {"Tus-Resumable": "1.0.0"}))


@contextlib.contextmanager
def workers(folder: Path, variables: Mapping[str, str], count: int, takes: str = "all") -> Iterator[int]:
    """Celery workers of `count` processes, of `airlock worker`; gives the parent's process id."""
    log = folder / f"worker-{takes}.log"
    command = [*AIRLOCK, "worker", "--concurrency", str(count), "--takes", takes]
    with running(command, lambda: b" ready." in log.read_bytes(), log=log, env=variables, cwd=REPOSITORY) as process:
        yield process.pid
