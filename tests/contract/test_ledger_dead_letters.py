"""Dead letters in each database: a message is kept once and counted, also by several processes at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.documents import DeadLetter
from pipeline.errors import NotFound
from pipeline.events import dead_letters
from pipeline.events.dead_letters import BODY_BYTES, body_of, id_of, text_of
from pipeline.ledger.queries import Transaction
from pipeline.ledger.session import Ledger
from tests.contract.ledger_fixtures import at_once, ledger
from tests.unit.test_ledger_plans import plans

__all__ = ["ledger"]


class With:
    """All of the services that burying needs."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger


def bury(ledger: Ledger, body: bytes, *, source: str = "sqs/q", reason: str = "no JSON") -> str:
    """The letter's id."""
    dead_letters.bury(source, body, {"a": "b"}, reason, With(ledger))  # type: ignore[arg-type]
    return id_of(source, body, {"a": "b"})


def letters(ledger: Ledger) -> list[DeadLetter]:
    with ledger.reading() as tx:
        return tx.dead_letters(100)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\x00\xfe", "Grüße \U0001f600 \0".encode(), "é".encode() * BODY_BYTES, b"\xed\xa0\x80"]
)
def test_any_body_is_kept(ledger: Ledger, body: bytes) -> None:
    bury(ledger, body)
    [letter] = letters(ledger)
    assert (letter.source, letter.reason, letter.count, letter.size) == ("sqs/q", "no JSON", 1, len(body))
    assert letter.attributes == {"a": "b"}
    assert letter.body == text_of(body)
    assert len(letter.body.encode()) <= BODY_BYTES
    whole = b"\0" not in body and len(body) <= BODY_BYTES and body.decode("utf-8", "ignore").encode() == body
    assert body_of(letter) == (body if whole else None)


def test_a_message_that_comes_again_is_counted(ledger: Ledger) -> None:
    first = bury(ledger, b"x")
    assert bury(ledger, b"x", reason="r" * 1000) == first
    bury(ledger, b"x", source="sqs/other")
    bury(ledger, b"y")
    found = {letter.id: letter for letter in letters(ledger)}
    assert len(found) == 3
    assert (found[first].count, found[first].reason) == (2, "r" * 255)
    assert found[first].first_at <= found[first].last_at
    with ledger.reading() as tx:
        assert tx.dead_letter_counts() == {"sqs/q": 2, "sqs/other": 1}
        assert len(tx.dead_letters(2)) == 2
        assert set(tx.dead_letter_ids()) == set(found)


def test_ten_at_once_are_one_of_ten(ledger: Ledger) -> None:
    body = uuid4().bytes
    at_once([lambda: bury(ledger, body)] * 10)
    [letter] = letters(ledger)
    assert letter.count == 10


def test_whoever_floods_us_is_counted_and_fills_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "AT_MOST", 3)
    known = [bury(ledger, str(n).encode()) for n in range(3)]
    at_once([lambda n=n: bury(ledger, f"more {n}".encode()) for n in range(5)])  # type: ignore[misc]
    bury(ledger, b"0")
    bury(ledger, b"another's", source="sqs/other")
    found = {letter.id: letter for letter in letters(ledger)}
    assert len(found) == 5
    assert found[known[0]].count == 2
    [rest] = [letter for letter in found.values() if letter.reason == dead_letters.OVERFLOW]
    assert (rest.source, rest.count, rest.body) == ("sqs/q", 5, "")
    assert body_of(rest) is None


def test_one_is_found_by_how_its_id_begins_and_forgotten(ledger: Ledger) -> None:
    one, other = bury(ledger, b"1"), bury(ledger, b"2")
    with ledger.reading() as tx:
        assert tx.dead_letter(one[:12]).id == one
        assert tx.dead_letter(other).id == other
        for beginning in ("", "zz", one + "0"):
            with pytest.raises(NotFound):
                tx.dead_letter(beginning)
    with ledger.begin() as tx:
        assert tx.forget_dead_letter(one)
        assert not tx.forget_dead_letter(one)
    assert [letter.id for letter in letters(ledger)] == [other]


def test_each_is_found_along_an_index(tmp_path: Path) -> None:
    small = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    small.upgrade()
    letter_id = bury(small, b"x")
    calls: list[Callable[[Transaction], object]] = [
        lambda tx: tx.count_dead_letter("ab", "x"),
        lambda tx: tx.dead_letters_of("sqs/q"),
        lambda tx: tx.dead_letter(letter_id[:8]),
        lambda tx: tx.dead_letters(5),
        lambda tx: tx.dead_letter_counts(),
        lambda tx: tx.dead_letter_ids(),
        lambda tx: tx.forget_dead_letter("ab"),
    ]
    for call in calls:
        found = plans(small, call)
        assert found
        # A scan of an index alone touches no text; a sort is of those that came in the same millisecond.
        assert all(" USING " in plan or "PART OF ORDER BY" in plan for plan in found), found
    small.dispose()
