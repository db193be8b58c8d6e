"""The parts of the service, one command each: what a container or a unit file starts."""

from __future__ import annotations

import math
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import load_settings, say
from pipeline.errors import Misconfigured

if TYPE_CHECKING:
    from pipeline.services import Services
    from pipeline.settings import Settings

APP = "ingest_api.app:create_app"  # by name: nothing in pipeline imports the API


def serve(
    host: Annotated[str | None, typer.Option(help="Default: AIRLOCK_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: AIRLOCK_PORT, then PORT.", min=0, max=65535)] = None,
) -> None:
    """Serve the API."""
    import uvicorn

    from pipeline.heap import give_back_large_buffers
    from pipeline.settings import QueueKind
    from pipeline.telemetry import configure_logging

    # The app reads its settings from the environment: whatever was decided here must be there.
    if host is not None:
        os.environ["AIRLOCK_HOST"] = host
    if port is not None:
        os.environ["AIRLOCK_PORT"] = str(port)
    settings = settings_of_api()
    configure_logging(settings.log_level, json=settings.log_json)
    give_back_large_buffers()
    uvicorn.run(
        APP,
        factory=True,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="ingest_api.wire:BoundedHttp",  # by name, like the app: httptools with bounds on heads and time
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # X-Forwarded-* can be sent by anybody
        # An event stream never ends by itself; what runs the flow in its request ends when that is drained.
        timeout_graceful_shutdown=5
        if settings.queue is QueueKind.CELERY
        else max(5, math.ceil(settings.drain_seconds)),
    )


def settings_of_api() -> Settings:
    """Settings with the port that platforms give in PORT, where AIRLOCK_PORT says nothing."""
    if "AIRLOCK_PORT" not in os.environ and os.environ.get("PORT"):
        os.environ["AIRLOCK_PORT"] = os.environ["PORT"]
    return load_settings()


def worker(
    queues: Annotated[str | None, typer.Option(help="Lanes, by commas: inspect,ocr. Default: AIRLOCK_LANES.")] = None,
    takes: Annotated[
        str | None,
        typer.Option(help="all, singles (of tenants with few on their way) or bulk. Default: AIRLOCK_TAKES."),
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Documents at once. Default: one a core.")] = None,
) -> None:
    """Take documents on their way."""
    from pipeline.queue.celery import run_worker

    given = {name: value for name, value in (("lanes", queues), ("takes", takes)) if value}
    run_worker(load_settings(**given), concurrency)


def beat() -> None:
    """Relay, sweep and reconcile at their intervals. One is enough; two do no harm."""
    from pipeline.sweeper import run_beat
    from pipeline.telemetry import configure_logging

    settings = load_settings()
    configure_logging(settings.log_level, json=settings.log_json)
    stop = threading.Event()
    services = _services()
    services.drain.watch()

    def end(*_: object) -> None:
        stop.set()
        services.drain.begin()  # of AIRLOCK_QUEUE=inline the flow runs here

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        run_beat(services, stop)
    finally:
        services.close()


def migrate() -> None:
    """Bring the database to the newest revision."""
    from pipeline.ledger.session import Ledger

    settings = load_settings()
    if settings.database_url is None:
        _make(settings.var_dir)
    ledger = Ledger(settings.ledger_url)
    try:
        ledger.upgrade()
        say(f"The database is at revision {ledger.revision()[0]}.")
    finally:
        ledger.dispose()


def _make(var: Path) -> None:
    try:
        var.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise Misconfigured(
            f"The folder {var} cannot be made ({exc.strerror}): name another one in AIRLOCK_VAR_DIR."
        ) from exc


def sweep() -> None:
    """Sweep and reconcile once, and say what was found."""
    from pipeline import sweeper

    services = _services()
    try:
        for name, count in sweeper.once(services).items():
            say(f"{name:<12} {count}")
    finally:
        services.close()


def _services() -> Services:
    from pipeline.cli.running import settings_of_running
    from pipeline.services import Services

    return Services(settings_of_running())
