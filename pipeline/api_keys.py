"""API keys: `alk_` and 43 characters of randomness. Shown once; only the SHA-256 is kept.

The secret has 256 bits of entropy, so a plain hash is enough (OWASP ASVS 5.0, 11.4.1 asks for slow hashes of passwords
that people choose, which this is not).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from pipeline.documents import ApiKey
from pipeline.errors import BadRequest
from pipeline.storage.keys import NAME

if TYPE_CHECKING:
    from pipeline.ledger.session import Ledger

PREFIX = "alk_"
SCOPES = frozenset({"documents:read", "documents:write", "admin"})


def hash_key(secret: str) -> str:
    """What is kept of a key, and looked up by."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_key(ledger: Ledger, tenant: str, name: str = "", scopes: Iterable[str] = SCOPES) -> str:
    """Make a key for a tenant and give its secret back, the only time that anybody sees it.

    Raises:
        BadRequest: the tenant's name or a scope is not one that can be.
    """
    wanted = frozenset(scopes)
    if not NAME.fullmatch(tenant):
        raise BadRequest(
            "A tenant's name is 1 to 63 characters of a-z, 0-9 and '-', and starts with none of the latter."
        )
    if unknown := wanted - SCOPES:
        raise BadRequest(f"There is no scope {', '.join(sorted(unknown))}; there are {', '.join(sorted(SCOPES))}.")
    secret = PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(id=uuid4(), tenant=tenant, name=name, scopes=wanted, created_at=datetime.now(UTC))
    with ledger.begin() as tx:
        tx.add_key(key, hash_key(secret))
    return secret
