"""S3 -> SQS -> a document: the events are really sent, by each of S3's ways, and the consumer is the real one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from pipeline.api_keys import make_key
from pipeline.documents import Filters
from pipeline.errors import Misconfigured
from pipeline.events import s3, sqs
from pipeline.events.landed import ObjectLanded
from pipeline.events.open import open_source, open_sources
from pipeline.events.run import run_events
from pipeline.events.sqs import SqsSource
from pipeline.landing import Outcome
from tests.messages import guide, s3_event, s3_test_event
from tests.servers.moto import Moto, moto
from tests.servers.process import free_port
from tests.system import ROOT, until
from tests.world import TENANT, World

KEY = f"drop/{TENANT}/Rechnung März + 100 %.csv"


class Place:
    """A bucket whose events go to a queue of its own, and an Airlock whose quarantine it is."""

    def __init__(self, folder: Path, server: Moto, *, way: str = "sqs", versioned: bool = False) -> None:
        self.server = server
        self.bucket = f"q{uuid4().hex[:12]}"
        self.queue_url, self.arn = server.queue(self.bucket)
        urls = {"quarantine_url": server.bucket_url(self.bucket), "serving_url": server.bucket_url(f"{self.bucket}-s")}
        self.world = World(
            folder, retry_base_seconds=0.05, retry_cap_seconds=1, event_sources=[server.source(self.queue_url)], **urls
        )
        make_key(self.world.services.ledger, TENANT)
        if versioned:
            server.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})
        server.announce(self.bucket, self.arn, way=way)

    def put(self, key: str = KEY, body: bytes = b"some,text\n") -> None:
        self.server.s3.put_object(Bucket=self.bucket, Key=key, Body=body)

    def send(self, body: bytes) -> None:
        self.server.sqs.send_message(QueueUrl=self.queue_url, MessageBody=body.decode())

    def documents(self, count: int) -> list[UUID]:
        """Wait until there are so many, and the queue is empty; no more must have come."""

        def there() -> list[UUID]:
            with self.world.services.ledger.reading() as tx:
                return [one.id for one in tx.documents(Filters(TENANT), limit=200)[0]]

        until(lambda: len(there()) >= count and self.drained(), f"{count} documents", 60)
        assert len(there()) == count
        return there()

    def drained(self) -> bool:
        return self.server.left_in(self.queue_url) == (0, 0)

    def letters(self) -> list[tuple[str, int]]:
        with self.world.services.ledger.reading() as tx:
            return [(letter.body, letter.count) for letter in tx.dead_letters(100)]


@contextlib.contextmanager
def receiving(place: Place) -> Iterator[SqsSource]:
    """The consumer, running until the block ends; it must then end by itself."""
    [source] = open_sources(place.world.services.settings.event_sources, place.world.services)
    assert isinstance(source, SqsSource)
    source.extend_every = 0.2
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
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqs, "WAIT_S", 1)


@pytest.fixture
def make(tmp_path: Path, moto_server: Moto) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def place(**how: Any) -> Place:
        made.append(Place(tmp_path / str(len(made)), moto_server, **how))
        return made[-1]

    yield place
    for each in made:
        each.world.services.close()


@pytest.mark.parametrize("way", ["sqs", "sns", "sns raw", "eventbridge"])
def test_an_object_becomes_a_document_by_every_way_its_event_can_take(make: Callable[..., Place], way: str) -> None:
    place = make(way=way)
    with receiving(place):
        place.put()
        [document_id] = place.documents(1)
    document = place.world.document(document_id)
    assert document.name == "Rechnung März + 100 %.csv"
    assert place.letters() == []


def test_each_version_is_a_document_of_its_own_and_is_not_taken_twice(make: Callable[..., Place]) -> None:
    place = make(versioned=True)
    with receiving(place):
        place.put(body=b"one\n")
        [first] = place.documents(1)
        place.put(body=b"two!\n")
        assert len(place.documents(2)) == 2
        place.send(s3_event(place.bucket, KEY))
        assert len(place.documents(2)) == 2
    assert place.world.document(first).size == 4


def test_duplicates_strangers_reordering_and_poison(make: Callable[..., Place]) -> None:
    place = make()
    for n in range(12):
        place.put(f"drop/{TENANT}/{n}.csv")
    for n in reversed(range(12)):  # once more, the other way round, and older by their words
        place.send(s3_event(place.bucket, f"drop/{TENANT}/{n}.csv", eventTime="2020-01-01T00:00:00Z", sequencer="00"))
    place.send(s3_event("somebody-elses", KEY))
    place.send(s3_event(place.bucket, f"drop/{TENANT}/gone.csv"))
    place.send(s3_event(place.bucket, KEY, eventName="ObjectRemoved:Delete"))
    for _ in range(3):
        place.send(b"nonsense")
    with receiving(place):
        place.documents(12)
        until(lambda: place.letters() == [("nonsense", 3)], "the poison is kept, and counted", 60)
        until(place.drained, "the queue is empty", 60)


def test_a_message_in_hand_is_nobody_elses_however_long_it_takes(
    make: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two consumers: were the timeout of one second not extended, the other one would get it too."""
    monkeypatch.setattr(sqs, "VISIBLE_AFTER_S", 1)
    place = make()
    entered, let_go, calls = threading.Event(), threading.Event(), []

    def slow(landed: Any, services: Any) -> Outcome:
        calls.append(landed.key)
        entered.set()
        assert let_go.wait(60)
        return Outcome.KNOWN

    monkeypatch.setattr("pipeline.events.intake.land", slow)
    place.put()
    with receiving(place), receiving(place):
        assert entered.wait(60)
        until(lambda: place.server.left_in(place.queue_url) == (0, 1), "only the slow one is left", 60)
        # Several timeouts long, seen from the outside: it never becomes visible.
        seen = [place.server.left_in(place.queue_url) for _ in range(20) if not let_go.wait(0.1)]
        let_go.set()
        until(place.drained, "done with", 60)
    assert set(seen) == {(0, 1)}
    assert calls == [KEY]


def test_what_is_away_is_waited_for_and_then_all_is_landed(
    make: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.errors import LedgerUnavailable
    from pipeline.events import intake

    place = make()
    real, refused = intake.land, []

    def away(landed: Any, services: Any) -> Outcome:
        if len(refused) < 5:
            refused.append(landed.key)
            raise LedgerUnavailable
        return real(landed, services)

    monkeypatch.setattr("pipeline.events.intake.land", away)
    for n in range(3):
        place.put(f"drop/{TENANT}/{n}.csv")
    with receiving(place):
        place.documents(3)
    assert len(refused) == 5
    assert place.letters() == []


def test_what_a_dead_consumer_had_in_hand_comes_to_the_next(make: Callable[..., Place]) -> None:
    place = make()
    place.put()

    def in_hand() -> bool:  # received, and then neither deleted nor held on to
        found = place.server.sqs.receive_message(QueueUrl=place.queue_url, MaxNumberOfMessages=10, VisibilityTimeout=2)
        return bool(found.get("Messages"))

    until(in_hand, "the event", 60)
    with receiving(place):
        place.documents(1)


def test_a_message_that_cannot_be_deleted_comes_again_and_changes_nothing(
    make: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqs, "VISIBLE_AFTER_S", 1)
    place = make()
    failures = 0

    class Half:
        """A queue of which every other batch of deletions fails."""

        def __init__(self, client: Any) -> None:
            self._client = client
            self.receive_message = client.receive_message
            self.change_message_visibility_batch = client.change_message_visibility_batch
            self.close = client.close

        def delete_message_batch(self, **how: Any) -> Mapping[str, Any]:
            nonlocal failures
            if failures < 2:
                failures += 1
                return {"Failed": [{"Id": each["Id"], "Code": "InternalError"} for each in how["Entries"]]}
            answer: Mapping[str, Any] = self._client.delete_message_batch(**how)
            return answer

    client = SqsSource._client
    monkeypatch.setattr(SqsSource, "_client", lambda self: Half(client(self)))
    with receiving(place):
        place.put()
        place.documents(1)
    assert failures == 2
    assert place.letters() == []


def test_a_queue_that_goes_away_and_comes_back_is_read_on(tmp_path: Path, moto_server: Moto) -> None:
    # `moto_server` is there for its environment: this test needs a server that it can end.
    port = free_port()
    with contextlib.ExitStack() as closing:
        with moto(tmp_path, port=port) as server:
            place = Place(tmp_path / "airlock", server)
            closing.callback(place.world.services.close)
            consumer = closing.enter_context(receiving(place))
            place.put(f"drop/{TENANT}/before.csv")
            place.documents(1)
        until(lambda: consumer._pace._failures > 1, "the queue is missed", 60)
        with moto(tmp_path, port=port) as server:  # it remembers nothing: all is set up anew
            place.server.s3.create_bucket(Bucket=place.bucket)
            until(lambda: consumer._pace._failures > 3, "a queue that does not exist is no reason to end", 60)
            place.server.queue(place.bucket)
            place.server.announce(place.bucket, place.arn)
            place.put(f"drop/{TENANT}/after.csv")
            place.documents(2)
            closing.close()  # the consumer ends while there is a queue


def test_the_command_receives_and_ends_when_told_to(make: Callable[..., Place]) -> None:
    place = make()
    settings = place.world.services.settings
    environment = {
        **os.environ,
        "AIRLOCK_VAR_DIR": str(settings.var_dir),
        "AIRLOCK_QUARANTINE_URL": settings.quarantine,
        "AIRLOCK_SERVING_URL": settings.serving,
        "AIRLOCK_EVENT_SOURCES": place.server.source(place.queue_url),
        "AIRLOCK_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",  # nobody is rung; the outbox keeps it
        "AIRLOCK_LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "pipeline.cli", "events"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE) as process:
        place.put()
        place.documents(1)
        process.send_signal(signal.SIGTERM)
        place.send(s3_test_event(place.bucket))  # what the poll that is under way brings is still taken
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert place.drained()
    assert b"rechnung" not in errors.lower()


def test_what_the_guide_shows_brings_the_events(moto_server: Moto) -> None:
    def client(service: str) -> Any:
        return moto_server.client(service, region="eu-west-1")

    bucket, queues = "acme-quarantine", client("sqs")
    client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    attributes = {"Policy": guide("policy.json"), "VisibilityTimeout": "60"}
    url = queues.create_queue(QueueName="landed", Attributes=attributes)["QueueUrl"]
    policy = json.loads(queues.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]["Policy"])
    arn = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    assert policy["Statement"][0]["Resource"] == arn

    def told(configuration: dict[str, Any]) -> ObjectLanded:
        client("s3").put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=configuration)
        client("s3").put_object(Bucket=bucket, Key=KEY, Body=b"x")

        def landed() -> list[ObjectLanded]:
            found = queues.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            results = [result for each in found for result in s3.read(each["Body"].encode(), {})]
            return [result for result in results if isinstance(result, ObjectLanded)]

        [one] = until(landed, "the event", 60)
        assert isinstance(one, ObjectLanded)
        return one

    assert told(json.loads(guide("notification.json"))).source == "s3"
    rules = client("events")
    rules.put_rule(Name="landed", EventPattern=guide("rule.json"))
    rules.put_targets(Rule="landed", Targets=[{"Id": "1", "Arn": arn}])
    by_rule = told({"EventBridgeConfiguration": {}})
    assert (by_rule.source, by_rule.bucket, by_rule.key) == ("eventbridge", bucket, KEY)


def test_a_consumer_that_falls_over_ends_the_process(
    make: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make()
    monkeypatch.setattr(SqsSource, "_receive", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_events(place.world.services, threading.Event())


@pytest.mark.parametrize(
    ("url", "endpoint", "queue", "region"),
    [
        (
            "https://sqs.eu-west-1.amazonaws.com/123456789012/landed",
            "https://sqs.eu-west-1.amazonaws.com",
            "landed",
            "eu-west-1",
        ),
        (
            "sqs://sqs.cn-north-1.amazonaws.com.cn/1/a_b-c",
            "https://sqs.cn-north-1.amazonaws.com.cn",
            "a_b-c",
            "cn-north-1",
        ),
        (
            "https://vpce-1a.sqs.us-east-2.vpce.amazonaws.com/1/q.fifo",
            "https://vpce-1a.sqs.us-east-2.vpce.amazonaws.com",
            "q.fifo",
            "us-east-2",
        ),
        ("sqs+http://localhost:9324/000000000000/q?region=elasticmq", "http://localhost:9324", "q", "elasticmq"),
        ("sqs+https://mq.internal/1/q?region=x", "https://mq.internal", "q", "x"),
    ],
)
def test_urls_of_queues(tmp_path: Path, url: str, endpoint: str, queue: str, region: str) -> None:
    world = World(tmp_path)
    source = open_source(url, world.services)
    assert isinstance(source, SqsSource)
    assert (source.name, source._endpoint, source._region) == (f"sqs/{queue}", endpoint, region)
    world.services.close()


@pytest.mark.parametrize(
    "url",
    [
        "sqs://secret.internal/1/q",
        "sqs://sqs.eu-west-1.amazonaws.com/secret",
        "sqs+http://secret:word@localhost/1/q?region=x",
        "sqs+http://localhost:port/1/secret?region=x",
        "sqs+http://localhost/1/q?region=x&secret=1",
        "http://sqs.eu-west-1.amazonaws.com/1/secret",
        "pubsub://acme/secret/subscription",
        "pubsub://acme-prod",
        "pubsub://acme-prod/landed?secret=1",
        "kafka://secret",
        "secret",
    ],
)
@pytest.mark.cwe("CWE-209")
def test_a_source_that_cannot_be_meant_is_refused_without_its_address(tmp_path: Path, url: str) -> None:
    world = World(tmp_path, event_sources=[url])
    with pytest.raises(Misconfigured) as raised:
        run_events(world.services, threading.Event())
    assert "secret" not in str(raised.value)
    world.services.close()


def test_no_source_at_all(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(Misconfigured, match="AIRLOCK_EVENT_SOURCES names no queue"):
        run_events(world.services, threading.Event())
    world.services.close()
