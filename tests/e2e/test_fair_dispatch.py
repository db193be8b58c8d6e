"""A crowd and somebody alone, through a real broker: who is taken next. Order is asserted, never time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select

from pipeline.api_keys import make_key
from pipeline.invariants import violations
from pipeline.ledger.models import events
from pipeline.states import State
from tests import samples
from tests.servers.clamd import clamd
from tests.system import System

CROWD = 40


# A window that most of the crowd has to wait for; and one that all of it fits in, where only the other queue helps.
@pytest.fixture(params=[("redis", 8), ("redis", 1000), ("rabbitmq", 1000)], ids=str)
def airlock(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """An API and a broker; no worker yet, and never a beat: what is not passed on stays where it is."""
    broker, window = request.param
    with clamd(tmp_path / "clamd") as server:
        environment = {
            "AIRLOCK_BROKER_URL": request.getfixturevalue(f"{broker}_url"),
            "AIRLOCK_CLAMD_URL": server.unix,
            "AIRLOCK_DISPATCH_SINGLES": "1",
            "AIRLOCK_DISPATCH_WINDOW": str(window),
        }
        made = System(tmp_path, environment)
        try:
            made.start("serve")
            yield made
        finally:
            made.stop()


def sent(client: httpx.Client, many: int, word: str) -> list[str]:
    return [
        client.post("/v1/documents", params={"name": "a.csv"}, content=samples.csv(f"{word} {number}"))
        .raise_for_status()
        .json()["id"]
        for number in range(many)
    ]


def taken(airlock: System) -> list[UUID]:
    """The documents in the order in which the worker came to a verdict about them."""
    with airlock.services.ledger.reading() as tx:
        query = select(events.c.document_id).where(events.c.to == State.CLEAN).order_by(events.c.id)
        return list(tx._connection.execute(query).scalars())


def test_one_document_is_taken_next_although_a_crowd_was_first(airlock: System) -> None:
    with airlock.client() as client:
        crowd = sent(client, CROWD, "crowd")
    key = make_key(airlock.services.ledger, "other")
    with airlock.client() as client:
        client.headers["Authorization"] = f"Bearer {key}"
        [alone] = sent(client, 1, "alone")
    airlock.start("worker", "--concurrency=1")
    airlock.settled(crowd)  # passed on from one to the next, without a sweeper
    order = taken(airlock)
    assert len(order) == CROWD + 1
    # In front of it: the crowd's one single, and as many of its many as were drawn meanwhile (Redis: each in turn;
    # RabbitMQ throws a coin). Without turns it would be the last.
    assert order.index(UUID(alone)) <= 20, order.index(UUID(alone))
    assert violations(airlock.services, at_rest=True) == []
