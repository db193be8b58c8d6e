"""Receives Cloud Storage's notifications from a Pub/Sub subscription by streaming pull ("Pull subscriptions", "Extend
ack time with lease management" of its guide).

The client library holds the stream open and extends the lease of what is in hand. A message is acknowledged once what
it tells of is committed.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pipeline.events import gcs
from pipeline.events.intake import Disposition, take
from pipeline.events.pace import Pace
from pipeline.services import Services
from pipeline.telemetry import logger

if TYPE_CHECKING:
    from google.cloud.pubsub_v1.subscriber.message import Message

log = logger(__name__)

AT_ONCE = 10  # messages in hand
BYTES_IN_HAND = 32 << 20  # a message has at most 10 MB
LOOK_EVERY_S = 0.5  # whether to stop, and whether the stream is over
FINISH_WITHIN_S = 600.0
LONGEST_S = 600  # the longest ack deadline there is


class PubSubSource:
    """One subscription."""

    def __init__(self, project: str, subscription: str, services: Services) -> None:
        self.name = f"pubsub/{subscription}"
        self._path = f"projects/{project}/subscriptions/{subscription}"
        self._services = services
        self._pace = Pace(services.settings)
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """See Source."""
        self._stop = stop
        log.info("receiving", source=self.name)
        while not stop.is_set():
            try:
                self._stream(stop)
            except Exception as exc:  # noqa: BLE001 - whatever ended the stream: no such subscription, no permission...
                delay = self._pace.failed()
                log.warning(
                    "subscription cannot be read",
                    source=self.name,
                    error=type(exc).__name__,
                    again_in=round(delay, 1),
                )
                stop.wait(delay)

    def _stream(self, stop: threading.Event) -> None:
        """One stream, from its opening to its end. Raises what ended it, unless that was `stop`."""
        from google.cloud.pubsub_v1 import SubscriberClient
        from google.cloud.pubsub_v1.subscriber.scheduler import ThreadScheduler
        from google.cloud.pubsub_v1.types import FlowControl

        with SubscriberClient() as client:
            stream = client.subscribe(
                self._path,
                self._received,
                flow_control=FlowControl(
                    max_messages=AT_ONCE,
                    max_bytes=BYTES_IN_HAND,
                    max_lease_duration=self._services.settings.task_time_limit_seconds,
                ),
                scheduler=ThreadScheduler(ThreadPoolExecutor(AT_ONCE, "pubsub")),
                await_callbacks_on_shutdown=True,  # what is in hand is finished; what is only held goes back
            )
            while not stop.wait(LOOK_EVERY_S):
                if stream.done():
                    break
            stream.cancel()
            stream.result(FINISH_WITHIN_S)

    def _received(self, message: Message) -> None:
        attributes: dict[str, Any] = dict(message.attributes)
        disposition = take(
            message.data,
            attributes,
            gcs.read,
            self._services,
            source=self.name,
            attempt=message.delivery_attempt,
        )
        if disposition is Disposition.ACK:
            message.ack()
            self._pace.worked()
            return
        # A bare nack would bring it back at once. So its lease is made to end later, and then let go of.
        delay = self._pace.failed()
        message.modify_ack_deadline(min(max(round(delay), 1), LONGEST_S))
        message.drop()
        # A part is away: with all threads waiting nothing more is pulled, to be counted as delivered in vain.
        self._stop.wait(delay)
