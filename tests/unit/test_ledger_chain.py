"""The chain: every field of every event is covered, and nothing can be cut out, put in or moved."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.documents import Event, Json
from pipeline.ledger.chain import canonical, plain, seal, verify_chain
from pipeline.ledger.clock import epoch_ms, instant
from pipeline.states import TRANSITIONS, Reason, State

# Not what is not kept of an event: the database chooses the id, and the turn is the row's.
COVERED = [field.name for field in fields(Event) if field.name not in ("id", "turn")]

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20)
json_values: st.SearchStrategy[Json] = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)
facts = st.dictionaries(texts, json_values, max_size=3)
moments = st.integers(0, 2**43).map(lambda n: instant(0) + timedelta(microseconds=n * 1009))


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """A document's whole way, along the graph, as long as luck has it."""
    document_id, tenant = draw(st.uuids()), draw(st.sampled_from(["acme", "other"]))
    events: list[Event] = []
    start, to, previous = None, State.QUARANTINED, ""
    for seq in range(draw(st.integers(1, 6))):
        said = plain(draw(facts))
        values: dict[str, Any] = {
            "document_id": document_id,
            "tenant": tenant,
            "seq": seq,
            "start": start,
            "to": to,
            "reason": draw(st.none() | st.sampled_from(Reason)),
            "attempt": draw(st.integers(0, 9)),
            "actor": draw(st.sampled_from(["upload", "worker", "api"])),
            "facts": said,
            "previous": previous,
        }
        at_ms = epoch_ms(draw(moments))
        previous = seal(at_ms=at_ms, **values)
        events.append(Event(id=seq + 1, at=instant(at_ms), hash=previous, **values))
        if not TRANSITIONS[to]:
            break
        start, to = to, draw(st.sampled_from(sorted(TRANSITIONS[to])))
    return events


def another(draw: st.DrawFn, field: str, value: Any) -> Any:
    """A value of the field's kind that is not the one it has."""
    match field:
        case "document_id":
            choices: st.SearchStrategy[Any] = st.uuids()
        case "seq" | "attempt":
            choices = st.integers(-3, 20)
        case "at":
            return value + timedelta(milliseconds=draw(st.integers(1, 10**9)))
        case "start" | "to":
            choices = st.sampled_from(State) if field == "to" else st.none() | st.sampled_from(State)
        case "reason":
            choices = st.none() | st.sampled_from(Reason)
        case "facts":
            choices = facts
        case "previous" | "hash":
            choices = st.just("") | st.text("0123456789abcdef", min_size=64, max_size=64)
        case _:
            choices = texts
    # Not `!=`: 1, 1.0 and True are equal in Python, and not the same fact.
    return draw(choices.filter(lambda other: repr(other) != repr(value) and _told_apart(field, other, value)))


def _told_apart(field: str, one: Any, other: Any) -> bool:
    return field != "facts" or canonical(one) != canonical(other)


@given(histories())
def test_an_honest_history_has_no_problems(events: list[Event]) -> None:
    assert verify_chain(events) == []


@given(st.data(), histories())
def test_a_change_of_any_field_is_found(data: st.DataObject, events: list[Event]) -> None:
    index = data.draw(st.integers(0, len(events) - 1))
    field = data.draw(st.sampled_from(COVERED))
    forged = data.draw(st.composite(lambda draw: another(draw, field, getattr(events[index], field)))())
    events[index] = replace(events[index], **{field: forged})
    assert verify_chain(events)


@given(st.data(), histories())
def test_events_cannot_be_cut_from_the_middle_moved_or_doubled(data: st.DataObject, events: list[Event]) -> None:
    index = data.draw(st.integers(0, len(events) - 1))
    assert verify_chain([*events[:index], events[index], *events[index:]])
    if index < len(events) - 1:
        assert verify_chain([*events[:index], *events[index + 1 :]])
        assert verify_chain([*events[:index], events[index + 1], events[index], *events[index + 2 :]])


@given(histories(), histories())
def test_two_histories_do_not_mix(one: list[Event], other: list[Event]) -> None:
    if len(other) > 1 and one[0].document_id != other[0].document_id:
        assert verify_chain([one[0], *other[1:]])


def test_the_spelling_of_the_hash_is_for_ever() -> None:
    """A hash that an auditor wrote down must still be found by a later version: never change this value."""
    assert (
        seal(
            document_id=UUID("12345678-1234-5678-1234-567812345678"),
            tenant="acme",
            seq=1,
            at_ms=1_700_000_000_123,
            start=State.QUARANTINED,
            to=State.REJECTED,
            reason=Reason.INFECTED,
            attempt=2,
            actor="worker",
            facts={"b": 1, "a": ["é", 1.5, None]},
            previous="ab" * 32,
        )
        == "4defc3228b7fee6b4e1e176f440590448673d37e269ceac611eaf8c69d3f2dd2"
    )


def test_a_history_without_events_is_a_problem() -> None:
    assert verify_chain([]) == ["there are no events"]


def test_what_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(ValueError):
        plain({"a": float("nan")})


@given(moments)
def test_times_are_kept_to_the_millisecond(at: datetime) -> None:
    assert timedelta(0) <= at - instant(epoch_ms(at)) < timedelta(milliseconds=1)


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(TypeError):
        epoch_ms(datetime(2025, 1, 1))  # noqa: DTZ001 - that is the point


def test_an_id_made_by_hand_is_no_surprise() -> None:
    assert canonical({"id": str(uuid4()), "b": True, "a": None}).startswith('{"a":null,"b":true,"id":')
