"""The main road, end to end: real API, workers, broker, database, store, clamd and Tesseract; a client over HTTP."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import kombu
import pytest

from pipeline.invariants import violations
from pipeline.queue.celery import TASK
from tests import samples
from tests.servers.clamd import clamd
from tests.system import System, system, until
from tests.world import EICAR

STACKS = {
    "files, SQLite, Redis": ("files", "sqlite", "redis_url"),
    "SeaweedFS, PostgreSQL, Redis": ("s3", "postgres", "redis_url"),
    "SeaweedFS, PostgreSQL, RabbitMQ": ("s3", "postgres", "rabbitmq_url"),
    "files, MariaDB, RabbitMQ": ("files", "mariadb", "rabbitmq_url"),
    "Cloud Storage, SQLite, Redis": ("gcs", "sqlite", "redis_url"),
}


@pytest.fixture(scope="module", params=list(STACKS))
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One whole system a combination of parts."""
    store, database, broker = STACKS[request.param]
    tmp = tmp_path_factory.mktemp("stack")
    environment = {"AIRLOCK_BROKER_URL": request.getfixturevalue(broker)}
    with contextlib.ExitStack() as parts:
        engine = parts.enter_context(clamd(tmp / "clamd"))
        environment |= {"AIRLOCK_CLAMD_URL": engine.unix}
        if store != "files":
            server = request.getfixturevalue(f"{store}_server")
            environment |= server.environment()
            mark = request.param.replace(",", "").replace(" ", "-").lower()
            environment |= {
                "AIRLOCK_QUARANTINE_URL": server.url(f"quarantine-{mark}"),
                "AIRLOCK_SERVING_URL": server.url(f"serving-{mark}"),
            }
        if database != "sqlite":
            name = f"road_{uuid4().hex}"
            databases = request.getfixturevalue(f"{database}_server")
            databases.admin(f"CREATE DATABASE {name}")
            environment["AIRLOCK_DATABASE_URL"] = databases.url(name)
        made = parts.enter_context(system(tmp, environment))
        yield made


def test_what_is_harmless_is_served_with_its_text_and_what_is_not_is_rejected_with_the_right_reason(
    stack: System,
) -> None:
    harmless = {
        "scan.pdf": ("application/pdf", samples.scan_pdf()),
        "letter.pdf": ("application/pdf", samples.born_digital_pdf()),
        "letter.docx": (
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            samples.docx(),
        ),
        "table.csv": ("text/csv", samples.csv()),
        "photo.png": ("image/png", samples.png()),
    }
    hostile = {
        "eicar.com": ("application/octet-stream", EICAR, "infected"),
        "archive.zip": ("application/zip", samples.eicar_zip(), "infected"),
        "invoice.pdf": ("application/pdf", samples.executable(), "type_mismatch"),
    }
    ids: dict[str, str] = {}
    with stack.client() as client:
        files = [("file", (name, body, kind)) for name, (kind, body) in harmless.items()]
        answer = client.post("/v1/documents", files=files)
        assert answer.status_code == 202, answer.text
        for name, document in zip(harmless, answer.json()["documents"], strict=True):
            assert document["state"] == "quarantined"
            ids[name] = document["id"]
        for name, (kind, body, _) in hostile.items():
            answer = client.post(
                "/v1/documents",
                content=body,
                headers={"Content-Type": kind, "Content-Disposition": f'attachment; filename="{name}"'},
            )
            assert answer.status_code == 202, answer.text
            assert answer.headers["Location"].endswith(answer.json()["id"])
            ids[name] = answer.json()["id"]
        documents = stack.settled(list(ids.values()))
        for name, (kind, body) in harmless.items():
            document = documents[ids[name]]
            assert document["state"] == "available", (name, document)
            target = client.get(f"/v1/documents/{ids[name]}/content")
            assert target.status_code == 307
            served = httpx.get(target.headers["Location"])
            assert served.content == body
            assert served.headers["Content-Type"].split(";")[0] == kind
            assert name in served.headers["Content-Disposition"]
            text = client.get(f"/v1/documents/{ids[name]}/text")
            assert samples.WORDS in text.text, name
            assert client.get(f"/v1/documents/{ids[name]}/receipt").status_code == 200
        for name, (_, _, reason) in hostile.items():
            document = documents[ids[name]]
            assert (document["state"], document["reason"]) == ("rejected", reason), (name, document)
            for what in ("content", "text", "receipt"):
                assert client.get(f"/v1/documents/{ids[name]}/{what}").status_code in (404, 409)
    until(lambda: not violations(stack.services, at_rest=True), "the invariants hold at rest")


class _Touch:
    """Makes a file when it is unpickled: what an attacker would put on the queue."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.asvs("1.5.2")
@pytest.mark.cwe(502)
def test_a_pickled_message_on_the_queue_has_no_effect(stack: System, tmp_path: Path) -> None:
    marker = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(_Touch(marker)))
    assert marker.exists()  # the weapon works
    marker.unlink()
    with kombu.Connection(stack.services.settings.broker_url.get_secret_value()) as connection:
        connection.Producer().publish(
            _Touch(marker), exchange="", routing_key="inspect", serializer="pickle", headers={"task": TASK, "id": "x"}
        )
        connection.Producer().publish(["not a document"], exchange="", routing_key="inspect", serializer="json")
    with stack.client() as client:
        answer = client.post("/v1/documents", files={"file": ("after.csv", samples.csv("after"), "text/csv")})
    document_id = answer.json()["id"]
    assert stack.settled([document_id])[document_id]["state"] == "available"  # the worker has gone past both
    assert not marker.exists()
