"""Each event goes out at least once, in order within its document, and is ticked off only behind that."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from pipeline.documents import Event
from pipeline.errors import Unavailable
from pipeline.outbox import Announcer, relay
from pipeline.states import State
from tests.world import World, worlds

NOW = timedelta(0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from worlds(tmp_path)


def unrelayed(world: World) -> list[Event]:
    with world.services.ledger.reading() as tx:
        return tx.unrelayed(older_than=NOW, limit=100)


def test_what_went_out_is_ticked_off_and_goes_out_once(world: World) -> None:
    document_id = world.land()
    assert relay(world.services, older_than=NOW) == 1
    assert [rung[0] for rung in world.rings.rung] == [document_id]
    assert unrelayed(world) == []
    assert relay(world.services, older_than=NOW) == 0


def test_the_announcer_ticks_off_what_it_rang_for_even_when_it_is_closed_at_once(world: World) -> None:
    documents = {world.land(b"%d" % number) for number in range(3)}
    announcer = Announcer(world.services)
    announcer.announce(unrelayed(world))
    announcer.close()
    assert {rung[0] for rung in world.rings.rung} == documents
    assert unrelayed(world) == []


def test_an_event_that_does_not_go_out_holds_back_its_documents_later_ones_and_no_other(world: World) -> None:
    sick, well = world.land(b"sick"), world.land(b"well")
    assert [world.run(each) for each in (sick, well)] == [State.AVAILABLE, State.AVAILABLE]
    told: list[tuple[UUID, State]] = []
    away = True

    def sink(event: Event) -> None:
        if away and event.document_id == sick and event.to is State.CLEAN:
            raise Unavailable
        told.append((event.document_id, event.to))

    road = [State.QUARANTINED, State.CLEAN, State.RECOGNIZED, State.APPROVED, State.AVAILABLE]
    assert relay(world.services, older_than=NOW, sinks=[sink]) == 6
    assert [to for document_id, to in told if document_id == well] == road
    away = False
    assert relay(world.services, older_than=NOW, sinks=[sink]) == 4
    assert [to for document_id, to in told if document_id == sick] == road
