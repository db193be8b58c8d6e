"""Objects that others put into the bucket: drop folders, late signed uploads, and what is left of unfinished ones."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from pipeline.api_keys import make_key
from pipeline.documents import Filters, Upload, UploadMethod, UploadPart, UploadState
from pipeline.errors import NotFound
from pipeline.invariants import violations
from pipeline.landing import Hints, Outcome, land_drop, land_key
from pipeline.ledger.models import uploads
from pipeline.policy import Quota
from pipeline.states import Reason, State
from pipeline.storage.abilities import Progress, Resumable
from pipeline.storage.base import ObjectStat
from pipeline.sweeper import reconcile, sweep
from pipeline.uploads import give_up, landed, new_upload, piece_key, receive, record
from tests.world import EICAR, TENANT, World, bucket_urls


@pytest.fixture(params=["local", "s3"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, orphan_after_seconds=0.001, drop_after_seconds=0, **bucket_urls(request.param, request))
    make_key(made.services.ledger, TENANT)
    yield made
    made.services.close()


def put(world: World, key: str, body: bytes = b"some,text\n") -> ObjectStat:
    with world.services.quarantine.create(key) as writer:
        writer.write(body)
        return writer.commit()


def documents(world: World, tenant: str = TENANT) -> list[UUID]:
    with world.services.ledger.reading() as tx:
        return [one.id for one in tx.documents(Filters(tenant), limit=200)[0]]


def opened(world: World, method: UploadMethod, size: int | None = 10, **more: object) -> Upload:
    made = new_upload(
        world.services,
        TENANT,
        method,
        name="a.csv",
        declared_type="text/csv",
        size=size,
        correlation_id="test",
        **more,  # type: ignore[arg-type]
    )
    return record(made, world.services)


def overdue(world: World, upload: Upload) -> None:
    with world.services.ledger.begin() as tx:
        tx._connection.execute(update(uploads).where(uploads.c.id == upload.id).values(expires_at=1))


def test_a_dropped_object_becomes_a_document_under_a_key_of_ours_and_leaves_the_folder(world: World) -> None:
    stat = put(world, f"drop/{TENANT}/in/report.csv")
    assert land_key(stat.ref.key, stat.ref.version, world.services, actor="event") is Outcome.TAKEN
    [document_id] = documents(world)
    assert world.document(document_id).state is State.RECEIVED
    assert world.run(document_id) is State.AVAILABLE
    document = world.document(document_id)
    assert document.name is not None
    assert document.name.startswith("report")
    assert document.via == "drop"
    assert document.source.key == f"standard/{TENANT}/{document_id}/original"
    assert list(world.served().values()) == [b"some,text\n"]
    sweep(world.services)
    assert world.quarantined() == []
    assert violations(world.services, at_rest=True) == []


def test_events_that_come_twice_at_once_and_a_sweep_make_one_document(world: World) -> None:
    stat = put(world, f"drop/{TENANT}/a.csv")

    def again(_: int) -> Outcome:
        return land_key(stat.ref.key, stat.ref.version, world.services, actor="event")

    with ThreadPoolExecutor(5) as pool:
        outcomes = list(pool.map(again, range(5)))
    assert outcomes.count(Outcome.TAKEN) == 1
    assert set(outcomes) == {Outcome.TAKEN, Outcome.KNOWN}
    reconcile(world.services)
    assert len(documents(world)) == 1


def test_without_any_event_the_sweeper_takes_what_was_dropped(world: World) -> None:
    put(world, f"drop/{TENANT}/deep/er/a.csv")
    assert reconcile(world.services)["dropped_in"] == 1
    assert reconcile(world.services)["dropped_in"] == 0
    assert world.run(documents(world)[0]) is State.AVAILABLE


def test_the_next_file_under_the_same_name_is_another_document(world: World) -> None:
    first = put(world, f"drop/{TENANT}/daily.csv", b"monday\n")
    assert land_key(first.ref.key, None, world.services, actor="event") is Outcome.TAKEN
    world.run(documents(world)[0])
    sweep(world.services)
    put(world, f"drop/{TENANT}/daily.csv", b"tuesday\n")
    assert land_key(first.ref.key, None, world.services, actor="event") is Outcome.TAKEN
    for one in documents(world):
        world.run(one)
    assert sorted(world.served().values()) == [b"monday\n", b"tuesday\n"]


def test_what_lands_in_the_moment_in_which_its_sender_gives_up_is_no_document(world: World) -> None:
    upload = opened(world, UploadMethod.PUT)
    stat = put(world, upload.key)
    assert give_up(upload, world.services)
    assert landed(upload, stat, world.services) is None  # whoever looked before still thought that it was open
    assert documents(world) == []
    sweep(world.services)
    assert world.quarantined() == []


def test_a_late_event_about_a_drop_that_was_taken_away_does_nothing(world: World) -> None:
    stat = put(world, f"drop/{TENANT}/a.csv")
    land_key(stat.ref.key, stat.ref.version, world.services, actor="event")
    world.run(documents(world)[0])
    sweep(world.services)
    assert land_key(stat.ref.key, stat.ref.version, world.services, actor="event") is Outcome.GONE
    assert len(documents(world)) == 1


@pytest.mark.parametrize(
    "key", ["drop/", "drop/acme", "drop/acme/", "drop/../x/a.csv", "drop/UPPER/a.csv", "else/where"]
)
def test_keys_that_are_no_drop_are_nobodys(world: World, key: str) -> None:
    assert land_key(key, None, world.services, actor="event") is Outcome.FOREIGN
    assert documents(world) == []


def test_the_drop_folder_of_nobody_is_an_error_that_is_told(world: World) -> None:
    stat = put(world, "drop/unknown/a.csv")
    with pytest.raises(NotFound):
        land_drop(stat.ref.key, None, world.services, actor="event")
    reconcile(world.services)
    assert stat.ref.key in world.quarantined()  # kept: the key may be made later
    make_key(world.services.ledger, "unknown")
    reconcile(world.services)
    assert len(documents(world, "unknown")) == 1


@pytest.mark.asvs("5.2.4")
def test_drops_are_held_to_the_quota_and_wait_for_room(world: World) -> None:
    policy = world.services.policy.model_copy(update={"quota": Quota(documents=2)})
    world.place(policy=policy)
    for number in range(3):
        put(world, f"drop/{TENANT}/{number}.csv", b"row %d\n" % number)
    assert reconcile(world.services)["dropped_in"] == 2
    assert reconcile(world.services)["dropped_in"] == 0
    with world.services.ledger.begin() as tx:
        tx.move(documents(world)[0], tenant=None, to=State.DELETED, actor="test")
    assert reconcile(world.services)["dropped_in"] == 1


def test_a_virus_in_a_drop_folder_is_rejected_and_never_served(world: World) -> None:
    put(world, f"drop/{TENANT}/a.com", EICAR)
    reconcile(world.services)
    [document_id] = documents(world)
    assert world.run(document_id) is State.REJECTED
    assert world.document(document_id).reason is Reason.INFECTED
    assert world.served() == {}


def test_a_drop_that_is_replaced_before_it_is_taken_over_is_refused_and_the_new_one_comes(world: World) -> None:
    if world.services.settings.quarantine_url is not None:
        pytest.skip("needs a hand that replaces files")
    stat = put(world, f"drop/{TENANT}/a.csv")
    land_key(stat.ref.key, None, world.services, actor="event")
    place = Path(world.services.settings.quarantine.removeprefix("file://")) / stat.ref.key
    place.unlink()
    place.write_bytes(EICAR)
    [document_id] = documents(world)
    assert world.run(document_id) is State.REJECTED
    assert world.document(document_id).reason is Reason.SOURCE_CHANGED
    reconcile(world.services)
    assert len(documents(world)) == 2


def test_pieces_are_put_together_once_and_swept(world: World) -> None:
    upload = opened(world, UploadMethod.CHUNKS, None)
    bodies = [b"a" * 7, b"b" * 11, b"c"]
    for number, body in enumerate(bodies):
        stat = put(world, piece_key(upload.key, number), body)
        with world.services.ledger.begin() as tx:
            assert tx.put_upload_part(upload.id, UploadPart(number, len(body), stat.ref.version)) is None
    assert receive(upload, world.services, size=19) is not None
    assert receive(upload, world.services, size=19) is None
    document = world.document(upload.id)
    assert (document.state, document.size, document.sha256) == (State.RECEIVED, 19, None)
    assert world.run(upload.id) is State.AVAILABLE
    assert list(world.served().values()) == [b"".join(bodies)]
    assert [event.to for event in world.history(upload.id)][:2] == [State.RECEIVED, State.QUARANTINED]
    sweep(world.services)
    assert world.quarantined() == []
    assert violations(world.services, at_rest=True) == []


def test_a_piece_that_is_gone_is_never_passed_over(world: World) -> None:
    upload = opened(world, UploadMethod.CHUNKS, None)
    stats = [put(world, piece_key(upload.key, number), b"body") for number in range(2)]
    for number, stat in enumerate(stats):
        with world.services.ledger.begin() as tx:
            tx.put_upload_part(upload.id, UploadPart(number, 4, stat.ref.version))
    receive(upload, world.services, size=8)
    world.services.quarantine.delete(stats[1].ref)
    assert world.run(upload.id) is State.REJECTED
    assert world.document(upload.id).reason is Reason.SOURCE_CHANGED


def test_a_digest_that_the_sender_named_is_compared(world: World) -> None:
    stat = put(world, f"drop/{TENANT}/a.csv")
    land_drop(stat.ref.key, None, world.services, actor="batch", hints=Hints(declared_sha256="0" * 64))
    [document_id] = documents(world)
    assert world.run(document_id) is State.REJECTED
    assert world.document(document_id).reason is Reason.DIGEST_MISMATCH


def test_a_signed_upload_that_nobody_told_of_is_landed_by_the_sweeper(world: World) -> None:
    upload = opened(world, UploadMethod.PUT)
    put(world, upload.key, b"some,text\n")
    assert reconcile(world.services)["adopted"] == 1
    document = world.document(upload.id)
    assert (document.state, document.name, document.via) == (State.QUARANTINED, "a.csv", "put")
    assert world.run(upload.id) is State.AVAILABLE


def test_a_signed_upload_of_another_size_than_announced_is_rejected_and_says_so(world: World) -> None:
    upload = opened(world, UploadMethod.POST, 11)
    put(world, upload.key, b"some,text\n")
    assert land_key(upload.key, None, world.services, actor="event") is Outcome.TAKEN
    document = world.document(upload.id)
    assert (document.state, document.reason) == (State.REJECTED, Reason.DIGEST_MISMATCH)
    assert "11 bytes were announced, and 10 arrived" in str(document.detail)


def test_what_comes_after_its_sender_gave_up_goes(world: World) -> None:
    upload = opened(world, UploadMethod.PUT)
    assert give_up(upload, world.services)
    put(world, upload.key)
    assert land_key(upload.key, None, world.services, actor="event") is Outcome.KNOWN
    reconcile(world.services)
    assert world.quarantined() == []
    assert documents(world) == []


def test_an_upload_whose_time_is_over_is_ended_and_nothing_of_it_stays(world: World) -> None:
    store = world.services.quarantine
    chunks = opened(world, UploadMethod.CHUNKS, None)
    stat = put(world, piece_key(chunks.key, 0))
    with world.services.ledger.begin() as tx:
        tx.put_upload_part(chunks.id, UploadPart(0, stat.size, stat.ref.version))
    late = opened(world, UploadMethod.PUT)
    put(world, late.key)
    for upload in (chunks, late):
        overdue(world, upload)
    assert sweep(world.services)["given_up"] == 1
    with world.services.ledger.reading() as tx:
        assert tx.upload(chunks.id).state is UploadState.EXPIRED
        assert tx.upload(late.id).state is UploadState.COMPLETED  # its bytes were there: they are not thrown away
    assert documents(world) == [late.id]
    assert [one.ref.key for one in store.list()] == [late.key]


def test_an_open_resumable_upload_outlives_the_sweep_and_an_ended_one_does_not(world: World) -> None:
    store = world.services.quarantine
    if not isinstance(store, Resumable):
        pytest.skip("this store cannot yet")
    begun = {}
    for name in ("open", "ended"):
        number = uuid4()
        upload = new_upload(
            world.services, TENANT, UploadMethod.TUS, name="a.csv", declared_type=None, size=10,
            correlation_id="test", upload_id=number,
        )  # fmt: skip
        progress = store.begin(upload.key, size=10)
        with store.resume(upload.key, progress) as writer:
            writer.write(b"12345")
            progress = writer.checkpoint()
        with world.services.ledger.begin() as tx:
            tx.open_upload(upload, expires_in=timedelta(hours=1))
            assert tx.lock_upload(number, owner="me", lease=timedelta(minutes=1))
            assert tx.advance_upload(
                number, owner="me", offset=progress.offset, progress=progress.state, lease=timedelta(minutes=1)
            )
        begun[name] = upload
    assert give_up(begun["ended"], world.services)
    sweep(world.services)
    reconcile(world.services)
    with world.services.ledger.reading() as tx:
        upload = tx.upload(begun["open"].id)
        assert upload.offset == 5
    with store.resume(upload.key, Progress(upload.offset, upload.progress)) as writer:
        writer.write(b"67890")
        progress = writer.checkpoint()
    event = receive(upload, world.services, size=10, owner="me", progress=progress.state)
    assert event is not None
    assert world.run(upload.id) is State.AVAILABLE
    assert list(world.served().values()) == [b"1234567890"]
