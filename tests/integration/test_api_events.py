"""The event stream: every state change once, in order, resumable, ended when the pipeline is done."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ingest_api import events
from pipeline.documents import Advance
from pipeline.states import WORKING, Reason, State
from tests.integration.api_server import Api


def upload(api: Api) -> UUID:
    return UUID(api.client.post("/v1/documents", content=b"x").json()["id"])


def move(api: Api, document_id: UUID, *advances: Advance) -> None:
    with api.services.ledger.begin() as tx:
        job = tx.claim(document_id, ready=WORKING, owner="test", lease=timedelta(minutes=1))
        assert job is not None
        tx.settle(job, advances)


def listen(api: Api, document_id: UUID, last: str | None = None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """(id, data) of each event until the server ends the stream; (None, {}) for a comment."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with (
        api.make_client() as client,
        client.stream("GET", f"/v1/documents/{document_id}/events", headers=headers) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line.startswith(":"):
                yield None, {}
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                assert fields["event"] == "state"
                yield fields.pop("id"), json.loads(fields.pop("data"))
            else:
                assert fields.get("retry") == "1000"


def test_events_arrive_as_they_happen_and_the_stream_ends(api: Api) -> None:
    document_id = upload(api)
    stream = listen(api, document_id)
    assert next(stream)[1]["to"] == "quarantined"
    move(api, document_id, Advance(State.CLEAN))
    seq, data = next(stream)
    assert (seq, data["seq"], data["from"], data["to"]) == ("1", 1, "quarantined", "clean")
    move(api, document_id, Advance(State.RECOGNIZED), Advance(State.REJECTED, Reason.INFECTED))
    assert [data["to"] for _, data in stream] == ["recognized", "rejected"]


@pytest.mark.parametrize(
    ("last", "heard"), [("0", [1, 2]), ("1", [2]), ("2", []), ("99", []), ("x", [0, 1, 2]), ("-1", [0, 1, 2])]
)
def test_whoever_comes_back_misses_nothing_and_hears_nothing_twice(api: Api, last: str, heard: list[int]) -> None:
    document_id = upload(api)
    move(api, document_id, Advance(State.CLEAN), Advance(State.FAILED, Reason.PROCESSING_ERROR))
    assert [data["seq"] for _, data in listen(api, document_id, last)] == heard


def test_a_failed_document_that_is_tried_again_is_followed_on(api: Api) -> None:
    document_id = upload(api)
    move(api, document_id, Advance(State.FAILED, Reason.PROCESSING_ERROR))
    api.client.post(f"/v1/documents/{document_id}/retry")
    stream = listen(api, document_id)
    assert [next(stream)[1]["to"] for _ in range(3)] == ["quarantined", "failed", "quarantined"]
    move(api, document_id, Advance(State.REJECTED, Reason.EMPTY))
    assert [data["to"] for _, data in stream] == ["rejected"]


def test_silence_is_broken_by_comments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE", 0.05)
    document_id = upload(api)
    stream = listen(api, document_id)
    heard = {next(stream)[0]}
    while heard != {None, "0"}:
        heard.add(next(stream)[0])
    move(api, document_id, Advance(State.REJECTED, Reason.EMPTY))
    assert [seq for seq, _ in stream if seq is not None] == ["1"]


def test_many_listeners_cost_one_question(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [upload(api) for _ in range(5)]
    connected = threading.Barrier(11)
    asked: list[int] = []
    news = events.Watcher._news

    def counted(self: events.Watcher, after: dict[UUID, int]) -> Any:
        asked.append(len(set(after) & set(documents)))
        return news(self, after)

    monkeypatch.setattr(events.Watcher, "_news", counted)

    def follow(document_id: UUID) -> list[str]:
        stream = listen(api, document_id)
        first = next(stream)[1]["to"]
        connected.wait(30)
        return [first, *(data["to"] for _, data in stream)]

    with ThreadPoolExecutor(10) as pool:
        heard = [pool.submit(follow, document_id) for document_id in documents * 2]
        connected.wait(30)
        for document_id in documents:
            move(api, document_id, Advance(State.REJECTED, Reason.EMPTY))
        assert all(each.result(30) == ["quarantined", "rejected"] for each in heard)
    assert max(asked) == 5
