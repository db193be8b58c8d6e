"""Runs the consumers of all sources in one process: `airlock events`."""

from __future__ import annotations

import threading

from pipeline.events.open import Source, open_sources
from pipeline.services import Services
from pipeline.telemetry import logger

log = logger(__name__)


def run_events(services: Services, stop: threading.Event) -> None:
    """Receive from every source of AIRLOCK_EVENT_SOURCES until `stop`, then finish what is in hand.

    Raises:
        Misconfigured: a source cannot be meant like this.
        Exception: a consumer fell over. The others are stopped, so that whoever supervises us starts all anew.
    """
    sources = open_sources(services.settings.event_sources, services)
    fallen: list[BaseException] = []

    def receive(source: Source) -> None:
        try:
            source.run(stop)
        except BaseException as exc:
            log.exception("consumer fell over", source=source.name)
            fallen.append(exc)
            stop.set()

    threads = [threading.Thread(target=receive, args=(source,), name=source.name) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if fallen:
        raise fallen[0]
