"""Pub/Sub as the doorbell: an id is published to a topic, and comes back to a worker as a push (ingest_api/tasks.py).

Each message carries the attributes `lane` and `bulk`, by which subscriptions can be filtered: a lane of its own can
have a service of its own.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING
from uuid import UUID

from pipeline.documents import Lane
from pipeline.errors import Misconfigured, QueueUnavailable

if TYPE_CHECKING:
    from google.cloud.pubsub_v1 import PublisherClient

PATIENCE = 5.0  # seconds for a publish, with its retries


class PubSubQueue:
    """Publishes document ids. Credentials come from where Google's libraries look for them."""

    def __init__(self, url: str | None) -> None:
        """`url` is pubsub://PROJECT/TOPIC. Raises Misconfigured."""
        project, _, topic = (url or "").removeprefix("pubsub://").partition("/")
        if not (url or "").startswith("pubsub://") or not project or not topic or "/" in topic:
            raise Misconfigured(
                "AIRLOCK_QUEUE=pubsub needs a topic: AIRLOCK_QUEUE_URL looks like pubsub://PROJECT/TOPIC."
            )
        self._topic = f"projects/{project}/topics/{topic}"

    @cached_property
    def _client(self) -> PublisherClient:
        from google.cloud import pubsub_v1

        # Nobody waits for company: whoever uploads waits for this one message.
        return pubsub_v1.PublisherClient(batch_settings=pubsub_v1.types.BatchSettings(max_latency=0.001))

    def ring(self, document_id: UUID, lane: Lane, *, delay: float = 0.0, bulk: bool = False) -> None:
        """See `Queue.ring`. Pub/Sub delays nothing: what is to be tried again later is pushed again by the platform,
        which was told so (see `pushed.answer`), or rung for by the sweeper."""
        if delay > 0:
            return
        from google.api_core.retry import Retry

        try:
            self._client.publish(
                self._topic,
                str(document_id).encode(),
                timeout=PATIENCE,
                retry=Retry(timeout=PATIENCE),  # by itself it would go on for ten minutes, behind our back
                lane=lane.value,
                bulk="1" if bulk else "0",
            ).result(PATIENCE)
        except Exception as exc:
            # Whatever it was (credentials, a channel, a time-out: each has a tree of its own), nobody was told.
            raise QueueUnavailable("Pub/Sub cannot be reached; the document waits in the database.") from exc

    def ping(self) -> None:
        """See `Queue.ping`."""
        from google.api_core.exceptions import NotFound, PermissionDenied

        try:
            self._client.get_topic(topic=self._topic, timeout=PATIENCE, retry=None)
        except PermissionDenied:
            return  # it answers; whoever may only publish may not look
        except NotFound:
            raise QueueUnavailable("The topic that AIRLOCK_QUEUE_URL names is not there.") from None
        except Exception as exc:
            raise QueueUnavailable("Pub/Sub cannot be reached: check AIRLOCK_QUEUE_URL and the credentials.") from exc
