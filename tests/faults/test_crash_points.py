"""Killed at every call that leaves the process: before it, and after it had its effect but before anybody knew.

The real flow on a real ledger and real stores. `Killed` is a BaseException, so nothing of ours can handle it; what a
killed worker leaves behind (its lease, its spool, half-done copies) stays, and the next worker and the sweeper have to
come to the right end from there. Each kill is proved to have fired.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.invariants import violations
from pipeline.outbox import relay
from pipeline.states import SETTLED, State
from pipeline.sweeper import reconcile, sweep
from tests.world import EICAR, World, bucket_urls

ENOUGH = 200  # calls in one trip: more means that something loops


class Killed(BaseException):
    """The process is gone."""


class Fate:
    """Counts calls; the chosen one kills, before or after its effect."""

    def __init__(self) -> None:
        self.calls = 0
        self.kill_at: int | None = None
        self.after = False
        self.fired = ""

    def call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        mine = self.count()
        if mine and not self.after:
            self.die(f"before {name}")
        answer = function(*args, **kwargs)
        if mine:
            self.die(f"after {name}")
        return answer

    def count(self) -> bool:
        self.calls += 1
        return self.calls == self.kill_at

    def die(self, where: str) -> None:
        self.fired = where
        raise Killed(where)


class Mortal:
    """A part, each of whose calls may be the last thing that the process does."""

    def __init__(self, name: str, part: Any, fate: Fate) -> None:
        self.__dict__.update(_name=name, _part=part, _fate=fate)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        if not callable(value):
            return value
        return lambda *args, **kwargs: self._fate.call(f"{self._name}.{name}", value, *args, **kwargs)


class MortalLedger:
    """The ledger, with a kill before the transaction, before its commit, and after its commit."""

    def __init__(self, ledger: Any, fate: Fate) -> None:
        self._ledger, self._fate = ledger, fate

    @contextlib.contextmanager
    def begin(self, *, durable: bool = True) -> Iterator[Any]:
        mine = self._fate.count()
        if mine and not self._fate.after:
            self._fate.die("before a transaction")
        with self._ledger.begin(durable=durable) as tx:
            yield tx
            if self._fate.count():
                self._fate.die("before a commit")
        if mine:
            self._fate.die("after a commit")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


@pytest.fixture(params=["local", "s3"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    buckets = bucket_urls(request.param, request)
    world = World(tmp_path, max_tries=5, orphan_after_seconds=1e-9, requeue_after_seconds=1e-9, **buckets)
    yield world
    world.services.close()


def mortal(world: World, fate: Fate) -> contextlib.AbstractContextManager[None]:
    """Make every part of the world mortal, until the block ends."""

    @contextlib.contextmanager
    def during() -> Iterator[None]:
        made = dict(world.services.__dict__)
        scanners = tuple(Mortal(scanner.name, scanner, fate) for scanner in made["scanners"])
        world.place(
            quarantine=Mortal("quarantine", made["quarantine"], fate),
            serving=Mortal("serving", made["serving"], fate),
            receipts=Mortal("receipts", world.services.receipts, fate),
            queue=Mortal("queue", made["queue"], fate),
            ledger=MortalLedger(made["ledger"], fate),
            scanners=scanners,
        )
        try:
            yield
        finally:
            world.place(**{name: made[name] for name in ("quarantine", "serving", "queue", "ledger", "scanners")})
            world.services.__dict__.pop("receipts", None)

    return during()


def recover(world: World, document_id: Any) -> None:
    """What the other processes do from here: the relay, the sweeper, and whoever hears the bell."""
    for _ in range(10):
        relay(world.services, older_than=timedelta(0))
        if world.document(document_id).state not in SETTLED:
            world.hurry(document_id)
        sweep(world.services)
        reconcile(world.services)
        rung, world.rings.rung = world.rings.rung, []
        for rung_id, _, _ in rung:
            world.run(rung_id)
        if world.document(document_id).state in SETTLED and not rung:
            break
    sweep(world.services)


# A killed process's open files are closed by the kernel; here they wait for the garbage collector, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("body", "end"), [(b"fine\n", State.AVAILABLE), (EICAR, State.REJECTED)], ids=["clean", "bad"])
def test_a_kill_anywhere_loses_nothing_doubles_nothing_and_serves_nothing_unscanned(
    world: World, body: bytes, end: State, after: bool
) -> None:
    fired = set()
    for number in range(1, ENOUGH):
        document_id = world.land(body)
        fate = Fate()
        fate.kill_at, fate.after = number, after
        survived = True
        with mortal(world, fate):
            try:
                world.run(document_id)
            except Killed:
                survived = False
        if survived:
            assert not fate.fired
            break
        fired.add(fate.fired)
        assert violations(world.services) == [], fate.fired
        recover(world, document_id)
        assert world.document(document_id).state is end, fate.fired
        assert violations(world.services, at_rest=True) == [], fate.fired
        with world.services.ledger.begin() as tx:
            tx.move(document_id, tenant=None, to=State.DELETED, actor="test") if end is State.AVAILABLE else None
    else:
        pytest.fail("the trip never ended")
    when = "after" if after else "before"
    expected = {f"{when} clamav.scan", "before a commit"}
    if end is State.AVAILABLE:
        expected |= {f"{when} serving.copy", f"{when} receipts.sign"}
    assert expected <= fired
