"""Pub/Sub -> a document, by streaming pull from Google's own emulator, with messages as Cloud Storage sends them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.cloud.pubsub_v1.subscriber.message import Message

from pipeline.api_keys import make_key
from pipeline.documents import Filters
from pipeline.errors import LedgerUnavailable
from pipeline.events import intake
from pipeline.events.open import open_sources
from pipeline.events.pubsub import PubSubSource
from pipeline.landing import Outcome
from pipeline.storage.base import ObjectStat
from tests.messages import gcs_attributes, resource
from tests.servers.gcs_double import GCSDouble
from tests.servers.process import free_port
from tests.servers.pubsub import PubSub, pubsub
from tests.system import until
from tests.world import TENANT, World

KEY = f"drop/{TENANT}/Rechnung März + 100 %.csv"


class Place:
    """An Airlock, and a subscription that tells it of objects."""

    def __init__(self, folder: Path, server: PubSub, **settings: Any) -> None:
        self.server = server
        self.name = f"landed-{uuid4().hex[:12]}"
        self.world = World(
            folder,
            retry_base_seconds=0.05,
            retry_cap_seconds=1,
            event_sources=[server.source(self.name)],
            **settings,
        )
        self.published = 0
        server.subscription(self.name)
        make_key(self.world.services.ledger, TENANT)

    @property
    def bucket(self) -> str:
        return self.world.services.quarantine.bucket

    def put(self, key: str = KEY, body: bytes = b"some,text\n") -> ObjectStat:
        with self.world.services.quarantine.create(key) as writer:
            writer.write(body)
            return writer.commit()

    def tell(self, key: str = KEY, **changes: Any) -> None:
        bucket = changes.pop("bucket", self.bucket)
        data = json.dumps(resource(bucket, key)).encode()
        self.publish(changes.pop("data", data), gcs_attributes(bucket, key, **changes))

    def publish(self, data: bytes, attributes: dict[str, str]) -> None:
        self.server.publish(self.name, data, attributes)
        self.published += 1

    def documents(self, count: int) -> list[UUID]:
        """Wait until there are so many; no more must have come."""

        def there() -> list[UUID]:
            with self.world.services.ledger.reading() as tx:
                return [one.id for one in tx.documents(Filters(TENANT), limit=200)[0]]

        until(lambda: len(there()) >= count, f"{count} documents", 60)
        assert len(there()) == count
        return there()

    def letters(self) -> list[tuple[str, int]]:
        with self.world.services.ledger.reading() as tx:
            return [(letter.body, letter.count) for letter in tx.dead_letters(100)]


@contextlib.contextmanager
def receiving(place: Place) -> Iterator[PubSubSource]:
    """The consumer, running until the block ends; it must then end by itself."""
    [source] = open_sources(place.world.services.settings.event_sources, place.world.services)
    assert isinstance(source, PubSubSource)
    stop = threading.Event()
    thread = threading.Thread(target=source.run, args=(stop,))
    thread.start()
    try:
        yield source
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def acked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The ids of the messages that were acknowledged."""
    found: set[str] = set()
    ack = Message.ack

    def noted(message: Message) -> None:
        found.add(message.message_id)
        ack(message)

    monkeypatch.setattr(Message, "ack", noted)
    return found


@pytest.fixture
def place(tmp_path: Path, pubsub_server: PubSub) -> Iterator[Place]:
    made = Place(tmp_path, pubsub_server)
    yield made
    made.world.services.close()


def plain(n: int) -> str:
    return f"drop/{TENANT}/{n}.csv"


def test_an_object_of_cloud_storage_becomes_a_document(
    tmp_path: Path, pubsub_server: PubSub, gcs_server: GCSDouble, acked: set[str]
) -> None:
    urls = {
        f"{role}_url": f"gs://{role}-{uuid4().hex[:8]}?endpoint={gcs_server.endpoint}"
        for role in ("quarantine", "serving")
    }
    place = Place(tmp_path, pubsub_server, **urls)
    with receiving(place):
        stat = place.put()
        place.tell(generation=stat.ref.version)
        place.tell(generation=stat.ref.version, payloadFormat="NONE", data=b"")
        [document_id] = place.documents(1)
        until(lambda: len(acked) == place.published, "all are acknowledged", 60)
    document = place.world.document(document_id)
    assert (document.name, document.size) == ("Rechnung März + 100 %.csv", 10)
    assert place.letters() == []
    place.world.services.close()


def test_duplicates_strangers_reordering_and_poison(place: Place, acked: set[str]) -> None:
    for n in range(12):
        place.put(plain(n))
        place.tell(plain(n))
    for n in reversed(range(12)):
        place.tell(plain(n), eventTime="2020-01-01T00:00:00Z")
    place.tell(bucket="somebody-elses")
    place.tell(plain(99))  # not there
    place.tell(plain(0), eventType="OBJECT_DELETE")
    place.tell(plain(0), eventType="OBJECT_METADATA_UPDATE")
    for _ in range(3):
        place.publish(b"nonsense", {})
    with receiving(place):
        place.documents(12)
        until(lambda: place.letters() == [("nonsense", 3)], "the poison is kept, and counted", 60)
        until(lambda: len(acked) == place.published, "all are acknowledged", 60)
    assert len(place.documents(12)) == 12


def test_what_is_away_is_waited_for_and_then_all_is_landed(
    place: Place, acked: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = intake.land, []

    def away(landed: Any, services: Any) -> Outcome:
        if len(refused) < 5:
            refused.append(landed.key)
            raise LedgerUnavailable
        return real(landed, services)

    monkeypatch.setattr("pipeline.events.intake.land", away)
    for n in range(3):
        place.put(plain(n))
        place.tell(plain(n))
    with receiving(place):
        place.documents(3)
        until(lambda: len(acked) == place.published, "all are acknowledged", 60)
    assert len(refused) == 5
    assert place.letters() == []


def test_a_message_in_hand_is_finished_before_the_end(
    place: Place, acked: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = intake.land
    entered, let_go = threading.Event(), threading.Event()

    def slow(landed: Any, services: Any) -> Outcome:
        entered.set()
        assert let_go.wait(60)
        return real(landed, services)

    monkeypatch.setattr("pipeline.events.intake.land", slow)
    place.put(plain(0))
    place.tell(plain(0))
    with receiving(place):
        assert entered.wait(60)
        threading.Timer(1, let_go.set).start()
    place.documents(1)
    assert len(acked) == 1


@pytest.mark.slow
def test_a_lease_is_extended_while_landing_takes_long(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the subscription's ack deadline of 10 seconds: nobody else may get the message meanwhile."""
    real = intake.land
    calls: list[str] = []
    let_go = threading.Event()

    def slow(landed: Any, services: Any) -> Outcome:
        calls.append(landed.key)
        assert let_go.wait(120)
        return real(landed, services)

    monkeypatch.setattr("pipeline.events.intake.land", slow)
    place.put(plain(0))
    place.tell(plain(0))
    with receiving(place):
        until(lambda: calls, "it is in hand", 60)
        with receiving(place):  # another one, that would be given it
            let_go.wait(25)
            let_go.set()
        place.documents(1)
    assert calls == [plain(0)]


@pytest.mark.slow
def test_an_emulator_that_goes_away_and_comes_back_is_read_on(tmp_path: Path, pubsub_server: PubSub) -> None:
    # `pubsub_server` only says whether there is an emulator: this test needs one that it can end.
    port = free_port()
    with pytest.MonkeyPatch.context() as environment, contextlib.ExitStack() as closing:
        environment.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{port}")
        with pubsub(tmp_path, port=port) as server:
            place = Place(tmp_path / "airlock", server)
            closing.callback(place.world.services.close)
            consumer = closing.enter_context(receiving(place))
            place.put(plain(0))
            place.tell(plain(0))
            place.documents(1)
        with pubsub(tmp_path, port=port) as server:  # it remembers nothing: all is set up anew
            until(lambda: consumer._pace._failures > 0, "a subscription that does not exist is no reason to end", 120)
            place.server = server
            server.subscription(place.name)
            place.put(plain(1))
            place.tell(plain(1))
            place.documents(2)
            closing.close()  # the consumer ends while there is an emulator
