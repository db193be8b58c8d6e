"""`/v1/batches` over HTTP: what can be asked for, by whom, and what is told of it."""

from __future__ import annotations

import csv
import io
import json
import socket
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from ingest_api import batch_events, batch_results
from ingest_api.batch_results import cell
from pipeline.batches import ItemState
from pipeline.documents import Advance
from pipeline.feeding import feed
from pipeline.states import WORKING, Reason, State
from tests.contract.ledger_fixtures import MINUTE
from tests.integration.api_server import Api

CSV, NDJSON = {"Content-Type": "text/csv"}, {"Content-Type": "application/x-ndjson"}


def drop(api: Api, name: str, body: bytes = b"x,y\n") -> str:
    key = f"drop/{api.tenant}/{name}"
    with api.services.quarantine.create(key) as writer:
        writer.write(body)
        writer.commit()
    return key


def make(api: Api, body: Any, **headers: str) -> dict[str, Any]:
    answer = api.client.post("/v1/batches", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"] == found["links"]["self"]
    return found


def settle(api: Api, to: State = State.REJECTED, reason: Reason | None = Reason.EMPTY) -> None:
    """What workers do with whoever was rung for."""
    for document_id in list(api.bell.rung):
        with api.services.ledger.begin() as tx:
            job = tx.claim(document_id, ready=WORKING, owner="test", lease=MINUTE)
            if job is not None:
                road = [State.QUARANTINED] if job.state is State.RECEIVED else []
                tx.settle(job, [*(Advance(state) for state in road), Advance(to, reason)])
    api.bell.rung.clear()


def ended(api: Api, batch: dict[str, Any]) -> dict[str, Any]:
    """Feed and settle until the batch is over."""
    for _ in range(20):
        hurry(api)
        feed(api.services)
        settle(api)
        found: dict[str, Any] = api.client.get(batch["links"]["self"]).json()
        if "ended_at" in found:
            return found
    raise AssertionError(found)


def hurry(api: Api) -> None:
    from sqlalchemy import update

    from pipeline.ledger.models import batches

    with api.services.ledger.begin() as tx:
        tx._connection.execute(update(batches).where(batches.c.due_at.is_not(None)).values(due_at=0))


def test_objects_become_documents_and_their_results_can_be_read_both_ways(api: Api) -> None:
    key = drop(api, "size-1.csv")
    batch = make(api, {"name": "May", "objects": [{"key": key, "name": "=cmd()"}, f"drop/{api.tenant}/none"]})
    assert (batch["state"], batch["source"], batch["total"], batch["ended"]) == ("running", "objects", 2, 0)
    over = ended(api, batch)
    assert (over["state"], over["counts"]) == ("completed", {"rejected": 1, "failed": 1})
    lines = api.client.get(batch["links"]["results"])
    assert lines.headers["content-type"] == "application/x-ndjson"
    first, second = map(json.loads, lines.text.splitlines())
    assert (first["key"], first["name"], first["state"], first["error"]) == (key, "=cmd()", "rejected", "empty")
    assert second == {
        "item": 1,
        "key": f"drop/{api.tenant}/none",
        "state": "failed",
        "error": "object-not-found",
    }
    for sheet in (
        api.client.get(batch["links"]["results"], params={"format": "csv"}),
        api.client.get(batch["links"]["results"], headers={"Accept": "text/csv"}),
    ):
        assert sheet.headers["content-type"] == "text/csv; charset=utf-8"
        assert sheet.headers["content-disposition"] == f'attachment; filename="batch-{batch["id"]}.csv"'
        rows = list(csv.DictReader(io.StringIO(sheet.text, newline="")))
        assert [row["key"] for row in rows] == [key, second["key"]]
        assert rows[0]["name"] == "'=cmd()"
        assert rows[1]["id"] == rows[1]["content"] == ""


@pytest.mark.cwe(1236)
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_begins_like_a_formula(start: str) -> None:
    assert cell(f"{start}1+1") == f"'{start}1+1"
    assert (cell(None), cell(-1), cell("a=b"), cell("")) == ("", "'-1", "a=b", "")


def test_what_is_available_can_be_fetched_from_the_results(api: Api) -> None:
    document = api.client.post("/v1/documents", content=b"x").json()["id"]
    batch = make(api, {"uploads": [document]})
    feed(api.services)
    for document_id in list(api.bell.rung):
        with api.services.ledger.begin() as tx:
            job = tx.claim(document_id, ready=WORKING, owner="test", lease=MINUTE)
            if job is not None:
                road = [State.CLEAN, State.RECOGNIZED, State.APPROVED, State.AVAILABLE]
                tx.settle(job, [Advance(state) for state in road])
    over = ended(api, batch)
    assert over["counts"] == {"available": 1}
    [line] = map(json.loads, api.client.get(batch["links"]["results"]).text.splitlines())
    assert (line["id"], line["state"], line["content"]) == (document, "available", f"/v1/documents/{document}/content")
    api.client.delete(f"/v1/documents/{document}").raise_for_status()
    [line] = map(json.loads, api.client.get(batch["links"]["results"]).text.splitlines())
    assert (line["state"], "content" in line) == ("deleted", False)  # as it is today


def test_results_of_many_come_page_by_page_in_order(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_results, "PAGE", 3)
    batch = make(api, {"objects": [f"drop/{api.tenant}/{number}" for number in range(9)]})
    lines = [json.loads(line) for line in api.client.get(batch["links"]["results"]).text.splitlines()]
    assert [line["item"] for line in lines] == list(range(9))
    assert {line["state"] for line in lines} == {"waiting"}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_csv_manifest_is_taken_with_its_bad_lines_by_number(api: Api, line_end: str) -> None:
    key = drop(api, "a.csv")
    lines = ["key;name;sha256", f"{key};A.csv;", ";;", f"{key};B.csv;123", "x" * 20_000]
    answer = api.client.post("/v1/batches?name=May", content=line_end.join(lines), headers=CSV)
    assert answer.status_code == 202
    batch = answer.json()
    assert (batch["name"], batch["source"], batch["total"]) == ("May", "manifest", 4)
    assert batch["counts"] == {"waiting": 1, "invalid": 3}
    assert [problem["line"] for problem in batch["problems"]] == [3, 4, 5]
    over = ended(api, batch)
    assert over["counts"] == {"rejected": 1, "invalid": 3}
    assert "problems" not in over
    found = [json.loads(line) for line in api.client.get(batch["links"]["results"]).text.splitlines()]
    assert [(one["line"], one["state"]) for one in found] == [
        (2, "rejected"),
        (3, "invalid"),
        (4, "invalid"),
        (5, "invalid"),
    ]
    assert "hexadecimal" in found[2]["detail"]


def test_an_ndjson_manifest_names_objects_and_documents(api: Api) -> None:
    document = api.client.post("/v1/documents", content=b"x").json()["id"]
    body = f'{{"id": "{document}"}}\n"{drop(api, "b.csv")}"\n'
    batch = api.client.post("/v1/batches", content=body, headers=NDJSON).json()
    assert ended(api, batch)["counts"] == {"rejected": 2}


def test_a_prefix_is_listed_later(api: Api) -> None:
    for number in range(3):
        drop(api, f"p/{number}.csv")
    batch = make(api, {"prefix": f"drop/{api.tenant}/p/"})
    assert (batch["listed"], batch["total"]) == (False, 0)
    feed(api.services)
    found = api.client.get(batch["links"]["self"]).json()
    assert (found["listed"], found["total"]) == (True, 3)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "malformed-request"),
        ({"uploads": [], "prefix": "drop/x/"}, 400, "malformed-request"),
        ({"uploads": []}, 400, "malformed-request"),
        ([], 400, "malformed-request"),
        ({"uploads": "x"}, 422, "invalid-parameters"),
        ({"uploads": ["x"]}, 422, "invalid-parameters"),
        ({"uploads": [{"key": "drop/a/b"}]}, 422, "invalid-parameters"),
        ({"objects": [{"id": str(uuid4())}]}, 422, "invalid-parameters"),
        ({"objects": [1]}, 422, "invalid-parameters"),
        ({"objects": [{"key": "drop/a/b", "sha256": "x"}]}, 422, "invalid-parameters"),
        ({"prefix": 1}, 422, "invalid-parameters"),
        ({"prefix": ""}, 422, "invalid-parameters"),
        ({"prefix": "x" * 1025}, 422, "invalid-parameters"),
        ({"name": 1, "uploads": [str(uuid4())]}, 422, "invalid-parameters"),
    ],
)
def test_what_is_no_batch_is_refused_and_leaves_nothing(api: Api, body: Any, status: int, code: str) -> None:
    answer = api.client.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{code}")
    assert api.client.get("/v1/batches").json()["batches"] == []


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", CSV, 400),
        (b"name\na\n", CSV, 400),
        (b"key\n,\n", CSV, 400),
        (b"nonsense\n", NDJSON, 400),
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"x", {"Content-Type": "text/plain"}, 415),
        (b"x", {}, 415),
        (b"x", CSV | {"Content-Encoding": "gzip"}, 415),
        (b" " * ((4 << 20) + 1), {"Content-Type": "application/json"}, 413),
    ],
)
def test_what_is_no_manifest_is_refused(api: Api, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = api.client.post("/v1/batches", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert api.client.get("/v1/batches").json()["batches"] == []


def test_lines_that_are_all_bad_are_told(api: Api) -> None:
    answer = api.client.post("/v1/batches", content=b"key\n,,,\nk,l\n", headers=CSV)
    assert [problem["line"] for problem in answer.json()["problems"]] == [2, 3]


def test_more_items_than_a_batch_may_have_are_refused_and_leave_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = api.services.settings.model_copy(update={"batch_items": 1500})
    monkeypatch.setitem(api.services.__dict__, "settings", few)
    body = "key\n" + "".join(f"drop/{api.tenant}/{number}\n" for number in range(1501))
    answer = api.client.post("/v1/batches", content=body, headers=CSV)
    assert (answer.status_code, answer.json()["limit"]) == (413, {"name": "batch_items", "value": 1500})
    assert rows_of(api) == 0
    assert api.client.post("/v1/batches", content=body[: body.rindex("drop/")], headers=CSV).status_code == 202


def rows_of(api: Api) -> int:
    """Items that belong to no batch that is seen."""
    from sqlalchemy import func, select

    from pipeline.ledger.models import batch_items, batches

    with api.services.ledger.reading() as tx:
        loading = select(func.count()).select_from(batch_items.join(batches)).where(batches.c.state == "loading")
        return int(tx._connection.execute(loading).scalar_one())


def test_a_request_that_breaks_off_leaves_nothing(api: Api) -> None:
    with api.connect() as sock:
        head = (
            f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.client.headers['authorization'][7:]}"
        )
        sock.sendall(f"{head}\r\nContent-Type: text/csv\r\nContent-Length: 10000000\r\n\r\nkey\n".encode())
        sock.sendall(b"".join(b"drop/acme/%d\n" % number for number in range(20_000)))
        wait(lambda: rows_of(api) > 0)
        sock.shutdown(socket.SHUT_RDWR)
    wait(lambda: rows_of(api) == 0)
    assert api.client.get("/v1/batches").json()["batches"] == []


def wait(true: Any) -> None:
    from tests.system import until

    until(true, "it came to be", 30)


def test_an_idempotency_key_stands_for_one_batch(api: Api) -> None:
    body = {"objects": [drop(api, "a.csv")]}
    first = make(api, body, **{"Idempotency-Key": "key-1"})
    again = api.client.post("/v1/batches", json=body, headers={"Idempotency-Key": "key-1"})
    assert (again.status_code, again.json()["id"]) == (202, first["id"])
    assert again.headers["idempotency-replayed"] == "true"
    other = api.client.post("/v1/batches", json={"prefix": f"drop/{api.tenant}/"}, headers={"Idempotency-Key": "key-1"})
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-conflict")
    assert len(api.client.get("/v1/batches").json()["batches"]) == 1
    api.client.post("/v1/documents", content=b"x", headers={"Idempotency-Key": "key-2"}).raise_for_status()
    used = api.client.post("/v1/batches", json=body, headers={"Idempotency-Key": "key-2"})
    assert used.json()["type"] == "/problems/idempotency-conflict"


def test_two_requests_with_one_key_at_once_make_one_batch(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest_api import batches

    body, looked = {"objects": [drop(api, "a.csv")]}, []
    real = batches._earlier

    def late(*args: Any) -> Any:
        """The first look finds nothing although the other one is through: both were under way."""
        looked.append(args)
        if len(looked) == 1:
            make(api, body, **{"Idempotency-Key": "key-1"})
            return None
        return real(*args)

    monkeypatch.setattr(batches, "_earlier", late)
    answer = api.client.post("/v1/batches", json=body, headers={"Idempotency-Key": "key-1"})
    assert (answer.status_code, answer.headers["idempotency-replayed"]) == (202, "true")
    assert len(api.client.get("/v1/batches").json()["batches"]) == 1
    assert rows_of(api) == 0


@pytest.mark.asvs("8.2.2")
def test_another_tenant_sees_404_on_everything_and_no_batch_of_it_reaches_others(api: Api) -> None:
    batch, mine = make(api, {"objects": [drop(api, "a.csv")]}), api.client.post("/v1/documents", content=b"x").json()
    other = api.as_tenant(f"{api.tenant}-other")
    nowhere = f"/v1/batches/{uuid4()}"
    for method, path in (
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/results"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
    ):
        answers = [other.client.request(method, base + path) for base in (batch["links"]["self"], nowhere)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].json()["detail"] == answers[1].json()["detail"]
    assert other.client.get("/v1/batches").json() == {"batches": []}
    for prefix in (f"drop/{api.tenant}/", f"drop/{other.tenant}/../{api.tenant}/", f"drop/{other.tenant}", "standard/"):
        assert other.client.post("/v1/batches", json={"prefix": prefix}).status_code == 404
    theirs = [f"drop/{api.tenant}/a.csv", f"drop/{api.tenant}/none.csv"]
    made = make(other, {"objects": theirs})
    joined = make(other, {"uploads": [mine["id"], str(uuid4())]})
    assert ended(other, made)["counts"] == {"failed": 2}
    assert ended(other, joined)["counts"] == {"failed": 2}
    for each, code in ((made, "object-not-found"), (joined, "not-found")):
        lines = [json.loads(line) for line in other.client.get(each["links"]["results"]).text.splitlines()]
        assert [line["error"] for line in lines] == [code, code]
        assert not any("sha256" in line or "size" in line for line in lines)
    other.client.close()


def test_keys_need_their_scopes(api: Api) -> None:
    from pipeline.api_keys import make_key

    reader = api.make_client(make_key(api.services.ledger, api.tenant, scopes=frozenset({"documents:read"})))
    batch = make(api, {"objects": [f"drop/{api.tenant}/x"]})
    assert reader.get(batch["links"]["self"]).status_code == 200
    for path in ("/v1/batches", batch["links"]["cancel"], f"{batch['links']['self']}/retry"):
        assert reader.post(path, json={}).status_code == 403
    reader.close()


def test_pages_turn(api: Api) -> None:
    made = [make(api, {"objects": [f"drop/{api.tenant}/x"]})["id"] for _ in range(3)]
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = api.client.get("/v1/batches", params={"limit": 2, **cursor}).json()
        seen += [batch["id"] for batch in page["batches"]]
        if "next_cursor" not in page:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(seen) == sorted(made)


def test_too_many_open_batches_are_refused_until_one_has_ended(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    few = api.services.settings.model_copy(update={"batches_open": 2})
    monkeypatch.setitem(api.services.__dict__, "settings", few)
    first, _ = (make(api, {"objects": [f"drop/{api.tenant}/x"]}) for _ in range(2))
    answer = api.client.post("/v1/batches", json={"objects": [f"drop/{api.tenant}/x"]})
    assert (answer.status_code, answer.json()["limit"]) == (429, {"name": "open_batches", "value": 2})
    assert rows_of(api) == 0
    ended(api, first)
    make(api, {"objects": [f"drop/{api.tenant}/x"]})


def test_cancelling_and_retrying(api: Api) -> None:
    batch = make(api, {"objects": [f"drop/{api.tenant}/late.csv"]})
    nothing = api.client.post(f"{batch['links']['self']}/retry")
    assert (nothing.status_code, nothing.json()["detail"]) == (409, "Nothing in this batch has failed.")
    over = ended(api, batch)
    assert over["counts"] == {"failed": 1}
    assert api.client.post(f"{batch['links']['self']}/cancel").status_code == 409
    drop(api, "late.csv")
    again = api.client.post(over["links"]["retry"])
    assert (again.status_code, again.json()["state"], again.json()["run"]) == (202, "retrying", 2)
    assert api.client.post(over["links"]["retry"]).json()["run"] == 2  # asked twice, once
    assert ended(api, batch)["counts"] == {"rejected": 1}
    other = make(api, {"objects": [f"drop/{api.tenant}/{number}" for number in range(3)]})
    asked = api.client.post(other["links"]["cancel"])
    assert (asked.status_code, asked.json()["state"]) == (202, "cancelling")
    assert "cancel" not in asked.json()["links"]
    over = ended(api, other)
    assert (over["state"], over["counts"]) == ("cancelled", {"cancelled": 3})


def listen(api: Api, batch: dict[str, Any], last: str | None = None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    headers = {} if last is None else {"Last-Event-ID": last}
    with (
        api.make_client(api.client.headers["authorization"][7:]) as client,
        client.stream("GET", batch["links"]["events"], headers=headers) as answer,
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
                assert fields["event"] == "progress"
                yield fields.pop("id"), json.loads(fields.pop("data"))


def test_progress_arrives_as_it_happens_and_the_stream_ends_with_the_batch(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_events, "EVERY", 0.02)
    batch = make(api, {"objects": [drop(api, f"{number}.csv") for number in range(3)]})
    stream = listen(api, batch)
    assert next(stream)[1]["counts"] == {"waiting": 3}
    feed(api.services)
    seen = [next(stream)]
    while seen[-1][1]["counts"] != {"running": 3}:
        seen.append(next(stream))
    ended(api, batch)
    seen += list(stream)
    assert (seen[-1][1]["state"], seen[-1][1]["counts"]) == ("completed", {"rejected": 3})
    revisions = [int(number or -1) for number, _ in seen]
    assert revisions == sorted(set(revisions))
    assert [data["state"] for _, data in listen(api, batch)] == ["completed"]
    assert list(listen(api, batch, str(revisions[-1]))) == []  # heard already; and there is no more to come


def test_silence_is_broken_by_comments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_events, "KEEP_ALIVE", 0.05)
    monkeypatch.setattr(batch_events, "EVERY", 0.02)
    batch = make(api, {"objects": [f"drop/{api.tenant}/x"]})
    stream = listen(api, batch)
    heard = {next(stream)[0]}
    while None not in heard:
        heard.add(next(stream)[0])
    ended(api, batch)
    assert [data["state"] for number, data in stream if number is not None][-1] == "completed"
    assert ItemState.FAILED in api.client.get(batch["links"]["self"]).json()["counts"]
