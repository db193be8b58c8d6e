"""Google's own Pub/Sub emulator: streaming pull, push with retry, dead letter topics. It keeps nothing on disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers.process import accepts, free_port, need, running

if TYPE_CHECKING:
    from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient

PROJECT = "airlock-tests"
PLACES = ("/usr/lib/google-cloud-sdk", "/usr/share/google-cloud-sdk", "/opt/google-cloud-sdk", "/snap/google-cloud-sdk")


def jar() -> Path:
    """The emulator. It comes with the Google Cloud SDK alone, in no registry: without it the tests are skipped."""
    roots = [os.environ.get("CLOUDSDK_ROOT", ""), str(Path.home() / "google-cloud-sdk"), *PLACES]
    for root in filter(None, roots):
        if found := sorted(Path(root).glob("platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar")):
            return found[-1]
    pytest.skip("there is no Pub/Sub emulator here: gcloud components install pubsub-emulator")


@dataclass(frozen=True)
class PubSub:
    """Where it listens, and clients for it. PUBSUB_EMULATOR_HOST must say so when a client is made."""

    port: int

    def environment(self) -> dict[str, str]:
        return {"PUBSUB_EMULATOR_HOST": f"127.0.0.1:{self.port}"}

    @cached_property
    def publisher(self) -> PublisherClient:
        from google.cloud.pubsub_v1 import PublisherClient

        return PublisherClient()

    @cached_property
    def subscriber(self) -> SubscriberClient:
        from google.cloud.pubsub_v1 import SubscriberClient

        return SubscriberClient()

    def subscription(self, name: str, **more: Any) -> str:
        """A topic and a subscription of this name; the path of the subscription."""
        topic = self.publisher.topic_path(PROJECT, name)
        path = self.subscriber.subscription_path(PROJECT, name)
        self.publisher.create_topic(name=topic)
        self.subscriber.create_subscription(request={"name": path, "topic": topic, "ack_deadline_seconds": 10, **more})
        return path

    def publish(self, name: str, data: bytes, attributes: dict[str, str]) -> None:
        """Send a message and wait until it is accepted."""
        topic = self.publisher.topic_path(PROJECT, name)
        self.publisher.publish(topic, data, **attributes).result(60)

    def source(self, name: str) -> str:
        """As AIRLOCK_EVENT_SOURCES has it."""
        return f"pubsub://{PROJECT}/{name}"


@contextlib.contextmanager
def pubsub(folder: Path, *, port: int | None = None) -> Iterator[PubSub]:
    """An emulator that ends with the block, and forgets everything with it."""
    archive = jar()
    java = need("java", "apt-get install default-jre-headless")
    port = port or free_port()
    command = [java, "-Xmx512m", "-jar", str(archive), "--host=127.0.0.1", f"--port={port}"]
    with running(command, lambda: accepts(port), log=folder / "pubsub.log"):
        yield PubSub(port)
