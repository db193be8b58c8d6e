"""What became of an upload and the ways out: tenants, states, downloads, deletion, retries."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import httpx
import pytest

from ingest_api import auth
from pipeline.api_keys import make_key
from pipeline.documents import Advance, Job, Part, VerdictRecord
from pipeline.states import WORKING, Reason, State
from pipeline.storage.base import ObjectHeaders
from pipeline.storage.keys import key_of
from scanners.base import Engine, ScanResult, Verdict
from tests.integration.api_server import Api

LEASE = timedelta(minutes=1)
TEXT = "Größe: 漢字\n" * 300_000  # several pieces


@dataclass
class Uploaded:
    """A document and a way to push it on, as a worker would."""

    api: Api
    id: UUID
    path: str
    content: bytes

    def claim(self) -> Job:
        with self.api.services.ledger.begin() as tx:
            job = tx.claim(self.id, ready=WORKING, owner="test", lease=LEASE)
        assert job is not None
        return job

    def settle(self, *advances: Advance) -> None:
        job = self.claim()
        with self.api.services.ledger.begin() as tx:
            tx.settle(job, advances)

    def reject(self) -> None:
        self.settle(Advance(State.REJECTED, Reason.INFECTED, "clamav found Eicar."))

    def make_available(self, expires: timedelta = timedelta(days=1)) -> None:
        services = self.api.services
        with services.ledger.reading() as tx:
            document = tx.document(self.id)
        assert document.sha256 is not None
        with services.quarantine.create(key_of("standard", self.api.tenant, self.id, "text")) as writer:
            writer.write(TEXT.encode())
            source = writer.commit().ref
        headers = ObjectHeaders("text/html", 'attachment; filename="page.html"')
        key = key_of("standard", self.api.tenant, self.id)
        served = services.serving.copy(document.source, key, headers, sha256=document.sha256).ref
        key = key_of("standard", self.api.tenant, self.id, "text")
        with services.serving.create(key) as writer:
            writer.write(TEXT.encode())
            text = writer.commit().ref
        part = Part("text", source, len(TEXT.encode()), "0" * 64, "text/plain; charset=utf-8", text)
        verdict = ScanResult("clamav", Verdict.CLEAN, engine=Engine("ClamAV", "1.4.3", "27432"), coverage={"bytes": 9})
        self.settle(
            Advance(State.CLEAN, verdicts=(VerdictRecord("original", document.sha256, verdict),)),
            Advance(State.RECOGNIZED, parts=(part,), text_length=len(TEXT)),
            Advance(State.APPROVED),
            Advance(State.AVAILABLE, parts=(part,), served=served, receipt="a.b.c", expires_in=expires),
        )


@pytest.fixture
def uploaded(api: Api) -> Uploaded:
    content = bytes(range(256)) * 20_000
    made = api.client.post("/v1/documents", content=content, params={"name": "page.html"}).json()
    return Uploaded(api, UUID(made["id"]), made["links"]["self"], content)


OUT = ("content", "text", "pdf", "receipt")


@pytest.mark.parametrize("way", OUT)
def test_what_is_not_available_has_no_way_out(uploaded: Uploaded, way: str) -> None:
    answer = uploaded.api.client.get(f"{uploaded.path}/{way}")
    assert (answer.status_code, answer.json()["state"]) == (409, "quarantined")
    assert "reason" not in answer.json()
    uploaded.reject()
    answer = uploaded.api.client.get(f"{uploaded.path}/{way}")
    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/not-available"
    assert (answer.json()["state"], answer.json()["reason"]) == ("rejected", "infected")


@pytest.mark.asvs("5.3.1")
def test_an_available_document_comes_back_as_an_attachment(uploaded: Uploaded) -> None:
    uploaded.make_available()
    client = uploaded.api.client
    answer = client.get(f"{uploaded.path}/content")
    assert answer.status_code == 307
    assert answer.headers["cache-control"] == "no-store"
    with uploaded.api.make_client("") as nobody:
        got = nobody.get(answer.headers["location"])
    assert got.content == uploaded.content
    assert got.headers["content-type"].startswith("text/html")
    assert got.headers["content-disposition"].startswith("attachment")
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"].startswith("sandbox")
    assert got.headers["cache-control"].startswith("private")


def test_signed_urls_give_ranges_and_etags(uploaded: Uploaded) -> None:
    uploaded.make_available()
    url = uploaded.api.client.get(f"{uploaded.path}/content").headers["location"]
    size = len(uploaded.content)
    with uploaded.api.make_client("") as nobody:
        part = nobody.get(url, headers={"Range": "bytes=1048570-1048585"})
        assert (part.status_code, part.content) == (206, uploaded.content[1048570:1048586])
        assert part.headers["content-range"] == f"bytes 1048570-1048585/{size}"
        assert nobody.get(url, headers={"Range": "bytes=-5"}).content == uploaded.content[-5:]
        beyond = nobody.get(url, headers={"Range": f"bytes={size}-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
        head = nobody.head(url)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
        tag = head.headers["etag"]
        assert nobody.get(url, headers={"If-None-Match": f'"x", W/{tag}'}).status_code == 304
        assert nobody.get(url, headers={"If-None-Match": '"x"'}).status_code == 200
        stale = nobody.get(url, headers={"Range": "bytes=0-0", "If-Range": '"x"'})
        assert (stale.status_code, len(stale.content)) == (200, size)


@pytest.mark.cwe("CWE-347")
def test_a_signed_url_is_for_one_thing(uploaded: Uploaded) -> None:
    uploaded.make_available()
    api = uploaded.api
    url = httpx.URL(api.client.get(f"{uploaded.path}/content").headers["location"])
    other = url.path.replace("/original", "/text")
    assert other != url.path
    in_quarantine = api.services.quarantine.head(key_of("standard", api.tenant, uploaded.id)).ref
    with api.make_client("") as nobody:
        for changed in (
            url.copy_with(path=other),
            url.copy_set_param("exp", str(int(time.time()) + 99_999)),
            url.copy_set_param("v", "other"),
            url.copy_set_param("sig", "0" * 64),
            url.copy_remove_param("sig"),
            # Rightly signed, and still: nothing leaves quarantine.
            api.services.signer.get_url(in_quarantine, timedelta(minutes=1)),
        ):
            assert nobody.get(changed).status_code == 403, changed
        assert nobody.put(url, content=b"x").status_code == 403


def test_a_signed_put_makes_one_object_once(api: Api) -> None:
    key = key_of("standard", api.tenant, uuid4())
    signed = api.services.quarantine.sign_put(key, ObjectHeaders("text/plain"), timedelta(minutes=1), size=5)
    headers = dict(signed.headers)
    with api.make_client("") as nobody:
        assert nobody.put(signed.url, content=b"too long", headers=headers | {"Content-Length": "8"}).status_code == 403
        assert nobody.put(signed.url, content=b"hello", headers=headers).status_code == 201
        assert nobody.put(signed.url, content=b"other", headers=headers).status_code == 409
        free = api.services.quarantine.sign_put(
            key_of("standard", api.tenant, uuid4()), ObjectHeaders("text/plain"), timedelta(minutes=1)
        )
        headers = dict(free.headers)
        assert nobody.put(free.url, content=iter([bytes(1 << 20)] * 9), headers=headers).status_code == 413
        into_serving = api.services.serving.sign_put(key, ObjectHeaders("text/plain"), timedelta(minutes=1))
        assert nobody.put(into_serving.url, content=b"x", headers=dict(into_serving.headers)).status_code == 403
    assert api.objects() == [key]
    assert api.leftovers() == []


def test_text_is_streamed_and_the_receipt_is_a_jws(uploaded: Uploaded) -> None:
    uploaded.make_available()
    client = uploaded.api.client
    text = client.get(f"{uploaded.path}/text")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == TEXT
    receipt = client.get(f"{uploaded.path}/receipt")
    assert (receipt.headers["content-type"], receipt.text) == ("application/jose", "a.b.c")
    assert client.get(f"{uploaded.path}/pdf").status_code == 404


def test_a_document_tells_its_whole_story(uploaded: Uploaded) -> None:
    uploaded.make_available()
    told = uploaded.api.client.get(uploaded.path).json()
    assert told["state"] == "available"
    assert set(told["links"]) == {"self", "events", "content", "text", "receipt"}
    (verdict,) = told["verdicts"]
    assert (verdict["scanner"], verdict["verdict"]) == ("clamav", "clean")
    assert (verdict["engine"], verdict["engine_version"], verdict["signatures"]) == ("ClamAV", "1.4.3", "27432")
    assert [event["to"] for event in told["history"]] == [
        "quarantined", "clean", "recognized", "approved", "available",
    ]  # fmt: skip
    assert [event.get("from") for event in told["history"]][:2] == [None, "quarantined"]
    assert set(told["timings"]) == {"quarantined", "clean", "recognized", "approved", "total"}
    assert "lease" not in str(told)
    assert "bucket" not in str(told)


def test_after_its_time_nothing_is_handed_out_even_before_the_sweeper_came(uploaded: Uploaded) -> None:
    uploaded.make_available(expires=timedelta(seconds=-1))
    answer = uploaded.api.client.get(f"{uploaded.path}/content")
    assert (answer.status_code, answer.json()["state"]) == (409, "expired")


def test_deleting_is_idempotent_and_ends_a_document(uploaded: Uploaded) -> None:
    uploaded.make_available()
    client = uploaded.api.client
    assert client.delete(uploaded.path).status_code == 204
    assert client.delete(uploaded.path).status_code == 204
    told = client.get(uploaded.path).json()
    assert (told["state"], told["reason"]) == ("deleted", "requested")
    assert client.get(f"{uploaded.path}/content").json()["state"] == "deleted"
    assert [event["to"] for event in told["history"]].count("deleted") == 1


def test_what_was_rejected_cannot_be_deleted_or_tried_again(uploaded: Uploaded) -> None:
    uploaded.reject()
    for answer in (
        uploaded.api.client.delete(uploaded.path),
        uploaded.api.client.post(f"{uploaded.path}/retry"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/conflict")


def test_a_failed_document_is_tried_again(uploaded: Uploaded) -> None:
    uploaded.settle(Advance(State.FAILED, Reason.PROCESSING_ERROR))
    client = uploaded.api.client
    assert client.get(uploaded.path).json()["links"]["retry"] == f"{uploaded.path}/retry"
    uploaded.api.bell.rung.clear()
    answer = client.post(f"{uploaded.path}/retry")
    assert (answer.status_code, answer.json()["state"]) == (202, "quarantined")
    assert uploaded.api.bell.rung == [uploaded.id]
    assert client.post(f"{uploaded.path}/retry").status_code == 409


ROUTES = [
    ("GET", ""), ("DELETE", ""), ("POST", "/retry"), ("GET", "/content"), ("GET", "/text"), ("GET", "/pdf"),
    ("GET", "/receipt"), ("GET", "/events"),
]  # fmt: skip


@pytest.mark.asvs("8.2.2")
@pytest.mark.cwe("CWE-639")
@pytest.mark.parametrize(("verb", "way"), ROUTES)
def test_anothers_document_is_answered_like_one_that_never_was(uploaded: Uploaded, verb: str, way: str) -> None:
    uploaded.make_available()
    other = uploaded.api.as_tenant(f"{uploaded.api.tenant}-b")
    headers = {"X-Request-Id": "same"}
    with other.client as client:
        foreign = client.request(verb, uploaded.path + way, headers=headers)
        absent = client.request(verb, f"/v1/documents/{uuid4()}{way}", headers=headers)
        assert foreign.status_code == absent.status_code == 404
        assert foreign.content == absent.content
        assert client.get("/v1/documents").json() == {"documents": []}
    assert uploaded.api.client.get(uploaded.path).json()["state"] == "available"


@pytest.mark.parametrize(("verb", "way"), [*ROUTES, ("GET", None), ("POST", None)])
def test_without_a_key_nothing_is_told(uploaded: Uploaded, verb: str, way: str | None) -> None:
    with uploaded.api.make_client("") as nobody:
        for header in ({}, {"Authorization": "Bearer alk_" + "x" * 43}, {"Authorization": "Basic eDp5"}):
            path = "/v1/documents" if way is None else uploaded.path + way
            answer = nobody.request(verb, path, headers=header)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith('Bearer realm="airlock"')
            assert answer.json()["type"] == "/problems/unauthorized"


@pytest.mark.cwe("CWE-863")
def test_a_key_does_what_its_scopes_say(uploaded: Uploaded) -> None:
    api = uploaded.api
    reading, writing = (make_key(api.services.ledger, api.tenant, scopes={f"documents:{s}"}) for s in ("read", "write"))
    with api.make_client(reading) as client:
        assert client.get(uploaded.path).status_code == 200
        refused = client.post("/v1/documents", content=b"x")
        assert (refused.status_code, refused.json()["scope"]) == (403, "documents:write")
        assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
        assert client.delete(uploaded.path).status_code == client.post(f"{uploaded.path}/retry").status_code == 403
    with api.make_client(writing) as client:
        assert client.post("/v1/documents", content=b"x").status_code == 202
        assert client.get(uploaded.path).status_code == client.get("/v1/documents").status_code == 403


def test_a_revoked_key_stops_working(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KNOWN_FOR", 0.0)
    with api.services.ledger.reading() as tx:
        (key_id,) = [key.id for key in list(tx.keys()) if key.tenant == api.tenant]
    assert api.client.get("/v1/documents").status_code == 200
    with api.services.ledger.begin() as tx:
        tx.revoke_key(key_id)
    assert api.client.get("/v1/documents").status_code == 401


def test_a_listing_is_filtered_and_paged(api: Api) -> None:
    made = [api.client.post("/v1/documents", content=b"%d" % number).json() for number in range(5)]
    get = api.client.get
    seen: list[str] = []
    cursor = None
    while True:
        page = get("/v1/documents", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [document["id"] for document in page["documents"]]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert sorted(seen) == sorted(document["id"] for document in made)
    Uploaded(api, UUID(made[0]["id"]), "", b"").reject()

    def ids(**params: object) -> set[str]:
        return {document["id"] for document in get("/v1/documents", params=params).json()["documents"]}

    assert ids(state="rejected") == {made[0]["id"]}
    assert ids(state=["rejected", "quarantined"]) == set(seen)
    assert ids(sha256=made[3]["sha256"].upper()) == {made[3]["id"]}
    assert ids(created_after="2000-01-01T00:00:00") == set(seen)
    assert ids(created_before="2000-01-01T00:00:00Z") == set()
