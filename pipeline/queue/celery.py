"""Celery as the doorbell: one task a document, JSON only, acknowledged late, no result backend.

What Celery's delivery lacks, the ledger has: a message that comes twice finds no document to claim, one that is lost is
rung again by the sweeper, and attempts are counted in the row, where a killed worker cannot forget them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pipeline.documents import Lane
from pipeline.errors import Draining, LedgerUnavailable, QueueUnavailable
from pipeline.queue.brokers import broker_of
from pipeline.settings import Settings, Takes
from pipeline.telemetry import configure_logging, logger

if TYPE_CHECKING:
    from celery import Celery

    from pipeline.services import Services

TASK = "airlock.advance"
GIVES_WAY = 10  # niceness of a worker that takes bulk alone; what it starts inherits it
DRAIN = signal.SIGUSR2  # to a pool's child: come to an end (SIGTERM is what Celery kills it with, at its time limit)
log = logger(__name__)


def queue_name(lane: Lane, *, bulk: bool = False) -> str:
    """The queue of a lane: one for those whose tenant has few documents on their way, one for the others."""
    return f"{lane.value}-bulk" if bulk else lane.value


def queue_names(lanes: Iterable[Lane], takes: Takes) -> list[str]:
    """The queues that a worker serves. It asks them in turn, so a single document waits behind one of many at most."""
    kinds = {Takes.ALL: (False, True), Takes.SINGLES: (False,), Takes.BULK: (True,)}[takes]
    return [queue_name(lane, bulk=bulk) for bulk in kinds for lane in sorted(lanes)]


def make_app(settings: Settings) -> Celery:
    """A Celery app for the broker that the settings name: Redis, RabbitMQ, SQS, Pub/Sub."""
    from celery import Celery
    from kombu import Exchange, Queue

    names = queue_names(Lane, Takes.ALL)
    broker = broker_of(settings, names)
    app = Celery("airlock", broker=broker.url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=settings.task_time_limit_seconds,
        task_default_queue=Lane.INSPECT.value,
        # Each with an exchange and a key of its own: by Celery's default all would share the first one's, and every
        # message would go to every queue.
        task_queues=[Queue(name, Exchange(name), routing_key=name, durable=True) for name in names],
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        worker_max_tasks_per_child=2000,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        # A lost connection redelivers what runs; the lease makes the second copy harmless, so the first may finish.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_timeout=3,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=dict(broker.options),
        worker_enable_remote_control=broker.tells_all,
        enable_utc=True,
    )
    return app


class CeleryQueue:
    """Publishes document ids."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)

    def ring(self, document_id: UUID, lane: Lane, *, delay: float = 0.0, bulk: bool = False) -> None:
        """See `Queue.ring`: published once the broker has confirmed it, within a few seconds or not at all."""
        try:
            self._app.send_task(
                TASK,
                [str(document_id)],
                queue=queue_name(lane, bulk=bulk),
                countdown=delay or None,
                retry=True,
                retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2},
            )
        except Exception as exc:
            # Whatever it was (kombu lets some of its transports' own errors through): nobody was told. The caller has
            # committed by now, and must not take this for an error of its own.
            raise QueueUnavailable("The broker cannot be reached; the document waits in the database.") from exc

    def ping(self) -> None:
        """See `Queue.ping`."""
        from kombu.exceptions import KombuError
        from kombu.exceptions import OperationalError as BrokerError

        try:
            with self._app.connection_for_write(connect_timeout=3) as connection:
                connection.ensure_connection(max_retries=0, timeout=3)
        except (BrokerError, KombuError, OSError) as exc:
            raise QueueUnavailable("The broker cannot be reached: check AIRLOCK_BROKER_URL and that it runs.") from exc


class _PerProcess:
    """Services of the process that asks: a pool's child must not share its parent's connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: tuple[int, Services] | None = None

    def get(self) -> Services:
        from pipeline.services import Services

        if self._made is None or self._made[0] != os.getpid():
            self._made = (os.getpid(), Services(self._settings))
        return self._made[1]


def make_worker_app(settings: Settings) -> Celery:
    """The app with the task that runs the flow; what a worker serves."""
    from celery import signals
    from celery.exceptions import Reject

    app = make_app(settings)
    services = _PerProcess(settings)

    @app.task(
        name=TASK,
        bind=True,
        autoretry_for=(LedgerUnavailable,),  # nothing could be recorded: the message itself must come again
        retry_backoff=True,
        retry_backoff_max=60,
        retry_jitter=True,
        max_retries=None,
    )
    def advance(self: Any, document_id: str) -> None:
        from pipeline import flow

        try:
            wanted = UUID(document_id)
        except (ValueError, AttributeError, TypeError):
            log.warning("message dropped: not a document id")
            return
        try:
            flow.run(wanted, services.get())
        except Draining:
            # Handed out in the moment of the end: it goes back to the broker, for others.
            raise Reject("draining", requeue=True) from None

    def start(**_: object) -> None:
        configure_logging(settings.log_level, json=settings.log_json)
        # Made before the first document comes, so that it does not wait for imports and connections.
        made = services.get()
        made.drain.watch()
        signal.signal(DRAIN, lambda *_: made.drain.begin())
        made.gate.fitness()

    def stop(**_: object) -> None:
        services.get().close()

    signals.worker_process_init.connect(start, weak=False)
    signals.worker_process_shutdown.connect(stop, weak=False)
    return app


def run_worker(settings: Settings, concurrency: int | None = None) -> None:
    """Serve the settings' lanes until told to stop: by SIGTERM, after which all ends within AIRLOCK_DRAIN_SECONDS."""
    from celery import signals
    from celery.exceptions import SecurityWarning

    configure_logging(settings.log_level, json=settings.log_json)
    signals.setup_logging.connect(lambda **_: None, weak=False)  # ours stays
    app = make_worker_app(settings)
    queues = queue_names(settings.lanes, settings.takes)
    if settings.takes is Takes.BULK:
        os.nice(GIVES_WAY)  # the cores are for whoever waits for a single document
    # Started by root on somebody's own machine, Celery warns about pickle, which is not accepted here.
    warnings.filterwarnings("ignore", category=SecurityWarning, module="celery.platforms")
    worker = app.Worker(
        hostname=f"{'-'.join(queues)}-{os.getpid()}@{socket.gethostname()}",
        pool_cls="prefork",
        concurrency=concurrency or os.cpu_count() or 1,
        queues=",".join(queues),
        loglevel=settings.log_level,
        quiet=True,  # no banner: our log is one JSON object a line
        without_gossip=True,
        without_mingle=True,
    )

    def pass_on(**_: object) -> None:
        # Celery itself waits for as long as its tasks take; platforms do not.
        pool: Any = worker.pool
        for pid in pool.info["processes"] if pool is not None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, DRAIN)

    signals.worker_shutting_down.connect(pass_on, weak=False)
    worker.start()
    sys.exit(worker.exitcode)
