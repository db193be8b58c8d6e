"""What an enemy does to the ways in: who may put files somewhere, hold a signed URL or an API key, and means harm."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pipeline.api_keys import make_key
from pipeline.appending import take
from pipeline.chunks import Announced, begin, expect
from pipeline.documents import Filters, Upload, UploadMethod, UploadState
from pipeline.errors import BadRequest
from pipeline.landing import Outcome, land_key
from pipeline.ledger.queries import Transaction
from pipeline.states import Reason, State
from pipeline.sweeper import reconcile, sweep
from pipeline.unfinished import clean_uploads, expire_uploads, take_drops
from pipeline.uploads import give_up
from scanners.base import Sample, ScanResult
from tests.integration.test_landing import opened, overdue
from tests.world import EICAR, TENANT, World, worlds

WHOLE = 1_700_000_000 * 10**9  # a time that an SFTP client can set: whole seconds


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, orphan_after_seconds=0.001, drop_after_seconds=0)
    make_key(made.services.ledger, TENANT)
    yield made
    made.services.close()


def dropped(world: World) -> Path:
    """Where a partner's files go, in a bucket that is a folder."""
    folder = world.services.quarantine.root / "drop" / TENANT  # type: ignore[attr-defined]
    folder.mkdir(parents=True)
    return Path(folder)


@pytest.mark.parametrize("name", ["report.txt", f"{uuid4()}/original"])
def test_a_partner_who_keeps_a_dropped_file_open_cannot_change_what_is_scanned(world: World, name: str) -> None:
    """The file is called read-only, as objects are, and its time is set back after each write: its version says that
    nothing has changed."""
    bad, good = EICAR, b"x" * len(EICAR)
    path = dropped(world) / name
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o400)

    def write(body: bytes) -> None:
        os.pwrite(descriptor, body, 0)
        os.utime(descriptor, ns=(WHOLE, WHOLE))

    write(bad)
    reconcile(world.services)
    with world.services.ledger.reading() as tx:
        [document] = tx.documents(Filters(TENANT), limit=2)[0]
    assert document.via == "drop"

    scan = world.clamav.scan

    def shown_another(sample: Sample) -> ScanResult:
        write(good)  # behind the hash, before the scan
        try:
            return scan(sample)
        finally:
            write(bad)

    world.clamav.scan = shown_another  # type: ignore[method-assign]
    state = world.run(document.id)
    os.close(descriptor)
    assert state is State.REJECTED
    assert bad not in world.served().values()


def test_a_resumed_upload_is_not_ended_by_a_sweep_that_began_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = opened(world, UploadMethod.TUS, size=None)
    overdue(world, upload)
    listed = Transaction.expired_uploads

    def meanwhile(self: Transaction, limit: int) -> list[Upload]:
        found = listed(self, limit)
        stretch = take(upload.id, TENANT, world.services, offset=0)
        stretch.write([b"acknowledged"])
        stretch.settle()
        return found

    monkeypatch.setattr(Transaction, "expired_uploads", meanwhile)
    assert expire_uploads(world.services) == 0
    with world.services.ledger.reading() as tx:
        now = tx.upload(upload.id)
    assert (now.state, now.offset) == (UploadState.OPEN, 12)


def test_a_chunk_of_a_number_that_no_column_holds_is_refused_on_postgresql(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("postgres_server")
    server.admin("CREATE DATABASE enemy_chunks")
    for world in worlds(tmp_path, database_url=server.url("enemy_chunks")):
        session = begin(Announced(), TENANT, world.services, correlation_id="t")
        for number in (1 << 31, 1 << 40, (1 << 63) - 1):
            with pytest.raises(BadRequest):
                expect(session.id, TENANT, number, world.services)


def test_a_form_that_is_sent_many_times_leaves_nothing_in_a_bucket_with_versions(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A form cannot be signed create-only: each time is another version, and only the first one is pinned."""
    server = request.getfixturevalue("s3_server")
    urls = {f"{role}_url": server.url(f"enemy-{role}") for role in ("quarantine", "serving")}
    for world in worlds(tmp_path, orphan_after_seconds=1e-9, **urls):
        make_key(world.services.ledger, TENANT)
        store: Any = world.services.quarantine
        store.client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})

        def send(upload: Upload, body: bytes, store: Any = store) -> None:
            store.client.put_object(Bucket=store.bucket, Key=upload.key, Body=body)

        given_up, late = (opened(world, UploadMethod.POST, size=None) for _ in range(2))
        for upload in (given_up, late):
            assert give_up(upload, world.services)
        for _ in range(3):
            send(given_up, b"again")
        assert clean_uploads(world.services) == 2
        for _ in range(3):
            send(late, b"again")
        reconcile(world.services)
        assert "Versions" not in store.client.list_object_versions(Bucket=store.bucket)

        found = [opened(world, UploadMethod.POST, size=None) for _ in range(2)]
        for upload, body in zip(found, (b"some,text\n", EICAR), strict=True):
            send(upload, body)
            assert land_key(upload.key, None, world.services, actor="event") is Outcome.TAKEN
            for _ in range(3):
                send(upload, b"again")
        assert [world.run(upload.id) for upload in found] == [State.AVAILABLE, State.REJECTED]
        assert reconcile(world.services)["unneeded"] == 6
        left = store.client.list_object_versions(Bucket=store.bucket)
        assert [(one["Key"], one["VersionId"]) for one in left["Versions"]] == [
            (found[1].key, world.document(found[1].id).source.version)
        ]
        assert list(world.served().values()) == [b"some,text\n"]


@pytest.mark.parametrize("name", ["../other/secret.txt", "x/../../other/secret.txt", "./../other/secret.txt"])
def test_a_key_that_leads_out_of_its_tenants_folder_is_nobodys(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers that keep objects as files would find the other tenant's under it."""
    store = world.services.quarantine
    with store.create("drop/other/secret.txt") as writer:
        writer.write(b"secret")
        stat = writer.commit()
    monkeypatch.setattr(type(store), "head", lambda *_, **__: stat)
    assert land_key(f"drop/{TENANT}/{name}", None, world.services, actor="event") is Outcome.FOREIGN


def test_a_dropped_file_from_a_machine_whose_clock_is_wrong_does_not_wait_for_years(tmp_path: Path) -> None:
    for world in worlds(tmp_path, drop_after_seconds=60):
        make_key(world.services.ledger, TENANT)
        folder = dropped(world)
        for name, seconds in (("years", 2_208_988_800.0), ("young", None), ("ahead", time.time() + 600)):
            path = folder / f"{name}.txt"
            path.write_bytes(b"some,text\n")
            if seconds is not None:
                os.utime(path, (seconds, seconds))
        assert take_drops(world.services) == 1
        with world.services.ledger.reading() as tx:
            assert [one.name for one in tx.documents(Filters(TENANT), limit=9)[0]] == ["years.txt"]


def test_a_dropped_file_beyond_the_limit_is_not_even_copied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs its sender nothing: a sparse file has whatever size it says."""
    path = dropped(world) / "sparse.bin"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    monkeypatch.setattr(type(world.services.quarantine), "compose", lambda *_, **__: pytest.fail("it was copied"))
    assert land_key(f"drop/{TENANT}/sparse.bin", None, world.services, actor="event") is Outcome.TAKEN
    with world.services.ledger.reading() as tx:
        [document] = tx.documents(Filters(TENANT), limit=2)[0]
    assert world.run(document.id) is State.REJECTED
    assert world.document(document.id).reason is Reason.TOO_LARGE
    sweep(world.services)
    assert world.quarantined() == []
