"""Where a platform calls instead of running: what it is told by, what must be set there, and what Vercel is given."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pipeline.errors import Misconfigured
from pipeline.platforms import CLOUD_RUN, LAMBDA, VERCEL, must_last, platform
from pipeline.services import Services
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PEM = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode().strip()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"VERCEL": "1"}, VERCEL),
        ({"AWS_LAMBDA_FUNCTION_NAME": "airlock"}, LAMBDA),
        ({"VERCEL": "1", "AWS_LAMBDA_FUNCTION_NAME": "x"}, VERCEL),
        ({"K_SERVICE": "airlock"}, CLOUD_RUN),
        ({"VERCEL": ""}, None),
    ],
)
def test_a_platform_is_told_by_its_environment(environment: dict[str, str], expected: object) -> None:
    assert platform(environment) is expected


@pytest.mark.parametrize("where", [VERCEL, LAMBDA, CLOUD_RUN], ids=lambda where: str(where.name))
def test_nothing_that_must_last_may_lie_on_an_instance(where: Any) -> None:
    with pytest.raises(Misconfigured) as raised:
        must_last(Settings(), where)
    for name in ("DATABASE_URL", "QUARANTINE_URL", "SERVING_URL", "RECEIPT_KEY"):
        assert f"AIRLOCK_{name}" in str(raised.value)
    must_last(Settings(), None)
    urls = {"database_url": "postgresql://db/a", "quarantine_url": "gs://a", "serving_url": "gs://b"}
    with pytest.raises(Misconfigured, match=r"set AIRLOCK_RECEIPT_KEY, or"):
        must_last(Settings(**urls), where)
    must_last(Settings(**urls, receipt_key=PEM), where)


@pytest.mark.parametrize("pem", ["", "junk", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
def test_a_receipt_key_that_is_none_is_refused_without_being_told(pem: str) -> None:
    with pytest.raises(Misconfigured, match="AIRLOCK_RECEIPT_KEY does not hold") as raised:
        _ = Services(Settings(receipt_key=pem)).receipts
    assert "AAAA" not in str(raised.value)


# --- Vercel -------------------------------------------------------------------------------------------------------

ASK = """
import asyncio, json, sys
for name in GONE:
    sys.modules[name] = None  # as if it had not been installed
import index
assert callable(index.app)

async def ask(path):
    said = []
    async def receive():
        return {"type": "http.request"}
    async def send(message):
        said.append(message)
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    await index.app(scope, receive, send)
    return said[0]["status"], b"".join(message.get("body", b"") for message in said[1:])

async def main():
    print(json.dumps([(status, body.decode()) for status, body in [await ask("/livez"), await ask("/v1/policy")]]))

asyncio.run(main())
"""
IMPORTED_AS = {"pillow": "PIL", "python-magic": "magic", "google-cloud-storage": "google"}


def vercel() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "vercel.json").read_text())
    return found


def left_out() -> list[str]:
    """The packages that vercel.json removes after it has installed what is locked."""
    return str(vercel()["installCommand"]).partition("uv pip uninstall ")[2].split()


def run_entry(folder: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a fresh interpreter whose working directory cannot be written, not even by root."""
    for name in ("index.py", "ingest_api", "pipeline", "scanners"):
        (folder / name).symlink_to(ROOT / name)
    gone = [IMPORTED_AS.get(name, name) for name in left_out()]
    return subprocess.run(
        [sys.executable, "-B", "-c", code.replace("GONE", repr(gone))],
        cwd="/proc",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "VERCEL": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


SET = {
    "AIRLOCK_DATABASE_URL": "postgresql://airlock:secret@127.0.0.1:1/airlock",
    "AIRLOCK_QUARANTINE_URL": "s3://quarantine?region=eu-west-1",
    "AIRLOCK_SERVING_URL": "s3://serving?region=eu-west-1",
    "AIRLOCK_RECEIPT_KEY": PEM,
}


def test_vercels_entry_answers_without_what_only_workers_need(tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    done = run_entry(tmp_path, ASK, **SET)
    assert done.returncode == 0, done.stderr
    (livez, policy) = json.loads(done.stdout)
    assert livez == [200, "ok\n"]
    assert policy[0] == 200
    assert json.loads(policy[1])["request"]["bytes"] == VERCEL.body_bytes
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {
        "index.py",
        "ingest_api",
        "pipeline",
        "scanners",
    }


def test_vercels_entry_says_what_is_missing(tmp_path: Path) -> None:
    done = run_entry(tmp_path, "import index")
    assert done.returncode != 0
    assert "On Vercel nothing on the instance lasts: set AIRLOCK_DATABASE_URL" in done.stderr


def test_vercels_files_name_what_is_there() -> None:
    config = vercel()
    assert config["framework"] == "fastapi"
    # Its builder takes the first of these names that has a top-level `app`; the others must not be there.
    assert [path.name for path in ROOT.glob("*.py")] == ["index.py"]
    assert re.search(r"^app = ", (ROOT / "index.py").read_text(), re.MULTILINE)
    assert config["functions"].keys() == {"index.py"}
    install, _, _ = config["installCommand"].partition(" && ")
    assert "-r deploy/runtime.lock" in install
    assert "--require-hashes" in install
    locked = set(re.findall(r"^([a-z0-9.-]+)(?:\[\w+\])?==", (ROOT / "deploy/runtime.lock").read_text(), re.MULTILINE))
    assert set(left_out()) <= locked
    kept = {line[1:] for line in (ROOT / ".vercelignore").read_text().splitlines() if line.startswith("!")}
    assert kept == {
        *("index.py", "vercel.json", "pyproject.toml", "ingest_api", "pipeline", "scanners"),
        *("deploy", "deploy/runtime.lock"),
    }
    assert all((ROOT / name).exists() for name in kept)
