"""Where things lie: `{retention}/{tenant}/{document id}/{part}`. No client text is ever part of a key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

# Retention classes and tenants are names that operators choose, held to this at their source.
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
PARTS = frozenset({"original", "text", "pdf"})


@dataclass(frozen=True, slots=True)
class Place:
    """A key, taken apart."""

    retention: str
    tenant: str
    document_id: UUID
    part: str


def key_of(retention: str, tenant: str, document_id: UUID, part: str = "original") -> str:
    """The key of one part of a document, the same in quarantine and in serving. Raises ValueError on a bad name."""
    if not (NAME.fullmatch(retention) and NAME.fullmatch(tenant) and part in PARTS):
        raise ValueError("retention classes and tenants are [a-z0-9-]; parts are a closed list")
    return f"{retention}/{tenant}/{document_id}/{part}"


def parse(key: str) -> Place | None:
    """Take a key apart; None if it is not one of ours."""
    match key.split("/"):
        case [retention, tenant, document, part] if NAME.fullmatch(retention) and NAME.fullmatch(tenant):
            try:
                document_id = UUID(document)
            except ValueError:
                return None
            if part in PARTS and str(document_id) == document:
                return Place(retention, tenant, document_id, part)
    return None
