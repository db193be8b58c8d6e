"""Dead letters: messages that could not be taken, each once, with how often it came."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import bindparam, delete, func, insert, select

from pipeline.documents import DeadLetter
from pipeline.errors import NotFound, ObjectExists
from pipeline.ledger.chain import plain
from pipeline.ledger.clock import instant, now_ms
from pipeline.ledger.models import dead_letters
from pipeline.ledger.queries.base import Statements, updated
from pipeline.ledger.rows import Columns, Line, storable

SEEN = (
    updated(dead_letters)
    .where(dead_letters.c.id == bindparam("its_id"))
    .values(count=dead_letters.c.count + 1, last_at=now_ms(), reason=bindparam("why"))
)
NEWEST = select(dead_letters).order_by(dead_letters.c.last_at.desc(), dead_letters.c.id).limit(bindparam("at_most"))
BEGINNING = (
    select(dead_letters).where(dead_letters.c.id >= bindparam("first"), dead_letters.c.id <= bindparam("last")).limit(2)
)
IDS = select(dead_letters.c.id).order_by(dead_letters.c.last_at)
FORGET = delete(dead_letters).where(dead_letters.c.id == bindparam("its_id"))
OF_SOURCE = select(func.count()).where(dead_letters.c.source == bindparam("source"))
BY_SOURCE = select(dead_letters.c.source, func.count()).group_by(dead_letters.c.source)


class DeadLetterQueries(Statements):
    """A message that comes again is counted, not kept again."""

    def count_dead_letter(self, letter_id: str, reason: str) -> bool:
        """Count a message that came again; False if it is not kept."""
        return self._write(SEEN, {"its_id": letter_id, "why": _cut(reason)}).rowcount == 1

    def bury(
        self, letter_id: str, *, source: str, reason: str, body: str, attributes: Mapping[str, str], size: int
    ) -> None:
        """Keep a message that is not kept yet.

        ObjectExists: another process has just buried it; then this transaction is over: count it in a new one.
        """
        now = self._now()
        row: Columns = {
            "id": letter_id,
            "source": source,
            "reason": _cut(reason),
            "body": body,
            "attributes": plain(attributes),
            "size": size,
            "count": 1,
            "first_at": now,
            "last_at": now,
        }
        self._write_once(insert(dead_letters), row, ObjectExists("this message was buried a moment ago"))

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """The ones that came last, newest first."""
        return [_letter_of(row) for row in self._read(NEWEST, {"at_most": limit})]

    def dead_letter_ids(self) -> list[str]:
        """The ids of all, oldest first."""
        return list(self._read(IDS).scalars())

    def dead_letter(self, beginning: str) -> DeadLetter:
        """The one whose id begins like this. NotFound: there is none, or more than one."""
        rows = self._read(BEGINNING, {"first": beginning, "last": beginning + "g"}).all()
        if len(rows) != 1:
            raise NotFound(f"There is {'no' if not rows else 'more than one'} dead letter whose id begins like this.")
        return _letter_of(rows[0])

    def forget_dead_letter(self, letter_id: str) -> bool:
        """Remove one; False if it is gone already."""
        return self._write(FORGET, {"its_id": letter_id}).rowcount == 1

    def dead_letters_of(self, source: str) -> int:
        """How many messages of a source are kept."""
        return int(self._read(OF_SOURCE, {"source": source}).scalar_one())

    def dead_letter_counts(self) -> dict[str, int]:
        """How many messages are kept, by source; a source that has none is not named."""
        return {row[0]: row[1] for row in self._read(BY_SOURCE)}


def _cut(reason: str) -> str:
    return (storable(reason) or "")[:255]


def _letter_of(row: Line) -> DeadLetter:
    return DeadLetter(
        id=row.id,
        source=row.source,
        reason=row.reason,
        body=row.body,
        attributes=row.attributes,
        size=row.size,
        # `count` is also a method of the row.
        count=row._mapping["count"],
        first_at=instant(row.first_at),
        last_at=instant(row.last_at),
    )
