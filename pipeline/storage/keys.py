"""Where things lie: `{retention}/{tenant}/{document id}/{part}`. No client text is ever part of a key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

# Retention classes and tenants are names that operators choose, held to this at their source.
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# The one first part that is no retention class: below it others choose the names, and keep what they put there open.
DROPPED = "drop"
PARTS = frozenset({"original", "text", "pdf"})
# What an upload that is not whole yet has left so far: `piece-0`, `piece-rest`. Never a document's, never served.
PIECE = re.compile(r"piece-[a-z0-9]{1,32}")


@dataclass(frozen=True, slots=True)
class Place:
    """A key, taken apart."""

    retention: str
    tenant: str
    document_id: UUID
    part: str

    @property
    def is_piece(self) -> bool:
        """Whether this is a piece of an upload, and not a part of a document."""
        return self.part not in PARTS


def key_of(retention: str, tenant: str, document_id: UUID, part: str = "original") -> str:
    """The key of one part of a document, the same in quarantine and in serving. Raises ValueError on a bad name."""
    if not (is_class(retention) and NAME.fullmatch(tenant) and (part in PARTS or PIECE.fullmatch(part))):
        raise ValueError("retention classes and tenants are [a-z0-9-]; parts are a closed list")
    return f"{retention}/{tenant}/{document_id}/{part}"


def is_class(name: str) -> bool:
    """Whether a retention class may have this name."""
    return name != DROPPED and NAME.fullmatch(name) is not None


def parse(key: str) -> Place | None:
    """Take a key apart; None if it is not one of ours: nor is one in a drop folder, whatever it looks like."""
    match key.split("/"):
        case [retention, tenant, document, part] if is_class(retention) and NAME.fullmatch(tenant):
            try:
                document_id = UUID(document)
            except ValueError:
                return None
            if (part in PARTS or PIECE.fullmatch(part)) and str(document_id) == document:
                return Place(retention, tenant, document_id, part)
    return None
