"""SIGTERM in the middle of a scan: the process is gone within the time that platforms give, and another takes over."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from pipeline import flow
from pipeline.documents import Document, Filters
from pipeline.drain import Drain
from pipeline.errors import Draining, LeaseLost
from pipeline.states import WORKING, State
from scanners.base import Sample
from tests.servers.clamd import ClamdServer, clamd
from tests.servers.holding import Holding, holding
from tests.system import System, until
from tests.world import World, worlds

GIVEN = 10.0  # seconds between SIGTERM and SIGKILL: Cloud Run's
SLOW = b"this,one,takes,long"


@pytest.fixture
def scanner(tmp_path: Path) -> Iterator[ClamdServer]:
    with clamd(tmp_path / "clamd") as server:
        yield server


@pytest.fixture
def door(scanner: ClamdServer) -> Iterator[Holding]:
    """The way to clamd, on which a document with the text SLOW never arrives."""
    with holding(scanner.port, SLOW) as made:
        yield made


@contextlib.contextmanager
def parts(tmp: Path, door: Holding, **environment: str) -> Iterator[System]:
    """Processes that hold a document for a minute without a sign of life: what lapses is not what saves it here."""
    made = System(
        tmp,
        {
            "AIRLOCK_CLAMD_URL": f"tcp://127.0.0.1:{door.port}",
            "AIRLOCK_LEASE_SECONDS": "60",
            "AIRLOCK_DRAIN_SECONDS": "1",
            **environment,
        },
    )
    try:
        yield made
    finally:
        made.stop()


def only_document(airlock: System) -> Document | None:
    with airlock.services.ledger.reading() as tx:
        found, _ = tx.documents(Filters(tenant="acme"), limit=2)
    return found[0] if found else None


def send(airlock: System) -> None:
    """An upload whose answer nobody waits for: the process dies under it."""
    with contextlib.suppress(Exception), airlock.client() as client:
        client.post("/v1/documents", content=SLOW + b"\n", params={"name": "slow.csv"})


def gone(airlock: System, name: str) -> None:
    process = airlock.processes[name]
    process.send_signal(signal.SIGTERM)
    process.wait(GIVEN)


def taken_over(airlock: System, door: Holding, scanner: ClamdServer) -> None:
    """The document is free at once, with no try counted, and whoever comes next brings it to its end."""
    document = only_document(airlock)
    assert document is not None
    assert (document.state, document.lease_owner, document.tries) == (State.QUARANTINED, None, 0)
    door.go_on.set()
    assert flow.run(document.id, airlock.services) is State.AVAILABLE


def test_the_api_that_runs_the_flow_itself_gives_back_what_it_cannot_finish(
    tmp_path: Path, door: Holding, scanner: ClamdServer
) -> None:
    with parts(tmp_path, door, AIRLOCK_QUEUE="inline") as airlock:
        airlock.start("serve")
        sender = threading.Thread(target=send, args=(airlock,))
        sender.start()
        assert door.seen.wait(60)
        assert (held := only_document(airlock)) is not None
        assert held.lease_owner is not None
        gone(airlock, "serve")
        sender.join()
        taken_over(airlock, door, scanner)


def test_a_worker_gives_back_what_it_cannot_finish_and_its_message_too(
    tmp_path: Path, door: Holding, scanner: ClamdServer, redis_url: str
) -> None:
    with parts(tmp_path, door, AIRLOCK_BROKER_URL=f"{redis_url.rpartition('/')[0]}/7") as airlock:
        airlock.start("serve")
        airlock.start("worker", "--concurrency=1")
        send(airlock)
        assert door.seen.wait(60)
        gone(airlock, "worker")
        document = only_document(airlock)
        assert document is not None
        assert (document.state, document.lease_owner, document.tries) == (State.QUARANTINED, None, 0)
        door.go_on.set()
        # No beat runs here: nobody but the message, which is back in the broker, tells the next worker.
        del airlock.processes["worker"]
        airlock.start("worker", "--concurrency=1")
        until(lambda: (found := only_document(airlock)) and found.state is State.AVAILABLE, "the next worker took it")


def test_what_ends_in_time_is_finished_in_order(tmp_path: Path, door: Holding, scanner: ClamdServer) -> None:
    with parts(tmp_path, door, AIRLOCK_QUEUE="inline", AIRLOCK_DRAIN_SECONDS="8") as airlock:
        airlock.start("serve")
        sender = threading.Thread(target=send, args=(airlock,))
        sender.start()
        assert door.seen.wait(60)
        airlock.processes["serve"].send_signal(signal.SIGTERM)
        until(lambda: b"draining" in (airlock.tmp / "serve.log").read_bytes(), "the end has begun")
        door.go_on.set()
        airlock.processes["serve"].wait(GIVEN)
        sender.join()
        document = only_document(airlock)
        assert document is not None
        # The step that ran is settled; the next was not begun.
        assert (document.state, document.lease_owner) == (State.CLEAN, None)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path, drain_seconds=0, lease_seconds=60)


def in_hand(world: World, document_id: UUID) -> Drain:
    """Begin the end when the document is being scanned, and go on once it was taken away."""
    drain, ended = world.services.drain, threading.Event()
    drain.watch(lambda _: ended.set())

    def meanwhile(_: Sample) -> None:
        drain.begin()
        assert ended.wait(30)

    world.clamav.before = meanwhile
    return drain


def test_what_was_taken_away_settles_nothing(world: World) -> None:
    document_id = world.land()
    in_hand(world, document_id)
    before = world.history(document_id)
    assert world.run(document_id) is State.QUARANTINED
    document = world.document(document_id)
    assert (document.state, document.lease_owner, document.tries, document.attempt) == (State.QUARANTINED, None, 0, 1)
    assert world.history(document_id) == before
    assert world.rings.rung == [(document_id, world.rings.rung[0][1], 0.0)]


def test_nor_does_it_when_another_has_it_by_then(world: World) -> None:
    document_id = world.land()
    drain, ended = world.services.drain, threading.Event()
    drain.watch(lambda _: ended.set())
    other = []

    def meanwhile(_: Sample) -> None:
        drain.begin()
        assert ended.wait(30)
        with world.services.ledger.begin() as tx:
            other.append(tx.claim(document_id, ready=WORKING, owner="another", lease=timedelta(minutes=1)))

    world.clamav.before = meanwhile
    world.run(document_id)
    assert other[0] is not None
    assert world.document(document_id).lease_owner == "another"
    with world.services.ledger.begin() as tx:
        assert tx.renew(other[0], timedelta(minutes=1))


def test_nothing_new_is_begun(world: World) -> None:
    document_id = world.land()
    world.services.drain.begin()
    with pytest.raises(Draining):
        world.run(document_id)
    assert world.document(document_id).attempt == 0


def test_a_lease_that_is_over_is_not_given_back(world: World) -> None:
    document_id = world.land()
    leases = []

    def keep(_: Sample) -> None:
        leases.extend(trip.lease for trip in world.services.drain._trips)

    world.clamav.before = keep
    assert world.run(document_id) is State.AVAILABLE
    assert leases[0].give_back() is False
    with pytest.raises(LeaseLost), world.services.ledger.begin() as tx:
        tx.release(leases[0].job, delay=timedelta(0), counted=False, waiting_for=None)
