"""Celery over the clouds' queues: a real worker takes a document through, by SQS (moto) and Pub/Sub (its emulator)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from pipeline.errors import Misconfigured
from pipeline.queue.brokers import LONG_POLL, Broker, broker_of
from pipeline.settings import Settings
from pipeline.states import State
from tests import samples
from tests.servers.clamd import ClamdServer, clamd
from tests.servers.moto import Moto
from tests.servers.pubsub import PROJECT, PubSub
from tests.system import System


@pytest.fixture(scope="module")
def scanner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClamdServer]:
    with clamd(tmp_path_factory.mktemp("clamd") / "clamd") as server:
        yield server


def goes_through(tmp: Path, scanner: ClamdServer, environment: Mapping[str, str]) -> System:
    """A document and an infected one, by API and worker, without beat: only messages tell of them."""
    airlock = System(tmp, {"AIRLOCK_CLAMD_URL": scanner.unix, **environment})
    try:
        airlock.start("serve")
        airlock.start("worker", "--concurrency=1")
        with airlock.client() as client:
            ids = [
                client.post("/v1/documents", content=body, params={"name": name}).raise_for_status().json()["id"]
                for name, body in (("a.csv", samples.csv("over the cloud")), ("b.zip", samples.eicar_zip("x")))
            ]
            assert client.get("/readyz").json()["parts"]["queue"] == {"ok": True, "warnings": []}
        found = airlock.settled(ids)
        assert [found[one]["state"] for one in ids] == [State.AVAILABLE, State.REJECTED]
    finally:
        airlock.stop()
    return airlock


def test_sqs_with_queues_that_are_made_when_they_are_used(
    tmp_path: Path, scanner: ClamdServer, moto_server: Moto
) -> None:
    prefix = f"made{uuid4().hex[:6]}-"
    url = f"sqs+http://127.0.0.1:{moto_server.port}?region=us-east-1&prefix={prefix}"
    goes_through(tmp_path, scanner, {"AIRLOCK_BROKER_URL": url, **moto_server.environment()})
    names = [one.rpartition("/")[2] for one in moto_server.sqs.list_queues(QueueNamePrefix=prefix)["QueueUrls"]]
    assert sorted(names) == sorted(f"{prefix}{name}" for name in ("inspect", "ocr", "inspect-bulk", "ocr-bulk"))
    for name in names:
        assert moto_server.left_in(f"{moto_server.endpoint}/123456789012/{name}") == (0, 0)


@pytest.mark.slow
def test_sqs_with_queues_that_are_there_already(tmp_path: Path, scanner: ClamdServer, moto_server: Moto) -> None:
    prefix = f"there{uuid4().hex[:6]}-"
    for name in ("inspect", "ocr", "inspect-bulk", "ocr-bulk"):
        moto_server.queue(f"{prefix}{name}")
    url = f"sqs+http://127.0.0.1:{moto_server.port}/123456789012?region=us-east-1&prefix={prefix}"
    goes_through(tmp_path, scanner, {"AIRLOCK_BROKER_URL": url, **moto_server.environment()})


@pytest.mark.slow
def test_pubsub(tmp_path: Path, scanner: ClamdServer, pubsub_server: PubSub) -> None:
    url = f"gcpubsub://projects/{PROJECT}?prefix=p{uuid4().hex[:6]}-"
    goes_through(tmp_path, scanner, {"AIRLOCK_BROKER_URL": url, **pubsub_server.environment()})


def broker(url: str) -> Broker:
    return broker_of(Settings(broker_url=SecretStr(url)), ["inspect", "ocr"])


def test_sqs_of_an_account_is_told_its_queues() -> None:
    found = broker("sqs://sqs.eu-west-1.amazonaws.com/123456789012")
    assert found.url == "sqs://sqs.eu-west-1.amazonaws.com"
    base = "https://sqs.eu-west-1.amazonaws.com/123456789012/airlock-"
    assert found.options == {
        "is_secure": True,
        "region": "eu-west-1",
        "visibility_timeout": 7200,
        "wait_time_seconds": LONG_POLL,
        "polling_interval": 0,
        "queue_name_prefix": "airlock-",
        "predefined_queues": {f"airlock-{name}": {"url": base + name} for name in ("inspect", "ocr")},
    }
    assert found.tells_all is False


def test_sqs_by_default_is_where_the_sdk_looks() -> None:
    assert broker("sqs://").url == "sqs://"
    assert "region" not in broker("sqs://").options
    assert "predefined_queues" not in broker("sqs://?region=eu-west-3").options
    assert broker("sqs://?region=eu-west-3").options["region"] == "eu-west-3"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqs://key:secret@/", "no credentials"),
        ("sqs://?regoin=secret", "no option regoin"),
        ("gcpubsub://secret", "gcpubsub://projects/PROJECT"),
        ("gcpubsub://projects/", "gcpubsub://projects/PROJECT"),
        ("gcpubsub://projects/acme-secret?x=1", "no option x"),
    ],
)
def test_a_broker_that_cannot_be_is_refused_without_its_address(url: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as raised:
        broker(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://h:1/0", "redis+socket:///s"])
def test_redis_keeps_what_is_in_hand_for_longer_than_any_task_takes(url: str) -> None:
    assert broker(url).url == url
    assert broker(url).options["visibility_timeout"] == 7200
    assert broker(url).tells_all
