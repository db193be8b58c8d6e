"""`airlock run`: everything on one machine, in the foreground."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Callable, Mapping

from pipeline.errors import AirlockError, Misconfigured, QueueUnavailable
from pipeline.local import signatures
from pipeline.local.places import Places, prepare
from pipeline.local.plan import Plan, make_plan
from pipeline.local.supervisor import Stopped, Supervisor
from pipeline.local.welcome import TESTING, first_key, welcome
from pipeline.services import Services
from pipeline.settings import Settings
from pipeline.storage.base import Provisionable
from pipeline.telemetry import configure_logging

FETCH_EVERY = 2 * 3600.0  # seconds between looks for newer signatures
FETCH_AGAIN = 1800.0  # after one that failed
PATIENCE = 300.0  # the public database takes clamd a minute to load on a small machine
COLOURS: Mapping[str, int] = {
    "airlock": 1,
    "api": 36,
    "worker": 32,
    "bulk": 92,
    "ocr": 33,
    "beat": 35,
    "redis": 31,
    "clamd": 34,
}


def show(name: str, line: str) -> None:
    """One line of the log, with the part it comes from."""
    label = f"{name:<9}|"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        label = f"\x1b[{COLOURS.get(name, 37)}m{label}\x1b[0m"
    sys.stdout.write(f"{label} {line}\n")
    sys.stdout.flush()


def run(settings: Settings) -> int:
    """Run everything until told to stop; the exit code."""
    os.umask(0o077)  # what is kept under `var` is nobody else's
    configure_logging("WARNING", json=False)
    places = None
    try:
        places = prepare(settings.var_dir)
        plan = make_plan(settings, places)
        with Supervisor(show, places.stopping) as supervisor:
            _go(supervisor, plan, places)
    except Stopped:
        return 0
    except AirlockError as exc:
        sys.stderr.write(f"{exc.detail}\n")
        return 1
    except BrokenPipeError:
        return 0  # whoever read the log has gone
    finally:
        if places is not None:
            places.close()
    return 0


def _go(supervisor: Supervisor, plan: Plan, places: Places) -> None:
    testing = False
    for part in plan.servers:
        if part.name == "clamd":
            testing = signatures.settle(places)
        show("airlock", f"starting {part.name}")
        supervisor.start(part)
    note(plan, places)
    services = Services(plan.settings)
    try:
        services.ledger.upgrade()
        for store in (services.quarantine, services.serving):
            if isinstance(store, Provisionable):
                store.ensure_bucket()
        for part in plan.servers:
            # clamd may take a minute with the public database; what is uploaded meanwhile waits for it.
            if part.ready is not None and part.name != "clamd" and not supervisor.wait_for(part.name, part.ready, 60):
                raise Misconfigured(f"{part.name} does not answer: look at the lines above.")
        if not any(part.name == "redis" for part in plan.servers):
            _ask_broker(services)
        for part in plan.own:
            show("airlock", f"starting {part.name}")
            supervisor.start(part)
        if plan.freshclam is not None:
            supervisor.later(0.0, _fetching(supervisor, plan, places))
        ready = supervisor.wait_for("Airlock", _ready(plan.settings), PATIENCE)
        if ready:
            for line in welcome(plan.settings.base_url, first_key(services), testing=testing):
                show("airlock", line)
    finally:
        services.close()
    supervisor.run()


def _ask_broker(services: Services) -> None:
    """Say in a line that a given broker is away, before the workers do at length: no reason not to start."""
    try:
        services.queue.ping()
    except QueueUnavailable as exc:
        show("airlock", f"{exc.detail} What is uploaded meanwhile waits.")


def note(plan: Plan, places: Places) -> None:
    """Leave word of what was started here, for `airlock doctor` and the like."""
    names = ("environment", "host", "port", "broker_url", "clamd_url", "clamd_conf")
    found = {name: plan.env[f"AIRLOCK_{name.upper()}"] for name in names if f"AIRLOCK_{name.upper()}" in plan.env}
    (places.var / "run.json").write_text(json.dumps(found, indent=2) + "\n")


def _ready(settings: Settings) -> Callable[[], bool]:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104

    def ready() -> bool:
        connection = http.client.HTTPConnection(host, settings.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ready


def _fetching(supervisor: Supervisor, plan: Plan, places: Places) -> Callable[[], None]:
    """Look for newer signatures now and for ever after; a failure is said once, in a line."""
    part = plan.freshclam
    assert part is not None  # noqa: S101

    def fetch() -> None:
        supervisor.start(part, finished)

    def finished(code: int) -> None:
        if code == 0 and signatures.official(places):
            signatures.settle(places)
            if signatures.reload(places):
                show("airlock", "The public signature database is loaded.")
        elif not signatures.official(places):
            show("airlock", f"No public signatures yet (see {places.clamav / 'freshclam.log'}). {TESTING[0]}")
        supervisor.later(FETCH_EVERY if code == 0 else FETCH_AGAIN, fetch)

    return fetch
