"""What does a cold start cost? Importing the app and creating it, beside importing the frameworks it stands on.

`python -m benchmarks.cold_start [rounds]`. Every round starts fresh interpreters, and the sides take turns.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.measure import Report, ratio, rounds

ROOT = Path(__file__).resolve().parents[1]
GOAL = 1.5

NOTHING = "pass"
FRAMEWORKS = "import fastapi, pydantic_settings, uvicorn"
OURS = "from ingest_api.app import create_app; create_app()"
# What a platform waits for before it sends anything: the app's start, and an answer that touches nothing.
FIRST_ANSWER = """
import asyncio
from ingest_api.app import create_app

async def ask():
    app, said = create_app(), []
    async def receive():
        return {"type": "http.request"}
    async def send(message):
        said.append(message)
    scope = {"type": "http", "method": "GET", "path": "/livez", "headers": [], "query_string": b""}
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
    assert said[0]["status"] == 200

asyncio.run(ask())
"""


def _start(code: str, folder: str) -> float:
    """Wall seconds from the start of a fresh interpreter until `code` is done; its end is nobody's concern. An empty
    folder is its working directory."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "AIRLOCK_VAR_DIR": folder}
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}\nimport os\nos.write(1, b'.')"],
        stdout=subprocess.PIPE,
        cwd=folder,
        env=environment,
    ) as process:
        if process.stdout is None or process.stdout.read(1) != b".":
            raise RuntimeError("it did not come to its end")
        return time.perf_counter() - started


def run(report: Report, *, count: int = 15) -> None:
    """Line 13: the ratio of the medians' sides, and what is beside it."""
    with tempfile.TemporaryDirectory(prefix="airlock-bench-") as folder:
        sides = {"nothing": NOTHING, "frameworks": FRAMEWORKS, "ours": OURS, "answer": FIRST_ANSWER}
        for code in sides.values():  # whatever has no bytecode yet gets it now
            _start(code, folder)
        took = rounds({name: lambda code=code: _start(code, folder) for name, code in sides.items()}, count)  # type: ignore[misc]
    found = ratio(took["ours"], took["frameworks"])
    milliseconds = {name: 1000 * median(times) for name, times in took.items()}
    absolute = f"{milliseconds['ours']:.0f} and {milliseconds['frameworks']:.0f} ms"
    label = f"importing and creating the app <= {GOAL} x importing FastAPI, pydantic-settings and uvicorn"
    report.reached("13", label, f"{found:.2f} ({absolute})", found <= GOAL)
    report.aside("13", "a Python that imports nothing", f"{milliseconds['nothing']:.0f} ms")
    report.aside("13", "ours up to the first answer of /livez", f"{milliseconds['answer']:.0f} ms")


if __name__ == "__main__":
    run(Report(), count=int(sys.argv[1]) if len(sys.argv) > 1 else 15)
