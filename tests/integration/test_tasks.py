"""Work that comes as a request: who may bring it, and which answer tells the platform to bring it again."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from ingest_api.app import create_app
from ingest_api.tasks import BODY_BYTES
from pipeline.documents import Lane
from pipeline.errors import BadRequest, LedgerUnavailable
from pipeline.queue.pushed import document_in
from pipeline.states import WORKING, State
from scanners.base import Sample, ScannerUnavailable
from tests.servers.app import served
from tests.servers.oidc import ACCOUNT, AUDIENCE, Issuer, issuer
from tests.world import World, worlds


@pytest.fixture(scope="module")
def google() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, google: Issuer) -> Iterator[World]:
    yield from worlds(
        tmp_path,
        push_audiences={AUDIENCE},
        push_accounts={ACCOUNT},
        push_keys_url=google.url,
        retry_base_seconds=40,
        retry_cap_seconds=100,
    )


@pytest.fixture
def api(world: World, google: Issuer) -> Iterator[httpx.Client]:
    """The API to a platform that may push."""
    with platform(world, google) as client:
        yield client


@contextlib.contextmanager
def platform(world: World, google: Issuer) -> Iterator[httpx.Client]:
    """A client whose token is right."""
    headers = {"Authorization": f"Bearer {google.token()}"}
    with (
        served(create_app(services=world.services)) as url,
        httpx.Client(base_url=url, headers=headers, timeout=60) as client,
    ):
        yield client


def wrapped(data: bytes, **attributes: str) -> dict[str, Any]:
    """A push as Pub/Sub sends it."""
    return {
        "message": {
            "attributes": attributes,
            "data": base64.b64encode(data).decode(),
            "messageId": "2070443601311540",
            "publishTime": "2026-02-26T19:13:55.749Z",
        },
        "subscription": "projects/acme/subscriptions/airlock-run",
        "deliveryAttempt": 1,
    }


def letters(world: World) -> list[str]:
    with world.services.ledger.reading() as tx:
        return [letter.body for letter in tx.dead_letters(10)]


@pytest.mark.parametrize(
    "say",
    [
        lambda one: {"json": wrapped(str(one).encode(), lane="inspect", bulk="0")},
        lambda one: {"content": str(one)},
        lambda one: {"json": {"document": str(one)}},
        lambda one: {"json": wrapped(json.dumps({"document": str(one)}).encode())},
    ],
    ids=["pubsub", "unwrapped", "cloud-tasks", "pubsub-json"],
)
def test_a_message_takes_its_document_all_the_way(api: httpx.Client, world: World, say: Any) -> None:
    document_id = world.land()
    answer = api.post("/v1/tasks/run", **say(document_id))
    assert (answer.status_code, answer.content) == (204, b"")
    assert world.document(document_id).state is State.AVAILABLE


def test_again_or_late_it_does_no_harm(api: httpx.Client, world: World) -> None:
    document_id = world.land()
    for _ in range(3):
        assert api.post("/v1/tasks/run", content=str(document_id)).status_code == 204
    assert [event.to for event in world.history(document_id)].count(State.AVAILABLE) == 1


def test_a_document_that_nobody_knows_is_nothing_to_do(api: httpx.Client, world: World) -> None:
    assert api.post("/v1/tasks/run", content=str(uuid4())).status_code == 204
    assert letters(world) == []


def test_one_that_failed_is_the_ledgers_business_and_no_longer_the_queues(api: httpx.Client, world: World) -> None:
    document_id = world.land()
    with world.services.ledger.begin() as tx:
        tx.move(document_id, tenant=None, to=State.FAILED, actor="test")
    assert api.post("/v1/tasks/run", content=str(document_id)).status_code == 204


def again_in(answer: httpx.Response) -> int:
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "/problems/unavailable"
    return int(answer.headers["retry-after"])


def test_what_waits_for_a_part_comes_again_when_its_time_has_come(api: httpx.Client, world: World) -> None:
    document_id = world.land()

    def away(_: Sample) -> None:
        raise ScannerUnavailable("clamd is away")

    world.clamav.before = away
    assert 15 < again_in(api.post("/v1/tasks/run", content=str(document_id))) <= 100
    assert world.document(document_id).waiting_for == "engine-unavailable"
    # Too early it is not claimed, and still not done.
    assert 10 < again_in(api.post("/v1/tasks/run", content=str(document_id))) <= 100
    world.clamav.before = lambda _: None
    world.hurry(document_id)
    assert api.post("/v1/tasks/run", content=str(document_id)).status_code == 204
    assert world.document(document_id).state is State.AVAILABLE


def test_what_somebody_has_in_hand_comes_again_since_he_may_fail(api: httpx.Client, world: World) -> None:
    document_id = world.land()
    with world.services.ledger.begin() as tx:
        tx.claim(document_id, ready=WORKING, owner="another", lease=timedelta(seconds=30))
    assert 20 < again_in(api.post("/v1/tasks/run", content=str(document_id))) <= 30


def test_two_pushes_at_once_have_one_effect(api: httpx.Client, world: World) -> None:
    document_id = world.land()
    inside, go_on = threading.Event(), threading.Event()

    def slowly(_: Sample) -> None:
        inside.set()
        assert go_on.wait(30)

    world.clamav.before = slowly
    first: list[int] = []
    thread = threading.Thread(
        target=lambda: first.append(api.post("/v1/tasks/run", content=str(document_id)).status_code)
    )
    thread.start()
    assert inside.wait(30)
    again_in(api.post("/v1/tasks/run", content=str(document_id)))
    go_on.set()
    thread.join()
    assert first == [204]
    assert len(world.clamav.scanned) == 1


def test_what_goes_on_in_another_lane_has_a_message_of_its_own(tmp_path: Path, google: Issuer) -> None:
    for world in worlds(
        tmp_path,
        lanes={Lane.OCR},
        push_audiences={AUDIENCE},
        push_accounts={ACCOUNT},
        push_keys_url=google.url,
    ):
        document_id = world.land()
        with platform(world, google) as client:
            assert client.post("/v1/tasks/run", content=str(document_id)).status_code == 204
        assert [(rung, lane) for rung, lane, _ in world.rings.rung] == [(document_id, Lane.INSPECT)]


def test_a_ledger_that_is_away_is_a_reason_to_come_again(
    api: httpx.Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise LedgerUnavailable

    monkeypatch.setattr(world.services.ledger, "begin", away)
    answer = api.post("/v1/tasks/run", content=str(uuid4()))
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/ledger-unavailable")
    assert answer.headers["retry-after"]
    # So is it for a message that would have to be kept.
    assert api.post("/v1/tasks/run", content=b"junk").status_code == 503


def test_an_end_that_has_begun_is_one_too(api: httpx.Client, world: World) -> None:
    document_id = world.land()
    world.services.drain.begin()
    answer = api.post("/v1/tasks/run", content=str(document_id))
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/draining")
    assert world.document(document_id).attempt == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        b"{}",
        b"[1]",
        b'{"document": 5}',
        b'{"message": 1}',
        b'{"message": {"data": "%%%"}}',
        b"{" * 5000,
        b"\xff\xfe",
        json.dumps(wrapped(b"no id")).encode(),
    ],
)
def test_what_names_no_document_is_kept_and_not_asked_for_again(api: httpx.Client, world: World, body: bytes) -> None:
    for _ in range(2):
        assert api.post("/v1/tasks/run", content=body).status_code == 204
    with world.services.ledger.reading() as tx:
        (letter,) = tx.dead_letters(10)
    assert (letter.source, letter.count) == ("tasks", 2)


def test_a_body_without_end_is_not_read_to_its_end(api: httpx.Client, world: World) -> None:
    answer = api.post("/v1/tasks/run", content=b"x" * (BODY_BYTES + 1))
    assert (answer.status_code, answer.json()["limit"]) == (413, {"name": "task_bytes", "value": BODY_BYTES})
    assert letters(world) == []


@pytest.mark.parametrize("path", ["/v1/tasks/run", "/v1/tasks/sweep"])
def test_nobody_else_may_bring_work(api: httpx.Client, world: World, google: Issuer, path: str) -> None:
    document_id = world.land()
    for status, token in (
        (401, None),
        (401, "alk_0123456789abcdef0123456789abcdef"),
        (401, google.token(aud="https://elsewhere")),
        (403, google.token(email="somebody@acme.iam.gserviceaccount.com")),
    ):
        headers = {"Authorization": f"Bearer {token}" if token else ""}
        assert api.post(path, content=str(document_id), headers=headers).status_code == status
    assert world.document(document_id).attempt == 0


def test_where_nobody_may_push_there_is_nothing(tmp_path: Path, google: Issuer) -> None:
    for world in worlds(tmp_path):
        with platform(world, google) as client:
            for path in ("/v1/tasks/run", "/v1/tasks/sweep"):
                assert client.post(path).status_code == 404


def test_a_clock_that_asks_has_all_done_that_beat_would_do(api: httpx.Client, world: World) -> None:
    del world.services.__dict__["queue"]  # back to the real one, which runs the flow in the sweep
    document_id = world.land()
    world.hurry(document_id)
    answer = api.post("/v1/tasks/sweep")
    assert answer.status_code == 200
    assert answer.json()["rung"] == 1
    assert {"relayed", "rung", "expired", "erased", "adopted", "aborted"} <= answer.json().keys()
    assert world.document(document_id).state is State.AVAILABLE
    short = api.post("/v1/tasks/sweep", params={"reconcile": "false"}).json()
    assert "rung" in short
    assert "adopted" not in short


def test_ids_are_read_and_nothing_else() -> None:
    one = UUID("0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55")
    assert document_in(f" {one}\n".encode()) == one
    assert document_in(json.dumps({"document": str(one), "more": [1]}).encode()) == one
    assert document_in(str(one).encode() + b" " * 5000) == one
    for body in (b"{}", b"null", b'{"document": null}', b'{"document": {}}', b"0b9d"):
        with pytest.raises(BadRequest):
            document_in(body)
