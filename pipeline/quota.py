"""What a tenant may have open and stored at once (OWASP ASVS 5.0, 5.2.4). Off unless the policy sets a number.

Counting and taking happen in one transaction, behind a lock on the tenant's own row: a hundred requests at once come
one after another here, and the quota holds. What is counted are the rows themselves, so nothing has to be given back:
an upload that ends, and a document whose bytes are erased, count no more from that moment on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import QuotaExceeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.documents import NewDocument, Upload
    from pipeline.ledger.queries import Transaction
    from pipeline.policy import Policy


def charge_upload(tx: Transaction, upload: Upload, policy: Policy) -> None:
    """Room for one more open upload and the bytes it announces. Raises QuotaExceeded."""
    quota = policy.quota
    if quota.open_uploads is None and quota.documents is None and quota.bytes is None:
        return
    tx.lock_tenant(upload.tenant)
    count, _ = tx.open_uploads(upload.tenant)
    if quota.open_uploads is not None and count >= quota.open_uploads:
        raise _over("open_uploads", quota.open_uploads)
    _room(tx, upload.tenant, 1, upload.size or 1, policy)


def charge_bytes(tx: Transaction, tenant: str, more: int, policy: Policy) -> None:
    """Room for so many bytes more, of an open upload that announces them only now. Raises QuotaExceeded."""
    quota = policy.quota
    if quota.bytes is None:
        return
    tx.lock_tenant(tenant)
    if tx.stored(tenant)[1] + tx.open_uploads(tenant)[1] + more > quota.bytes:
        raise _over("bytes", quota.bytes)


def charge_documents(tx: Transaction, documents: Sequence[NewDocument], policy: Policy) -> None:
    """Room for these documents, which were not announced before. Raises QuotaExceeded."""
    quota = policy.quota
    if quota.documents is None and quota.bytes is None:
        return
    for tenant in sorted({one.tenant for one in documents}):
        mine = [one for one in documents if one.tenant == tenant]
        tx.lock_tenant(tenant)
        _room(tx, tenant, len(mine), sum(one.size for one in mine), policy)


def room_for_one(tx: Transaction, tenant: str, policy: Policy) -> None:
    """Whether anything at all would be taken now; takes no lock, promises nothing. Raises QuotaExceeded."""
    _room(tx, tenant, 1, 1, policy)


def _room(tx: Transaction, tenant: str, files: int, size: int, policy: Policy) -> None:
    quota = policy.quota
    count, announced = tx.open_uploads(tenant)
    held, stored = tx.stored(tenant)
    if quota.documents is not None and held + count + files > quota.documents:
        raise _over("documents", quota.documents)
    if quota.bytes is not None and stored + announced + size > quota.bytes:
        raise _over("bytes", quota.bytes)


def _over(what: str, value: int) -> QuotaExceeded:
    words = {"open_uploads": "open uploads", "documents": "documents", "bytes": "bytes, stored and announced"}[what]
    return QuotaExceeded(
        f"The quota of this tenant is {value} {words}. Finish or delete some first.",
        limit={"name": what, "value": value},
        retry_after=60,
    )
