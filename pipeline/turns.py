"""Fair dispatch: a tenant's documents get their messages by turns, so that none waits behind another's thousands.

A message is sent for so many of a tenant's documents at once; the others are held back in the ledger, and each that
settles passes its turn on (docs/decisions/0011). Pure: imports nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Turn(IntEnum):
    """Whether a document that is on its way has been given to the queue, and to which. The numbers are in the ledger:
    what is not an item of a batch comes before what is, and the higher of two comes first."""

    HELD_ITEM = 0  # an item of a batch; its turn has not come
    HELD = 1
    BULK_ITEM = 2  # in the queue of those whose tenant has many
    BULK = 3
    SINGLE = 4  # in the queue of those whose tenant has few: nobody's thousands are in front of it

    @property
    def held(self) -> bool:
        """Nobody has been told of it yet."""
        return self < Turn.BULK_ITEM

    @property
    def bulk(self) -> bool:
        """It goes, or will go, to the queue of those whose tenant has many."""
        return self < Turn.SINGLE

    @property
    def given(self) -> Turn:
        """What a held one becomes when its turn comes."""
        return Turn(self + 2) if self.held else self

    @property
    def taken_back(self) -> Turn:
        """What a document becomes that gives its turn away and waits again."""
        return {Turn.BULK_ITEM: Turn.HELD_ITEM, Turn.BULK: Turn.HELD, Turn.SINGLE: Turn.HELD}.get(self, self)


@dataclass(frozen=True, slots=True)
class Window:
    """How many of one tenant's documents may be given to the queue at once."""

    singles: int = 4  # on their way before the next counts as one of many
    bulk: int = 64  # 0: as many as there are, all of them singles

    @property
    def off(self) -> bool:
        """Nothing is held back."""
        return self.bulk == 0


USUAL = Window()
OFF = Window(0, 0)
