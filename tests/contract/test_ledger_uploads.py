"""Uploads in the ledger: one holder at a time, ended once, counted under a lock; on every database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from pipeline.api_keys import make_key
from pipeline.documents import NewDocument, Upload, UploadMethod, UploadPart, UploadState
from pipeline.errors import Conflict, NotFound, ObjectExists, QuotaExceeded
from pipeline.ledger.models import uploads
from pipeline.ledger.queries import Transaction
from pipeline.ledger.session import Ledger
from pipeline.policy import Quota, load_policy
from pipeline.quota import charge_documents, charge_upload
from pipeline.states import State
from pipeline.storage.base import ObjectRef
from tests.contract.ledger_fixtures import MINUTE, at_once, brought_to, ledger, new_document, row_of

__all__ = ["ledger"]


def new(
    tenant: str = "acme", method: UploadMethod = UploadMethod.TUS, size: int | None = 100, **more: object
) -> Upload:
    number = uuid4()
    values: dict[str, object] = {
        "id": number,
        "tenant": tenant,
        "method": method,
        "state": UploadState.OPEN,
        "key": f"standard/{tenant}/{number}/original",
        "name": "Bericht \N{SNOWMAN}.pdf",
        "declared_type": "application/pdf",
        "size": size,
        "declared_sha256": None,
        "offset": 0,
        "progress": "",
        "details": {"total": 3},
        "version": None,
        "batch_id": None,
        "correlation_id": "c",
        "created_at": datetime.now(UTC),
        "expires_at": datetime.now(UTC),
        **more,
    }
    return Upload(**values)  # type: ignore[arg-type]


def opened(ledger: Ledger, **more: object) -> Upload:
    with ledger.begin() as tx:
        return tx.open_upload(new(**more), expires_in=MINUTE)  # type: ignore[arg-type]


def asked(ledger: Ledger, upload_id: UUID) -> Upload:
    with ledger.reading() as tx:
        return tx.upload(upload_id)


def overdue(ledger: Ledger, upload: Upload, **columns: object) -> None:
    with ledger.begin() as tx:
        tx._connection.execute(
            update(uploads).where(uploads.c.id == upload.id).values(**(columns or {"expires_at": 1}))
        )


def test_what_was_opened_is_given_back_as_it_was(ledger: Ledger) -> None:
    upload = opened(ledger)
    assert asked(ledger, upload.id) == upload
    assert upload.expires_at - upload.created_at == MINUTE
    assert upload.details == {"total": 3}
    with pytest.raises(ObjectExists), ledger.begin() as tx:
        tx.open_upload(upload, expires_in=MINUTE)


def test_another_tenant_is_told_that_there_is_nothing(ledger: Ledger) -> None:
    upload = opened(ledger)
    with ledger.reading() as tx:
        with pytest.raises(NotFound):
            tx.upload(upload.id, tenant="other")
        assert tx.uploads([upload.id], tenant="other") == {}
        assert tx.uploads([upload.id], tenant="acme") == {upload.id: upload}


def test_of_many_that_want_the_lock_at_once_one_gets_it(ledger: Ledger) -> None:
    upload = opened(ledger)

    def take(owner: str) -> bool:
        with ledger.begin() as tx:
            return tx.lock_upload(upload.id, owner=owner, lease=MINUTE)

    assert at_once([lambda n=n: take(f"r{n}") for n in range(8)]).count(True) == 1  # type: ignore[misc]


def test_a_holder_whose_lock_ran_out_moves_nothing(ledger: Ledger) -> None:
    upload = opened(ledger)
    with ledger.begin() as tx:
        assert tx.lock_upload(upload.id, owner="slow", lease=timedelta(seconds=-1))
        assert tx.lock_upload(upload.id, owner="next", lease=MINUTE)
        assert not tx.lock_upload(upload.id, owner="slow", lease=MINUTE)
        assert not tx.advance_upload(upload.id, owner="slow", offset=9, progress="s", lease=MINUTE)
        assert tx.advance_upload(upload.id, owner="next", offset=5, progress="n", lease=MINUTE, size=7)
        assert not tx.end_upload(upload.id, UploadState.COMPLETED, owner="slow")
        tx.unlock_upload(upload.id, owner="slow")
        assert not tx.lock_upload(upload.id, owner="third", lease=MINUTE)
        tx.unlock_upload(upload.id, owner="next")
        assert tx.lock_upload(upload.id, owner="third", lease=MINUTE)
    found = asked(ledger, upload.id)
    assert (found.offset, found.progress, found.size) == (5, "n", 7)


def test_an_upload_ends_once_however_many_try(ledger: Ledger) -> None:
    upload = opened(ledger)

    def end(to: UploadState) -> bool:
        with ledger.begin() as tx:
            return tx.end_upload(upload.id, to)

    ways = [UploadState.COMPLETED, UploadState.ABORTED, UploadState.EXPIRED] * 2
    assert at_once([lambda to=to: end(to) for to in ways]).count(True) == 1  # type: ignore[misc]
    with ledger.begin() as tx:
        assert not tx.lock_upload(upload.id, owner="late", lease=MINUTE)


def test_pieces_come_in_any_order_and_may_come_again(ledger: Ledger) -> None:
    upload = opened(ledger, method=UploadMethod.CHUNKS, size=None)
    first, again = UploadPart(2, 5, "v1"), UploadPart(2, 6, "v2", "ab" * 32, "2x0a")
    with ledger.begin() as tx:
        assert tx.put_upload_part(upload.id, first) is None
    with ledger.begin() as tx:
        assert tx.put_upload_part(upload.id, UploadPart(0, 1, "v3"), expires_in=2 * MINUTE) is None
        assert tx.put_upload_part(upload.id, again) == first
    with ledger.reading() as tx:
        assert tx.upload_parts(upload.id) == [UploadPart(0, 1, "v3"), again]
        assert (tx.upload_part(upload.id, 2), tx.upload_part(upload.id, 1)) == (again, None)
        assert tx.upload(upload.id).offset == 7
        assert tx.open_uploads(upload.tenant) == (1, 7)  # nothing was announced: what has come is what counts
    with ledger.begin() as tx:
        tx.set_upload_parts(upload.id, [UploadPart(n, n, f"e{n}") for n in range(1, 1001)])
        tx.end_upload(upload.id, UploadState.COMPLETED)
    with ledger.begin() as tx, pytest.raises(Conflict):
        tx.put_upload_part(upload.id, first)
    with ledger.reading() as tx:
        assert len(tx.upload_parts(upload.id)) == 1000


def test_a_store_begins_an_upload_once(ledger: Ledger) -> None:
    upload = opened(ledger, method=UploadMethod.MULTIPART)

    def begin(number: int) -> bool:
        with ledger.begin() as tx:
            return tx.begin_in_store(upload.id, progress=f"token~{number}")

    won = at_once([lambda n=n: begin(n) for n in range(4)])  # type: ignore[misc]
    assert won.count(True) == 1
    assert asked(ledger, upload.id).progress == f"token~{won.index(True)}"
    over = opened(ledger, method=UploadMethod.SESSION)
    with ledger.begin() as tx:
        tx.end_upload(over.id, UploadState.ABORTED)
        assert not tx.begin_in_store(over.id, progress="t")


def test_open_uploads_of_a_kind_come_in_pages(ledger: Ledger) -> None:
    mine = [opened(ledger, method=UploadMethod.PUT) for _ in range(5)] + [opened(ledger, method=UploadMethod.POST)]
    opened(ledger, method=UploadMethod.TUS)
    with ledger.begin() as tx:
        tx.end_upload(mine[0].id, UploadState.ABORTED)
    kinds, found, last = {UploadMethod.PUT, UploadMethod.POST}, [], None
    with ledger.reading() as tx:
        while page := tx.open_uploads_by(kinds, after=last, limit=2):
            last = page[-1].id
            found += [upload.id for upload in page]
    assert len(found) == len(set(found))
    assert {upload.id for upload in mine[1:]} <= set(found)
    assert mine[0].id not in found


def test_the_same_piece_from_many_requests_at_once_is_noted_once(ledger: Ledger) -> None:
    upload = opened(ledger, method=UploadMethod.CHUNKS, size=None)

    def put(number: int) -> UploadPart | None:
        with ledger.begin() as tx:
            return tx.put_upload_part(upload.id, UploadPart(0, 1, f"v{number}"))

    replaced = at_once([lambda n=n: put(n) for n in range(6)])  # type: ignore[misc]
    with ledger.reading() as tx:
        [kept] = tx.upload_parts(upload.id)
    # Each but one was replaced exactly once: every piece that is not noted can be removed from the store.
    assert {part.version for part in replaced if part} | {kept.version} == {f"v{n}" for n in range(6)}
    assert sum(part is None for part in replaced) == 1


def test_what_is_over_is_found_and_what_is_being_sent_is_left_alone(ledger: Ledger) -> None:
    late, busy, young = opened(ledger), opened(ledger), opened(ledger)
    for upload in (late, busy):
        overdue(ledger, upload)
    with ledger.begin() as tx:
        tx.lock_upload(busy.id, owner="me", lease=MINUTE)
        assert [upload.id for upload in tx.expired_uploads(10)] == [late.id]
    assert asked(ledger, young.id).state is UploadState.OPEN


def test_what_somebody_went_on_with_since_it_was_found_to_be_over_goes_on(ledger: Ledger) -> None:
    late, resumed, held, kept = (opened(ledger) for _ in range(4))
    for upload in (late, resumed, held, kept):
        overdue(ledger, upload)
    with ledger.reading() as tx:
        found = tx.expired_uploads(10)
    with ledger.begin() as tx:
        for upload in (resumed, held):
            tx.lock_upload(upload.id, owner="me", lease=MINUTE)
        tx.advance_upload(resumed.id, owner="me", offset=7, progress="t~1", lease=MINUTE, expires_in=MINUTE)
        tx.unlock_upload(resumed.id, owner="me")
        tx.put_upload_part(kept.id, UploadPart(0, 1, "v"), expires_in=MINUTE)
    for upload in found:
        with ledger.begin() as tx:
            assert tx.expire_upload(upload.id) == (upload.id == late.id)
    assert asked(ledger, late.id).state is UploadState.EXPIRED
    assert {asked(ledger, one.id).state for one in (resumed, held, kept)} == {UploadState.OPEN}
    assert asked(ledger, resumed.id).offset == 7


def test_only_what_nobody_needs_is_cleaned(ledger: Ledger) -> None:
    waiting, done, given_up, piece = (
        opened(ledger, progress="t~1"),
        opened(ledger, progress="t~2"),
        opened(ledger, progress="t~3"),
        opened(ledger, method=UploadMethod.TUS_PARTIAL, progress="t~4"),
    )
    for upload in (waiting, done):
        with ledger.begin() as tx:
            assert tx.end_upload(upload.id, UploadState.COMPLETED)
            tx.insert(document(upload))
    with ledger.begin() as tx:
        tx.end_upload(given_up.id, UploadState.ABORTED)
        tx.end_upload(piece.id, UploadState.COMPLETED, version="v")
        tx.move(done.id, tenant=None, to=State.DELETED, actor="test")
    with ledger.reading() as tx:
        assert {upload.id for upload in tx.uploads_to_clean(10)} == {done.id, given_up.id}
        assert set(tx.unfinished().values()) == {"t~1", "t~2", "t~3", "t~4"}
    overdue(ledger, piece)
    with ledger.begin() as tx:
        assert {upload.id for upload in tx.uploads_to_clean(10)} == {done.id, given_up.id, piece.id}
        for upload in (done, given_up, piece):
            tx.upload_cleaned(upload.id)
        assert tx.uploads_to_clean(10) == []
        assert set(tx.unfinished().values()) == {"t~1"}
        assert tx.forget_uploads(older_than=timedelta(hours=1)) == 0
    overdue(ledger, done, cleaned_at=1)
    with ledger.begin() as tx:
        tx.put_upload_part(opened_in(tx), UploadPart(0, 1, "v"))
        assert tx.forget_uploads(older_than=timedelta(hours=1)) == 1


def opened_in(tx: object) -> UUID:
    return tx.open_upload(new(), expires_in=MINUTE).id  # type: ignore[attr-defined, no-any-return]


def document(upload: Upload) -> NewDocument:
    return NewDocument(
        id=upload.id,
        tenant=upload.tenant,
        source=ObjectRef("quarantine", upload.key, ""),
        size=10,
        sha256=None,
        name=upload.name,
        declared_type=None,
        retention="standard",
        policy_digest="0",
        correlation_id="c",
        via="tus",
        declared_sha256="ab" * 32,
        batch_id=uuid4(),
        state=State.RECEIVED,
    )


def test_a_document_in_parts_begins_as_received_and_keeps_what_was_declared(ledger: Ledger) -> None:
    upload = opened(ledger)
    new = document(upload)
    with ledger.begin() as tx:
        assert tx.insert(new).to is State.RECEIVED
    found = row_of(ledger, upload.id)
    assert (found.state, found.declared_sha256, found.batch_id) == (State.RECEIVED, "ab" * 32, new.batch_id)


@pytest.mark.asvs("5.2.4")
def test_a_quota_holds_however_many_ask_at_once(ledger: Ledger) -> None:
    make_key(ledger, "acme")
    brought_to(ledger, State.AVAILABLE)
    policy = load_policy().model_copy(update={"quota": Quota(documents=4, bytes=1024 + 300)})

    def upload() -> bool:
        try:
            with ledger.begin() as tx:
                mine = new(size=100)
                charge_upload(tx, mine, policy)
                tx.open_upload(mine, expires_in=MINUTE)
        except QuotaExceeded:
            return False
        return True

    assert at_once([upload] * 8).count(True) == 3
    with ledger.begin() as tx, pytest.raises(QuotaExceeded):
        charge_documents(tx, [new_document()], policy)
    with ledger.begin() as tx:
        charge_documents(tx, [new_document("other")], policy.model_copy(update={"quota": Quota(documents=1)}))


def finished_piece(ledger: Ledger, *, expires_in: timedelta = timedelta(hours=1)) -> Upload:
    piece = opened(ledger, method=UploadMethod.TUS_PARTIAL)
    with ledger.begin() as tx:
        assert tx.end_upload(piece.id, UploadState.COMPLETED, version="v1", expires_in=expires_in)
    return asked(ledger, piece.id)


def test_a_finished_piece_is_joined_or_discarded_once(ledger: Ledger) -> None:
    joined, discarded = finished_piece(ledger), finished_piece(ledger)

    def join() -> bool:
        return _tried(ledger, lambda tx: tx.join_piece(joined.id, details={"final": "x"}))

    results = at_once([join] * 8)
    assert sorted(results) == [False] * 7 + [True]
    assert (asked(ledger, joined.id).state, asked(ledger, joined.id).details) == (UploadState.JOINED, {"final": "x"})
    assert _tried(ledger, lambda tx: tx.discard_piece(discarded.id))
    assert asked(ledger, discarded.id).state is UploadState.ABORTED
    for piece in (joined, discarded):
        assert not _tried(ledger, lambda tx, piece=piece: tx.join_piece(piece.id, details={}))  # type: ignore[misc]
        assert not _tried(ledger, lambda tx, piece=piece: tx.discard_piece(piece.id))  # type: ignore[misc]
    with ledger.reading() as tx:
        assert [one.id for one in tx.uploads_to_clean(10)] == [discarded.id]


def test_only_a_finished_piece_that_will_stay_can_be_joined(ledger: Ledger) -> None:
    whole = opened(ledger)
    with ledger.begin() as tx:
        tx.end_upload(whole.id, UploadState.COMPLETED)
    for upload in (whole, opened(ledger, method=UploadMethod.TUS_PARTIAL), finished_piece(ledger, expires_in=MINUTE)):
        assert not _tried(ledger, lambda tx, upload=upload: tx.join_piece(upload.id, details={}))  # type: ignore[misc]


def test_finished_pieces_count_as_open_until_they_are_joined(ledger: Ledger) -> None:
    pieces = [finished_piece(ledger) for _ in range(3)]
    with ledger.begin() as tx:
        assert tx.open_uploads("acme") == (3, 300)
        tx.join_piece(pieces[0].id, details={})
        tx.discard_piece(pieces[1].id)
        assert tx.open_uploads("acme") == (1, 100)
        tx.upload_cleaned(pieces[2].id)
        assert tx.open_uploads("acme") == (0, 0)


def _tried(ledger: Ledger, ask: Callable[[Transaction], bool]) -> bool:
    with ledger.begin() as tx:
        return ask(tx)
