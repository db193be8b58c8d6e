"""`airlock alive`: the health check of one container."""

from __future__ import annotations

import socket
from enum import StrEnum
from typing import Annotated

import typer

from pipeline.cli.console import load_settings
from pipeline.errors import Unavailable

PATIENCE = 5.0  # seconds for an answer


class Role(StrEnum):
    """What the container runs."""

    API = "api"
    WORKER = "worker"
    BEAT = "beat"
    EVENTS = "events"


def alive(part: Annotated[Role, typer.Argument(help="Which part this container runs.")]) -> None:
    """Does the part that runs in this container still answer? For health checks; `airlock doctor` says more."""
    {Role.API: _api, Role.WORKER: _worker, Role.BEAT: _ledger, Role.EVENTS: _ledger}[part]()


def _api() -> None:
    import http.client

    from pipeline.cli.serve import settings_of_api

    settings = settings_of_api()
    connection = http.client.HTTPConnection("127.0.0.1", settings.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        raise Unavailable(f"The API does not answer on port {settings.port}.") from exc
    finally:
        connection.close()
    if status != 200:
        raise Unavailable(f"The API answers {status}.")


def _worker() -> None:
    from kombu.exceptions import KombuError
    from kombu.exceptions import OperationalError as BrokerError

    from pipeline.queue.brokers import broker_of
    from pipeline.queue.celery import CeleryQueue, make_app

    settings = load_settings()
    if not broker_of(settings, ()).tells_all:
        # SQS reaches no particular worker: that the broker answers is all that can be told from here.
        CeleryQueue(settings).ping()
        return
    here = f"@{socket.gethostname()}"
    try:
        replies = make_app(settings).control.ping(timeout=PATIENCE, pattern=f"*{here}", matcher="glob", limit=1)
    except (BrokerError, KombuError, OSError) as exc:
        # The broker's fault: starting this worker again would not mend it.
        raise Unavailable("The broker cannot be reached, so the worker cannot be asked.") from exc
    if not any(name.endswith(here) for reply in replies or [] for name in reply):
        raise Unavailable("The worker does not answer.")


def _ledger() -> None:
    # These listen nowhere; what they work through must answer. That they run at all is the container's own business.
    from pipeline.ledger.session import Ledger

    ledger = Ledger(load_settings().ledger_url)
    try:
        ledger.ping()
    finally:
        ledger.dispose()
