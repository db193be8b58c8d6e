"""Finished partial uploads become one document: the worker has the store join them, and nothing is sent again.

A partial upload is used once. From the commit that makes the document on it belongs to the final upload, whose cleaning
up it waits for, however late the worker comes to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from pipeline.appending import complete, is_whole
from pipeline.documents import Json, Upload, UploadMethod, UploadState
from pipeline.errors import BadRequest, Conflict, NotFound, UploadGone, UploadIncomplete
from pipeline.quota import charge_upload
from pipeline.services import Services
from pipeline.uploads import document_of, lifetime, new_upload, piece_key


def concatenate(
    ids: Sequence[UUID],
    tenant: str,
    services: Services,
    *,
    name: str | None,
    declared_type: str | None,
    declared_sha256: str | None,
    details: Mapping[str, Json],
    correlation_id: str,
) -> Upload:
    """Make the final upload of these partial ones, in this order, and its document. Asked again, after a lost answer,
    it gives the same one.

    Raises:
        NotFound: one of them is not there, or no partial upload.
        UploadIncomplete: bytes of some are missing; `missing` names them.
        UploadGone: one was ended, or its time is over.
        Conflict: one is a piece of another upload already.
        TooLarge, EmptyFile, TypeNotAllowed, QuotaExceeded: as for any upload.
    """
    if len(set(ids)) != len(ids):
        raise BadRequest("A partial upload can be used only once.")
    partials = _found(ids, tenant, services)
    if (made := _made_of(partials, services)) is not None:
        return made
    _must_be_finished(partials)
    total = sum(one.offset for one in partials)
    sources: list[Json] = [
        {"key": piece_key(one.key, 0), "version": one.version or ""} for one in partials if one.offset
    ]
    final = new_upload(
        services,
        tenant,
        UploadMethod.TUS_FINAL,
        name=name,
        declared_type=declared_type,
        size=total,
        declared_sha256=declared_sha256,
        details={**details, "sources": sources, "partials": [str(one.id) for one in partials]},
        correlation_id=correlation_id,
    )
    final = replace(final, state=UploadState.COMPLETED, offset=total)
    try:
        return _join(final, partials, services)
    except UploadGone:
        if (made := _made_of(_found(ids, tenant, services), services)) is not None:  # by the same request, sent twice
            return made
        raise


def _join(final: Upload, partials: Sequence[Upload], services: Services) -> Upload:
    with services.ledger.begin() as tx:
        for one in sorted(partials, key=lambda one: one.id):  # in one order: two at once must not wait for each other
            if not tx.join_piece(one.id, details={**one.details, "final": str(final.id)}):
                raise UploadGone("A partial upload was used or ended meanwhile, or its time is over.")
        charge_upload(tx, final, services.policy)  # only now: the pieces count no more
        final = tx.open_upload(final, expires_in=lifetime(services))
        event = tx.insert(document_of(final, services, size=final.offset))
    services.announcer.announce([event])
    return final


def pieces_of(final: Upload) -> list[UUID]:
    """The partial uploads that a final one is made of."""
    named = final.details.get("partials")
    return [UUID(str(one)) for one in named] if isinstance(named, list) else []


def _found(ids: Sequence[UUID], tenant: str, services: Services) -> list[Upload]:
    with services.ledger.reading() as tx:
        found = tx.uploads(list(ids), tenant=tenant)
    missing = [one for one in ids if one not in found or found[one].method is not UploadMethod.TUS_PARTIAL]
    if missing:
        raise NotFound("Some of these are not partial uploads here.", missing=[str(one) for one in missing])
    if stopped := [one for one in found.values() if is_whole(one)]:
        for one in stopped:
            complete(one, services)
        return _found(ids, tenant, services)
    return [found[one] for one in ids]


def _made_of(partials: Sequence[Upload], services: Services) -> Upload | None:
    """The final upload of exactly these, if there is one. Raises Conflict where some belong to another."""
    finals = {str(one.details["final"]) for one in partials if one.state is UploadState.JOINED}
    if not finals:
        return None
    with services.ledger.reading() as tx:
        made = tx.upload(UUID(finals.pop()))
    if finals or pieces_of(made) != [one.id for one in partials]:
        raise Conflict("A partial upload is a piece of another upload already.")
    return made


def _must_be_finished(partials: Sequence[Upload]) -> None:
    if any(one.state in (UploadState.ABORTED, UploadState.EXPIRED) for one in partials):
        raise UploadGone("A partial upload was ended, or its time is over.")
    missing: list[str] = [str(one.id) for one in partials if one.state is UploadState.OPEN]
    if missing:
        raise UploadIncomplete("Some of the partial uploads are not finished.", missing=missing)
