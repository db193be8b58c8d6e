"""The API and the pipeline as AWS Lambda functions, called with events as AWS sends them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ingest_api import serverless
from pipeline.api_keys import make_key
from pipeline.documents import Filters
from pipeline.errors import LedgerUnavailable
from pipeline.states import State
from scanners.base import Sample, ScannerUnavailable
from tests.messages import s3_event, s3_test_event
from tests.servers.moto import Moto
from tests.system import until
from tests.world import EICAR, TENANT, World, worlds

CONTEXT = SimpleNamespace(aws_request_id="c6af9ac6-7b61-11e6-9a41-93e8deadbeef", function_name="airlock-http")
PEM = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode().strip()
BODY = "Größe,Menge\nL,5\n".encode()


class Functions:
    """One instance of each function, on buckets and a queue of moto's."""

    def __init__(self, folder: Path, server: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = server
        self.bucket = f"q{uuid4().hex[:12]}"
        self.queue_url, self.arn = server.queue(self.bucket)
        environment = {
            "AWS_LAMBDA_FUNCTION_NAME": "airlock",
            "AIRLOCK_DATABASE_URL": f"sqlite:///{folder}/ledger.db",
            "AIRLOCK_QUARANTINE_URL": server.bucket_url(self.bucket),
            "AIRLOCK_SERVING_URL": server.bucket_url(f"{self.bucket}-s"),
            "AIRLOCK_QUEUE": "sqs",
            "AIRLOCK_QUEUE_URL": f"sqs+{self.queue_url}?region=us-east-1",
            "AIRLOCK_RECEIPT_KEY": PEM.replace("\n", "\\n"),
            "AIRLOCK_RETRY_BASE_SECONDS": "0.2",
            "AIRLOCK_STREAM_SECONDS": "0.3",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        # The same ledger and buckets, with engines that do as the test says.
        self.world = World(
            folder, **{name[8:].lower(): value for name, value in environment.items() if name[0:8] == "AIRLOCK_"}
        )
        self.key = make_key(self.world.services.ledger, TENANT)
        serverless._services().__dict__.update(scanners=self.world.services.scanners, recognizer=None)

    def http(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        headers = {"authorization": f"Bearer {self.key}", **headers}
        return Answer(serverless.handler(http_event(method, path, body, headers), CONTEXT))

    def received(self) -> list[dict[str, Any]]:
        """What the queue would call the function with, taken out of it."""
        messages = self.server.sqs.receive_message(
            QueueUrl=self.queue_url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"]
        ).get("Messages", [])
        for message in messages:
            self.server.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])
        return [sqs_record(message["Body"], self.arn, message["MessageId"]) for message in messages]

    def close(self) -> None:
        if serverless._http.cache_info().currsize:
            serverless._run(serverless.application()._stack.aclose())
        if serverless._loop.cache_info().currsize:
            serverless._loop().close()
            asyncio.set_event_loop(None)
        serverless._services().close()
        for made in (serverless.application, serverless._loop, serverless._http, serverless._services):
            made.cache_clear()
        self.world.services.close()


class Answer:
    """What API Gateway makes of a function's answer."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.status: int = given["statusCode"]
        self.headers: dict[str, str] = {name.lower(): value for name, value in given["headers"].items()}
        raw: str = given.get("body") or ""
        self.body = base64.b64decode(raw) if given.get("isBase64Encoded") else raw.encode()

    def json(self) -> Any:
        return json.loads(self.body)


def http_event(method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> dict[str, Any]:
    """An event of API Gateway's HTTP API, payload version 2.0."""
    path, _, query = path.partition("?")
    lowered = {name.lower().replace("_", "-"): value for name, value in headers.items()}
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "abc123.execute-api.eu-west-1.amazonaws.com", "x-forwarded-proto": "https", **lowered},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc123",
            "domainName": "abc123.execute-api.eu-west-1.amazonaws.com",
            "domainPrefix": "abc123",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "agent",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1773342238000,
        },
        "isBase64Encoded": body is not None,
    }
    if body is not None:
        event["headers"]["content-length"] = str(len(body))
        event["body"] = base64.b64encode(body).decode()
    return event


def sqs_record(body: str, arn: str, message_id: str = "", count: int = 1) -> dict[str, Any]:
    """One record of a batch."""
    return {
        "messageId": message_id or str(uuid4()),
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": str(count),
            "SentTimestamp": "1773342238000",
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": "1773342238010",
        },
        "messageAttributes": {},
        "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "us-east-1",
    }


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory, moto_server: Moto) -> Iterator[Functions]:
    """One instance that serves all tests, as it would serve many calls."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(serverless, "configure_logging", lambda *_, **__: None)  # the tests' own stays
        made = Functions(tmp_path_factory.mktemp("lambda"), moto_server, monkeypatch)
        yield made
        made.close()


@pytest.fixture
def functions(instance: Functions) -> Functions:
    """The instance, with nothing left in its queue."""
    while instance.received():
        pass
    instance.world.clamav.before = lambda _: None
    return instance


def test_a_file_goes_in_by_one_function_through_another_and_out_by_the_first(functions: Functions) -> None:
    sent = functions.http(
        "POST", "/v1/documents?name=a.csv", BODY, content_type="text/csv", x_request_id="from-the-client"
    )
    assert sent.status == 202, sent.body
    assert (sent.headers["content-type"], sent.headers["x-request-id"]) == ("application/json", "from-the-client")
    document = sent.json()
    assert (document["size"], document["state"]) == (len(BODY), "quarantined")
    (record,) = functions.received()
    assert record["body"] == document["id"]
    assert serverless.work({"Records": [record]}, CONTEXT) == {"batchItemFailures": []}
    out = functions.http("GET", f"/v1/documents/{document['id']}/content")
    assert out.status == 307
    assert out.headers["location"].startswith(f"{functions.server.endpoint}/{functions.bucket}-s/")
    receipt = functions.http("GET", f"/v1/documents/{document['id']}/receipt")
    assert (receipt.headers["content-type"], receipt.body.count(b".")) == ("application/jose", 2)
    keys = functions.http("GET", "/.well-known/airlock-receipt-keys.json").json()["keys"]
    assert json.loads(base64.urlsafe_b64decode(receipt.body.split(b".")[0] + b"=="))["kid"] == keys[0]["kid"]


def test_a_function_url_is_the_same(functions: Functions) -> None:
    event = http_event("POST", "/v1/documents", BODY, {"authorization": f"Bearer {functions.key}"})
    host = "abcdefg.lambda-url.eu-west-1.on.aws"
    event["headers"]["host"] = event["requestContext"]["domainName"] = host
    event["requestContext"]["apiId"] = "abcdefg"
    event["cookies"] = ["a=b"]
    assert Answer(serverless.handler(event, CONTEXT)).status == 202


def test_a_form_that_came_as_base64_is_a_form(functions: Functions) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\nContent-Type: text/csv\r\n\r\n'
        + BODY
        + b"\r\n--x--\r\n"
    )
    sent = functions.http("POST", "/v1/documents", form, content_type="multipart/form-data; boundary=x")
    assert (sent.status, sent.json()["name"], sent.json()["size"]) == (202, "a.csv", len(BODY))


def test_a_problem_is_a_problem_document_and_text(functions: Functions) -> None:
    answer = functions.http("GET", f"/v1/documents/{uuid4()}")
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.given["isBase64Encoded"] is False
    assert answer.json()["type"] == "/problems/not-found"
    assert functions.http("GET", "/v1/documents", authorization="").status == 401


def test_what_the_platform_would_not_let_through_is_told_another_way(functions: Functions) -> None:
    event = http_event("POST", "/v1/documents", b"small", {"authorization": f"Bearer {functions.key}"})
    event["headers"]["content-length"] = "4500001"
    answer = Answer(serverless.handler(event, CONTEXT))
    assert (answer.status, answer.json()["type"]) == (413, "/problems/platform-limit")
    assert answer.json()["limit"] == {"name": "request_bytes", "value": 4_500_000}
    assert answer.json()["links"]["upload"] == "/v1/uploads"
    told = functions.http("GET", "/v1/policy").json()
    assert told["request"] == {"bytes": 4_500_000, "links": {"upload": "/v1/uploads"}}
    assert told["policy"]["limits"]["bytes"] > 4_500_000


def test_the_app_is_started_once_for_many_requests(functions: Functions) -> None:
    functions.http("GET", "/livez")
    web = serverless.application().app.state.web
    for _ in range(3):
        assert functions.http("GET", "/livez").body == b"ok\n"
    assert serverless.application().app.state.web is web


def test_an_event_stream_ends_before_the_platform_ends_it(functions: Functions) -> None:
    document_id = functions.world.land()
    answer = functions.http("GET", f"/v1/documents/{document_id}/events")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert b'"to":"quarantined"' in answer.body


def test_of_a_batch_only_what_failed_comes_again(functions: Functions) -> None:
    world = functions.world
    good, waits, infected = world.land(), world.land(b"slow\n"), world.land(EICAR)
    late = world.land(b"later\n")

    def sometimes(sample: Sample) -> None:
        with sample.open() as file:
            if file.read() == b"slow\n":
                raise ScannerUnavailable("clamd is away")

    world.clamav.before = sometimes
    event = s3_event(functions.bucket, f"drop/{TENANT}/new.csv")
    functions.server.s3.put_object(Bucket=functions.bucket, Key=f"drop/{TENANT}/new.csv", Body=BODY)
    records = [
        sqs_record(str(good), functions.arn),
        sqs_record(str(waits), functions.arn),
        sqs_record("junk", functions.arn),
        sqs_record(s3_test_event(functions.bucket).decode(), functions.arn),
        sqs_record(event.decode(), functions.arn),
        sqs_record(str(infected), functions.arn),
        sqs_record(str(uuid4()), functions.arn),
    ]
    assert serverless.work({"Records": records}, CONTEXT) == {"batchItemFailures": []}
    assert world.document(good).state is State.AVAILABLE
    assert world.document(infected).state is State.REJECTED
    assert world.document(late).state is State.QUARANTINED
    with world.services.ledger.reading() as tx:
        letters = tx.dead_letters(10)
        everything, _ = tx.documents(Filters(tenant=TENANT), limit=100)
    assert ("junk", f"sqs/{functions.bucket}") in [(letter.body, letter.source) for letter in letters]
    (dropped,) = [document for document in everything if document.via == "drop"]
    # What waits was rung for anew, to come when its time has come; and what landed was rung for.
    rung: set[str] = set()
    until(lambda: rung.update(one["body"] for one in functions.received()) or len(rung) == 2, "both were rung for")
    assert rung == {str(waits), str(dropped.id)}


def test_what_could_not_be_recorded_comes_again(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    document_id = functions.world.land()
    ledger = serverless._services().ledger
    begin = ledger.begin
    calls: list[int] = []

    def away(**options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise LedgerUnavailable
        return begin(**options)

    monkeypatch.setattr(ledger, "begin", away)
    records = [sqs_record(str(document_id), functions.arn, "m-1"), sqs_record(str(document_id), functions.arn, "m-2")]
    assert serverless.work({"Records": records}, CONTEXT) == {"batchItemFailures": [{"itemIdentifier": "m-1"}]}
    assert functions.world.document(document_id).state is State.AVAILABLE


def test_nothing_that_a_record_holds_ends_the_batch(functions: Functions) -> None:
    records = [{}, {"body": None}, {"body": "\ud800", "messageId": "m-3"}, {"messageId": "m-4", "body": "x" * 300_000}]
    assert serverless.work({"Records": records}, CONTEXT) == {"batchItemFailures": []}
    assert serverless.work({}, CONTEXT) == {"batchItemFailures": []}


def test_a_clock_sweeps(functions: Functions) -> None:
    document_id = functions.world.land()
    functions.world.hurry(document_id)
    found = serverless.sweep({"thorough": False}, CONTEXT)
    assert found["rung"] == 1
    assert "adopted" not in found
    assert [record["body"] for record in functions.received()] == [str(document_id)]
    assert "adopted" in serverless.sweep({}, CONTEXT)


def test_whoever_deploys_migrates(functions: Functions) -> None:
    newest = functions.world.services.ledger.revision()[1]
    assert serverless.migrate({}, CONTEXT) == {"revision": newest}


def test_where_no_queue_of_ours_keeps_a_delay_the_message_that_waits_comes_again(tmp_path: Path) -> None:
    for world in worlds(tmp_path):  # AIRLOCK_QUEUE=inline

        def away(_: Sample) -> None:
            raise ScannerUnavailable("clamd is away")

        world.clamav.before = away
        document_id = world.land()
        record = sqs_record(str(document_id), "arn:aws:sqs:us-east-1:123456789012:work")
        assert serverless._take(record, world.services) is False
        world.clamav.before = lambda _: None
        world.hurry(document_id)
        assert serverless._take(record, world.services) is True
