"""`/v1/notifications/...`: who may tell of objects, what becomes of it, and what the messenger is told."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pipeline.errors import StoreUnavailable
from pipeline.storage.s3 import open_s3
from tests.integration.api_server import Api, serving
from tests.messages import (
    ceph,
    event_bridge,
    eventarc_headers,
    gcs_attributes,
    guide,
    minio,
    pushed,
    resource,
    s3_event,
    s3_test_event,
    seaweedfs,
    structured,
)
from tests.servers.oidc import ACCOUNT, AUDIENCE, Issuer, issuer
from tests.servers.process import free_port
from tests.servers.pubsub import PubSub
from tests.servers.seaweedfs import S3Server
from tests.servers.seaweedfs import seaweedfs as seaweedfs_server
from tests.system import until

SECRET = "the secret of the bucket's webhook"
BUCKET = "quarantine"


@pytest.fixture(scope="module")
def google() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, google: Issuer) -> Iterator[Api]:
    with serving(
        tmp_path_factory.mktemp("notified"),
        event_secret=SECRET,
        push_audiences=AUDIENCE,
        push_accounts=ACCOUNT,
        push_keys_url=google.url,
    ) as api:
        yield api


@dataclass
class Place:
    """A tenant's drop folder, and messengers that tell of it."""

    api: Api
    google: Issuer
    drop: str

    def put(self, name: str = "Rechnung März.csv", body: bytes = b"some,text\n") -> str:
        key = f"{self.drop}/{name}"
        path = self.api.services.settings.var_dir / "buckets" / BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return key

    def post(self, to: str, body: bytes, **headers: str) -> httpx.Response:
        """As who may do so, unless `authorization` says otherwise ("" for nobody)."""
        token = self.google.token() if to != "bucket" else SECRET
        given = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        given = {name: value for name, value in given.items() if value}
        with httpx.Client(timeout=60) as client:
            return client.post(f"{self.api.url}/v1/notifications/{to}", content=body, headers=given)

    def documents(self) -> list[dict[str, Any]]:
        return self.api.documents()

    def letters(self) -> list[tuple[str, str, int]]:
        with self.api.services.ledger.reading() as tx:
            return [(each.source, each.body, each.count) for each in tx.dead_letters(100)]


@pytest.fixture
def place(server: Api, google: Issuer) -> Iterator[Place]:
    tenant = f"t{uuid4().hex[:12]}"
    mine = server.as_tenant(tenant)
    yield Place(mine, google, f"drop/{tenant}")
    mine.client.close()
    with server.services.ledger.begin() as tx:
        for letter in tx.dead_letters(1000):
            tx.forget_dead_letter(letter.id)


def messages(key: str) -> list[tuple[str, bytes, dict[str, str]]]:
    """An object told of in every way: (to, body, headers)."""
    data = json.dumps(resource(BUCKET, key)).encode()
    attributes = gcs_attributes(BUCKET, key)
    return [
        ("pubsub", pushed(data, attributes), {}),
        ("pubsub", pushed(b"", attributes), {}),
        ("pubsub", data, {"eventType": "OBJECT_FINALIZE", "bucketId": BUCKET}),
        ("pubsub", data, {}),
        ("eventarc", data, eventarc_headers(BUCKET, "x")),
        ("eventarc", structured(BUCKET, key), {"content-type": "application/cloudevents+json"}),
        ("bucket", s3_event(BUCKET, key), {}),
        ("bucket", minio(BUCKET, key), {}),
        ("bucket", ceph(BUCKET, key), {}),
        ("bucket", event_bridge(BUCKET, key), {}),
        ("bucket", seaweedfs(f"/buckets/{BUCKET}/{key}"), {"content-type": ""}),
    ]


@pytest.mark.parametrize("way", range(11))
def test_an_object_becomes_a_document_by_every_way_it_can_be_told(place: Place, way: int) -> None:
    to, body, headers = messages(place.put())[way]
    for _ in range(2):
        answer = place.post(to, body, **headers)
        assert (answer.status_code, answer.content) == (204, b""), answer.text
    [document] = place.documents()
    assert document["name"] == "Rechnung März.csv"
    assert place.letters() == []


def test_one_object_told_in_every_way_is_one_document(place: Place) -> None:
    for to, body, headers in messages(place.put()):
        assert place.post(to, body, **headers).status_code == 204
    assert len(place.documents()) == 1


@pytest.mark.parametrize("to", ["pubsub", "eventarc"])
@pytest.mark.cwe("CWE-306")
def test_a_push_without_a_token_that_is_right_is_refused(place: Place, to: str) -> None:
    google = place.google
    body = pushed(b"", gcs_attributes(BUCKET, place.put()))
    wrong = {
        "": 401,
        f"Bearer {place.api.key}": 401,
        f"Bearer {SECRET}": 401,
        f"Basic {google.token()}": 401,
        f"Bearer {google.token(aud='https://somebody.else')}": 401,
        f"Bearer {google.token(iss='https://evil.example')}": 401,
        f"Bearer {google.token(exp=1)}": 401,
        f"Bearer {google.token().rpartition('.')[0]}.": 401,
        f"Bearer {google.token(email='other@acme.iam.gserviceaccount.com')}": 403,
        f"Bearer {google.token(email_verified=False)}": 403,
    }
    for authorization, status in wrong.items():
        answer = place.post(to, body, authorization=authorization)
        assert answer.status_code == status, authorization
        assert answer.headers["content-type"] == "application/problem+json"
        assert ("www-authenticate" in answer.headers) is (status == 401)
    assert place.documents() == []
    assert place.letters() == []


@pytest.mark.cwe("CWE-306")
def test_a_bucket_without_the_secret_is_refused(place: Place) -> None:
    body = s3_event(BUCKET, place.put())
    basic = base64.b64encode(f"ceph:{SECRET}x".encode()).decode()
    wrong = [
        "", "Bearer", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", f"Bearer {place.api.key}", "Basic", "Basic %",
        f"Basic {basic}", f"Basic {base64.b64encode(SECRET.encode()).decode()}", SECRET, "Bearer \u00ff",
    ]  # fmt: skip
    for authorization in wrong:
        headers = [(b"authorization", authorization.encode("latin-1"))]
        answer = httpx.post(f"{place.api.url}/v1/notifications/bucket", content=body, headers=headers, timeout=60)
        assert answer.status_code == 401, authorization
        assert SECRET not in answer.text
    assert place.documents() == []


def test_a_server_that_can_only_write_the_secret_into_its_url(place: Place) -> None:
    body = ceph(BUCKET, place.put())
    basic = base64.b64encode(f"ceph:{SECRET}".encode()).decode()
    assert place.post("bucket", body, authorization=f"Basic {basic}").status_code == 204
    assert len(place.documents()) == 1


def test_what_is_not_configured_is_not_there(tmp_path: Path) -> None:
    with serving(tmp_path) as api:
        for to in ("pubsub", "eventarc", "bucket"):
            answer = api.client.post(f"/v1/notifications/{to}", content=b"{}")
            assert answer.status_code == 404
            assert "AIRLOCK_" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("to", "body"),
    [
        ("pubsub", b"nonsense"),
        ("eventarc", b"{}"),
        ("bucket", b""),
        ("bucket", b"\xff\0"),
        ("pubsub", b'{"message": 1}'),
    ],
)
def test_what_nobody_can_read_is_acknowledged_and_kept(place: Place, to: str, body: bytes) -> None:
    for _ in range(2):
        assert place.post(to, body).status_code == 204
    [(source, text, count)] = place.letters()
    assert (source, count) == ({"pubsub": "push", "eventarc": "eventarc", "bucket": "webhook"}[to], 2)
    assert text == body.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    metrics = place.api.client.get("/metrics").text
    assert f'airlock_dead_letters{{source="{source}"}} 1.0' in metrics


@pytest.mark.cwe("CWE-532")
def test_no_credential_is_kept_with_a_dead_letter(place: Place) -> None:
    headers = {**eventarc_headers(BUCKET, "x"), "ce-methodname": "m"}
    place.post("eventarc", b"nonsense", **headers, cookie="c", x_api_key="k")
    with place.api.services.ledger.reading() as tx:
        [letter] = tx.dead_letters(10)
    assert letter.attributes == headers


def test_what_is_none_of_ours_is_acknowledged(place: Place) -> None:
    key = place.put()
    for body in (
        s3_test_event(),
        s3_event("somebody-elses", key),
        s3_event(BUCKET, f"{place.drop}/gone.csv"),
        s3_event(BUCKET, key, eventName="ObjectRemoved:Delete"),
    ):
        assert place.post("bucket", body).status_code == 204
    assert place.documents() == []
    assert place.letters() == []


def test_a_store_that_is_away_has_the_message_come_again(place: Place) -> None:
    services, key = place.api.services, place.put()
    real = services.quarantine

    class Away:
        bucket = BUCKET

        def head(self, *_: object) -> None:
            raise StoreUnavailable

    services.__dict__["quarantine"] = Away()
    try:
        for to, body, headers in messages(key):
            answer = place.post(to, body, **headers)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["content-type"] == "application/problem+json"
    finally:
        services.__dict__["quarantine"] = real
    assert place.letters() == []
    assert place.post("bucket", s3_event(BUCKET, key)).status_code == 204
    assert len(place.documents()) == 1


@pytest.mark.cwe("CWE-770")
def test_a_notification_has_a_limit(place: Place) -> None:
    big = s3_event(BUCKET, place.put()) + b" " * (1 << 20)
    for to in ("pubsub", "eventarc", "bucket"):
        assert place.post(to, big).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * (1 << 16)

    headers = {"authorization": f"Bearer {SECRET}"}
    answer = httpx.post(f"{place.api.url}/v1/notifications/bucket", content=pieces(), headers=headers, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["limit"] == {"name": "notification_bytes", "value": 1 << 20}
    # Whoever may not notify is not read at all.
    assert place.post("bucket", big, authorization="Bearer no").status_code == 401
    exactly = s3_event(BUCKET, place.put())
    assert place.post("bucket", exactly + b" " * ((1 << 20) - len(exactly))).status_code == 204


def test_an_issuer_that_cannot_be_asked_is_no_reason_to_refuse_for_good(tmp_path: Path, google: Issuer) -> None:
    with serving(
        tmp_path,
        push_audiences=AUDIENCE,
        push_accounts=ACCOUNT,
        push_keys_url=f"http://127.0.0.1:{free_port()}/certs",
    ) as api:
        headers = {"authorization": f"Bearer {google.token()}"}
        answer = httpx.post(f"{api.url}/v1/notifications/pubsub", content=b"{}", headers=headers, timeout=60)
        assert answer.status_code == 503
        assert "retry-after" in answer.headers


# --- The real messengers ------------------------------------------------------------------------------------------


class Relay:
    """Passes requests on, with the token that Pub/Sub itself would add: the emulator sends none. Refuses as often as
    it is told to."""

    def __init__(self, google: Issuer | None = None) -> None:
        self.target = ""
        self.refuse = 0
        self.answers: list[int] = []
        self._google = google
        forward = self._forward

        class Door(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(forward(dict(self.headers), body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/"

    def _forward(self, headers: dict[str, str], body: bytes) -> int:
        if self.refuse > 0 or not self.target:
            self.refuse -= 1
            status = 503
        else:
            kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
            if self._google is not None:
                kept["Authorization"] = f"Bearer {self._google.token()}"
            status = httpx.post(self.target, content=body, headers=kept, timeout=60).status_code
        self.answers.append(status)
        return status


@pytest.mark.parametrize("unwrapped", [False, True])
def test_pubsub_itself_pushes_until_it_is_acknowledged(
    place: Place, google: Issuer, pubsub_server: PubSub, unwrapped: bool
) -> None:
    name = f"push-{uuid4().hex[:12]}"
    with Relay(google) as relay:
        relay.target = f"{place.api.url}/v1/notifications/pubsub"
        relay.refuse = 2
        push: dict[str, Any] = {"push_endpoint": relay.endpoint}
        if unwrapped:
            push["no_wrapper"] = {"write_metadata": True}
        path = pubsub_server.subscription(name, push_config=push)
        for n in (0, 1, 0):
            key = place.put(f"{n}.csv")
            pubsub_server.publish(name, json.dumps(resource(BUCKET, key)).encode(), gcs_attributes(BUCKET, key))
        pubsub_server.publish(name, b"nonsense", {})
        until(lambda: relay.answers.count(204) == 4, "all are acknowledged", 60)
        pubsub_server.subscriber.delete_subscription(request={"subscription": path})
    assert relay.answers.count(503) == 2
    assert len(relay.answers) == 6
    assert len(place.documents()) == 2
    assert [(source, text) for source, text, _ in place.letters()] == [("push", "nonsense")]


@pytest.mark.parametrize("versioned", [False, True])
def test_seaweedfs_itself_tells_of_what_lands_in_it(
    tmp_path: Path, seaweedfs_that_tells: Telling, versioned: bool
) -> None:
    server, relay = seaweedfs_that_tells
    names = [f"{role}-{'v' if versioned else 'p'}" for role in ("quarantine", "serving")]
    urls = {f"{name[:-2]}_url": server.url(name) for name in names}
    with serving(tmp_path, event_secret=SECRET, **urls) as api:
        relay.target = f"{api.url}/v1/notifications/bucket"
        client = open_s3("none", endpoint=server.endpoint, region="us-east-1", path_style=True).client
        if versioned:
            client.put_bucket_versioning(Bucket=names[0], VersioningConfiguration={"Status": "Enabled"})
        keys = ["drop/acme/Rechnung März + 100 %.csv", "drop/acme/parts.csv"]
        client.put_object(Bucket=names[0], Key=keys[0], Body=b"some,text\n")
        upload = client.create_multipart_upload(Bucket=names[0], Key=keys[1])["UploadId"]
        of = {"Bucket": names[0], "Key": keys[1], "UploadId": upload}
        tag = client.upload_part(**of, PartNumber=1, Body=b"x" * (5 << 20))["ETag"]
        client.complete_multipart_upload(**of, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]})
        until(lambda: len(api.documents()) == 2, "both are documents", 60)
        assert {one["name"]: one["size"] for one in api.documents()} == {keys[0][10:]: 10, "parts.csv": 5 << 20}
        with api.services.ledger.reading() as tx:
            assert tx.dead_letters(10) == []
        relay.target = ""
    assert 401 not in relay.answers


Telling = tuple[S3Server, Relay]


@pytest.fixture(scope="module")
def seaweedfs_that_tells(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Telling]:
    """A SeaweedFS of its own, whose filer posts to a relay. (`s3_server` is there for its environment.)"""
    folder = tmp_path_factory.mktemp("telling")
    with Relay() as relay:
        shown = guide("notification.toml").replace("THE SECRET", SECRET).replace("/quarantine/", "/quarantine")
        there = shown.replace("https://airlock.example/v1/notifications/bucket", relay.endpoint)
        (folder / "notification.toml").write_text(there)
        with seaweedfs_server(folder) as server:
            yield server, relay
