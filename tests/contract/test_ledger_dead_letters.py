"""Dead letters in each database: a message is kept once and counted, also by several processes at the same moment."""

from __future__ import annotations

from uuid import uuid4

import pytest

from pipeline.documents import DeadLetter
from pipeline.errors import NotFound, ObjectExists
from pipeline.events.dead_letters import BODY_BYTES, body_of, id_of, text_of
from pipeline.ledger.session import Ledger
from tests.contract.ledger_fixtures import at_once, ledger

__all__ = ["ledger"]


def bury(ledger: Ledger, body: bytes, *, source: str = "sqs/q", reason: str = "no JSON") -> str:
    """As events/dead_letters.py does it."""
    letter_id = id_of(source, body, {"a": "b"})
    while True:
        try:
            with ledger.begin() as tx:
                tx.bury(
                    letter_id, source=source, reason=reason, body=text_of(body), attributes={"a": "b"}, size=len(body)
                )
        except ObjectExists:
            continue
        return letter_id


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


def test_ten_at_once_are_one_of_ten(ledger: Ledger) -> None:
    body = uuid4().bytes
    at_once([lambda: bury(ledger, body)] * 10)
    [letter] = letters(ledger)
    assert letter.count == 10


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
