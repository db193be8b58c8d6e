"""Who is rung for, and when: windows fill, turns are passed on, and what is killed in between loses no document."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from pipeline.errors import QueueUnavailable
from pipeline.invariants import violations
from pipeline.outbox import Announcer, relay
from pipeline.settings import QueueKind
from pipeline.states import SETTLED, State
from pipeline.sweeper import sweep
from pipeline.turns import Turn
from scanners.base import Sample, ScannerError
from tests.world import TENANT, World, worlds

NOW = timedelta(0)
FEW = {"queue": QueueKind.CELERY, "dispatch_singles": 1, "dispatch_window": 3}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path, **FEW)


def rung(world: World) -> list[UUID]:
    """Who was rung for since the last look."""
    found = [document_id for document_id, _, _ in world.rings.rung]
    world.rings.rung.clear()
    return found


def landed(world: World, many: int, tenant: str = TENANT) -> list[UUID]:
    return [world.land(b"%s %d" % (tenant.encode(), number), tenant=tenant) for number in range(many)]


def turns(world: World, documents: list[UUID]) -> list[Turn | None]:
    return [world.document(one).turn for one in documents]


def announce(world: World) -> None:
    """As the API does after its commits; what was rung for is ticked off."""
    announcer = Announcer(world.services)
    with world.services.ledger.reading() as tx:
        events = tx.unrelayed(older_than=NOW, limit=1000)
    announcer.announce([event for event in events if event.start is None])
    announcer.close()


def work_off(world: World) -> int:
    """Play the worker until nobody is rung for any more; how many trips it took."""
    trips = 0
    while waiting := rung(world):
        for document_id in waiting:
            world.run(document_id)
            trips += 1
    return trips


@pytest.mark.parametrize("tell", ["announcer", "relay"])
def test_a_crowd_is_rung_for_by_turns_until_all_have_settled(world: World, tell: str) -> None:
    crowd = landed(world, 20)
    alone = landed(world, 1, "other")
    if tell == "announcer":
        announce(world)
    else:
        assert relay(world.services, older_than=NOW) == 21
    assert rung(world) == [*crowd[:4], *alone]  # one single, a window of three; and the other tenant's
    assert [world.rings.bulk[one] for one in (*crowd[:4], *alone)] == [False, True, True, True, False]
    with world.services.ledger.reading() as tx:
        assert tx.unrelayed(older_than=NOW, limit=100) == []  # held back, its event is done with all the same
    for number in (1, 2, 3):
        assert world.run(crowd[number]) is State.AVAILABLE
        assert rung(world) == [crowd[number + 3]]  # each passes its turn on, to whoever waits longest
    world.rings.rung += [(crowd[number], world.services.settings.lanes, 0.0) for number in (0, 4, 5, 6)]  # type: ignore[arg-type, misc]
    assert work_off(world) == 17
    assert {world.document(one).state for one in crowd} == {State.AVAILABLE}
    world.run(alone[0])
    assert violations(world.services, at_rest=True) == []


def test_whoever_sends_one_waits_behind_nobodys_crowd(world: World) -> None:
    landed(world, 10)
    announce(world)
    rung(world)
    alone = landed(world, 1, "other")
    announce(world)
    assert (rung(world), world.rings.bulk[alone[0]]) == (alone, False)


def test_a_broken_file_does_not_stand_in_front_of_good_ones(world: World) -> None:
    def choke(sample: Sample) -> None:
        if sample.path.read_bytes().endswith(b" 1"):
            raise ScannerError("no verdict")

    world.structure.before = choke
    crowd = landed(world, 6)
    announce(world)
    rung(world)
    assert world.run(crowd[1]) is State.QUARANTINED
    assert rung(world) == [crowd[4]]  # another one's turn, and no message for this one
    assert turns(world, crowd[:2]) == [Turn.SINGLE, Turn.HELD]
    for one in (crowd[2], crowd[3], crowd[4], crowd[5]):
        world.run(one)
    world.hurry(crowd[1])
    assert sweep(world.services)["turned"] == 1  # nobody was left to pass a turn on
    world.structure.before = lambda _: None
    work_off(world)
    assert {world.document(one).state for one in crowd[1:]} == {State.AVAILABLE}


def test_a_part_that_is_away_does_not_let_the_whole_crowd_through(world: World) -> None:
    world.clamav.fit = False
    crowd = landed(world, 10)
    announce(world)
    for _ in range(3):
        for one in rung(world):
            world.run(one)
            world.hurry(one)
    assert [one for one in turns(world, crowd) if one is not None and one.held] == [Turn.HELD] * 6


def test_a_worker_killed_before_it_rings_loses_no_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    for world in worlds(tmp_path, **FEW, requeue_after_seconds=1e-9):
        crowd = landed(world, 8)
        announce(world)
        rung(world)
        monkeypatch.setattr("pipeline.flow.ring_for", die)
        for one in crowd[1:4]:  # the whole window: from now on nobody passes anything on
            with pytest.raises(Killed):
                world.run(one)
        monkeypatch.undo()
        assert rung(world) == []
        assert turns(world, crowd[4:]) == [Turn.BULK] * 3 + [Turn.HELD]
        assert set(crowd[4:7]) <= set(_swept(world))
        work_off(world)
        settle_rest(world, crowd)


def test_a_broker_that_is_down_when_a_turn_comes_costs_no_document(tmp_path: Path) -> None:
    for world in worlds(tmp_path, **FEW, requeue_after_seconds=1e-9):
        crowd = landed(world, 8)
        announce(world)
        rung(world)

        class Down:
            def ring(self, *_: object, **__: object) -> None:
                raise QueueUnavailable

        world.place(queue=Down())
        for one in crowd[1:4]:
            assert world.run(one) is State.AVAILABLE
        sweep(world.services)
        world.place(queue=world.rings)
        settle_rest(world, crowd)


def test_what_is_deleted_leaves_its_place_to_the_sweeper(world: World) -> None:
    crowd = landed(world, 9)
    announce(world)
    rung(world)
    with world.services.ledger.begin() as tx:
        for one in crowd[1:4]:
            tx.move(one, tenant=TENANT, to=State.DELETED, actor="api", erase_in=NOW)
    assert turns(world, crowd[1:4]) == [None] * 3
    assert sweep(world.services)["turned"] == 3
    assert rung(world) == crowd[4:7]
    assert sweep(world.services)["turned"] == 0


def test_a_window_that_was_taken_away_lets_everything_go(tmp_path: Path) -> None:
    for world in worlds(tmp_path, **FEW):
        crowd = landed(world, 9)
    for world in worlds(tmp_path, queue=QueueKind.INLINE):
        assert sweep(world.services)["turned"] == 5
        assert rung(world) == crowd[4:]


def test_the_sweeper_rings_for_the_lost_messages_of_a_window_and_no_more(tmp_path: Path) -> None:
    """The broker was emptied."""
    for world in worlds(tmp_path, **FEW, requeue_after_seconds=1e-9):
        crowd = landed(world, 12)
        announce(world)
        rung(world)
        assert set(_swept(world)) == set(crowd[:4])


def _swept(world: World) -> list[UUID]:
    from sqlalchemy import update

    from pipeline.ledger.models import documents
    from pipeline.ledger.queries.turns import NEVER

    with world.services.ledger.begin() as tx:  # a moment ago is long ago
        told = documents.c.nudged_at != NEVER
        tx._connection.execute(update(documents).where(told).values(nudged_at=documents.c.nudged_at - 1000))
    sweep(world.services)
    found = list(dict.fromkeys(one for one, _, _ in world.rings.rung))
    world.rings.rung[:] = [each for each in world.rings.rung if each[0] in found]
    return found


def settle_rest(world: World, crowd: list[UUID]) -> None:
    """Sweep and work until all have settled: a bounded number of times."""
    for _ in range(20):
        _swept(world)
        work_off(world)
        if all(world.document(one).state in SETTLED for one in crowd):
            assert {world.document(one).state for one in crowd} == {State.AVAILABLE}
            return
    raise AssertionError("the sweeper does not converge")
