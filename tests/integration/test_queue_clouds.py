"""The clouds' own queues as the doorbell: Pub/Sub on Google's emulator, which really pushes; SQS on moto."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from ingest_api.app import create_app
from pipeline.documents import Lane
from pipeline.errors import Misconfigured, QueueUnavailable
from pipeline.queue.pubsub import PubSubQueue
from pipeline.queue.sqs import SqsQueue
from pipeline.services import Services
from pipeline.settings import Settings
from pipeline.states import State
from scanners.base import Sample, ScannerUnavailable
from tests.servers.app import served
from tests.servers.moto import Moto
from tests.servers.oidc import ACCOUNT, AUDIENCE, Issuer, issuer
from tests.servers.process import free_port
from tests.servers.pubsub import PROJECT, PubSub
from tests.system import until
from tests.world import World


@pytest.fixture(scope="module")
def google() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


@contextlib.contextmanager
def signing(target: str, google: Issuer, answers: list[int]) -> Iterator[str]:
    """Passes pushes on with the token that Pub/Sub would send, and the emulator does not. Keeps the answers."""

    class Pass(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {"Authorization": f"Bearer {google.token()}", "Content-Type": self.headers["Content-Type"]}
            answer = httpx.post(target, content=body, headers=headers, timeout=60)
            answers.append(answer.status_code)
            self.send_response(answer.status_code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Pass) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class Pushed:
    """An Airlock whose bell is a topic, a push subscription and its own API."""

    def __init__(self, folder: Path, server: PubSub, google: Issuer, stack: contextlib.ExitStack) -> None:
        name = f"run-{uuid4().hex[:8]}"
        self.answers: list[int] = []
        self.world = World(
            folder,
            queue="pubsub",
            queue_url=f"pubsub://{PROJECT}/{name}",
            push_audiences={AUDIENCE},
            push_accounts={ACCOUNT},
            push_keys_url=google.url,
            retry_base_seconds=0.05,
            retry_cap_seconds=0.1,
        )
        stack.callback(self.world.services.close)
        del self.world.services.__dict__["queue"]
        url = stack.enter_context(served(create_app(services=self.world.services)))
        door = stack.enter_context(signing(f"{url}/v1/tasks/run", google, self.answers))
        path = server.subscription(name, push_config={"push_endpoint": door})
        stack.callback(server.subscriber.delete_subscription, subscription=path)


@pytest.fixture
def pushed(tmp_path: Path, pubsub_server: PubSub, google: Issuer) -> Iterator[Pushed]:
    with contextlib.ExitStack() as stack:
        yield Pushed(tmp_path, pubsub_server, google, stack)


def test_a_ring_comes_back_as_a_push_and_takes_the_document_all_the_way(pushed: Pushed) -> None:
    world = pushed.world
    document_id = world.land()
    assert isinstance(world.services.queue, PubSubQueue)
    world.services.queue.ping()
    world.services.announcer.announce(world.history(document_id))
    until(lambda: world.document(document_id).state is State.AVAILABLE, "the document was pushed to its end")
    until(lambda: pushed.answers == [204], "the push was acknowledged")


def test_what_waits_is_pushed_again_until_it_is_done(pushed: Pushed) -> None:
    world = pushed.world
    tries: list[int] = []

    def twice_away(_: Sample) -> None:
        tries.append(1)
        if len(tries) <= 2:
            raise ScannerUnavailable("clamd is away")

    world.clamav.before = twice_away
    document_id = world.land()
    world.services.queue.ring(document_id, Lane.INSPECT)
    until(lambda: world.document(document_id).state is State.AVAILABLE, "the platform brought it again")
    until(lambda: pushed.answers[-1:] == [204], "and was told when it was over")
    # Nobody published anything anew: a delay is the platform's to keep.
    assert pushed.answers[:-1] == [503] * (len(pushed.answers) - 1)
    assert len(pushed.answers) >= 3


def test_a_topic_that_is_not_there_is_said(pubsub_server: PubSub) -> None:
    queue = PubSubQueue(f"pubsub://{PROJECT}/nobody-made-it")
    with pytest.raises(QueueUnavailable, match="topic that AIRLOCK_QUEUE_URL names"):
        queue.ping()
    with pytest.raises(QueueUnavailable):
        queue.ring(uuid4(), Lane.INSPECT)


def test_an_emulator_that_is_away_keeps_nobody_waiting_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr("pipeline.queue.pubsub.PATIENCE", 0.3)
    queue = PubSubQueue(f"pubsub://{PROJECT}/any")
    for ask in (queue.ping, lambda: queue.ring(uuid4(), Lane.INSPECT)):
        with pytest.raises(QueueUnavailable):
            ask()


def test_sqs_is_sent_an_id_and_keeps_the_delay(moto_server: Moto) -> None:
    url, _ = moto_server.queue(f"bell-{uuid4().hex[:8]}")
    queue = SqsQueue(f"sqs+{url}?region=us-east-1")
    queue.ping()
    now, later = uuid4(), uuid4()
    queue.ring(now, Lane.OCR, bulk=True)
    queue.ring(later, Lane.INSPECT, delay=5000.0)
    received = moto_server.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert [message["Body"] for message in received] == [str(now)]
    names = ["ApproximateNumberOfMessagesDelayed"]
    found = moto_server.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    assert found == {"ApproximateNumberOfMessagesDelayed": "1"}


def test_an_sqs_queue_that_is_not_there_is_said(moto_server: Moto) -> None:
    queue = SqsQueue(f"sqs+{moto_server.endpoint}/123456789012/nobody-made-it?region=us-east-1")
    for ask in (queue.ping, lambda: queue.ring(uuid4(), Lane.INSPECT)):
        with pytest.raises(QueueUnavailable):
            ask()


@pytest.mark.parametrize(
    ("queue", "url", "says"),
    [
        ("pubsub", None, "pubsub://PROJECT/TOPIC"),
        ("pubsub", "pubsub://secret", "pubsub://PROJECT/TOPIC"),
        ("pubsub", "pubsub:///secret", "pubsub://PROJECT/TOPIC"),
        ("pubsub", "pubsub://secret/a/b", "pubsub://PROJECT/TOPIC"),
        ("pubsub", "https://secret/topic", "pubsub://PROJECT/TOPIC"),
        ("sqs", None, "https://sqs.REGION"),
        ("sqs", "pubsub://secret/queue", "https://sqs.REGION"),
        ("sqs", "https://user:secret@sqs.eu-west-1.amazonaws.com/1/q", "https://sqs.REGION"),
        ("sqs", "https://sqs.eu-west-1.amazonaws.com/", "https://sqs.REGION"),
        ("sqs", "https://secret/1/q", "region"),
    ],
)
def test_a_queue_that_cannot_be_is_refused_without_its_address(queue: str, url: str | None, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as raised:
        _ = Services(Settings(queue=queue, queue_url=url)).queue
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "endpoint", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/1/q", "https://sqs.eu-west-1.amazonaws.com", "eu-west-1"),
        ("sqs://sqs.eu-west-1.amazonaws.com/1/q", "https://sqs.eu-west-1.amazonaws.com", "eu-west-1"),
        (
            "https://vpce-1a2b.sqs.eu-west-1.vpce.amazonaws.com/1/q",
            "https://vpce-1a2b.sqs.eu-west-1.vpce.amazonaws.com",
            "eu-west-1",
        ),
        ("sqs+http://localhost:4566/1/q?region=eu-west-3", "http://localhost:4566", "eu-west-3"),
    ],
)
def test_a_queues_url_tells_where_it_is(url: str, endpoint: str, region: str) -> None:
    queue = SqsQueue(url)
    assert (queue._endpoint, queue._url, queue._region) == (endpoint, f"{endpoint}/1/q", region)
