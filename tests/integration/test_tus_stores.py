"""tus over each kind of store, by bare requests and by tuspy; and what it costs in memory."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from tusclient import exceptions
from tusclient.client import TusClient

from benchmarks.client import Connection, Target
from benchmarks.measure import MIB, peak, reset_peak
from pipeline import sweeper
from pipeline.documents import UploadState
from pipeline.storage.local import LocalStore
from tests.integration.api_server import POLICY, serving
from tests.integration.test_tus_interrupted import client_of, deployed
from tests.integration.tus import CHUNK, PATH, VERSION, Tus, assert_arrived, content_of, id_of
from tests.servers.gcs_double import GCSDouble
from tests.system import System, until
from tests.world import bucket_urls

__all__ = ["deployed"]

every_store = pytest.mark.parametrize("over", ["local", "s3", "gcs"], indirect=True)
two_stores = pytest.mark.parametrize("over", ["local", "s3"], indirect=True)  # the contract has all of them


def urls(kind: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings that name two buckets of this kind."""
    if kind != "gcs":
        return bucket_urls(kind, request)
    double: GCSDouble = request.getfixturevalue("gcs_server")
    return {f"{role}_url": double.url(f"tus-{role}") for role in ("quarantine", "serving")}


@pytest.fixture
def over(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tus]:
    """An API over each kind of store, with room for several parts of S3."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.read_text().replace('bytes = "256 MiB"', 'bytes = "64 MiB"', 1))
    with serving(tmp_path, **urls(request.param, request)) as api:
        yield Tus(api)


def pieces_of(tus: Tus) -> list[str]:
    """Objects that lie beside documents, after a sweep."""
    sweeper.sweep(tus.api.services)
    return [key for key in tus.api.objects() if "/piece-" in key]


@every_store
def test_requests_of_any_size_make_one_object(over: Tus) -> None:
    part = 5 << 20
    sizes = [1, 1000, part - 1, 1, part + 1, 3_000_000, 7]
    content = content_of(sum(sizes))
    url, at = over.begin(len(content)), 0
    for size in sizes:
        assert over.patch(url, at, content[at : at + size]).status_code == 204
        at += size
        assert over.offset(url) == at
    assert_arrived(url, content, over.api.services)
    assert pieces_of(over) == over.left() == []


@two_stores
def test_a_connection_that_breaks_keeps_what_is_no_whole_part(over: Tus) -> None:
    content = content_of(13_000_000)
    url, at = over.begin(None), 0
    for cut in (3, 6_000_000, 6_000_001, 12_345_678):
        with over.connect(url, at, len(content)) as sock:
            sock.sendall(content[at:cut])
        until(lambda cut=cut: over.offset(url) == cut and over.is_free(url), "it is kept", 60)  # type: ignore[misc]
        at = cut
    assert over.patch(url, at, content[at:], Upload_Length=str(len(content))).status_code == 204
    assert_arrived(url, content, over.api.services)
    assert pieces_of(over) == over.left() == []


@every_store
def test_what_was_given_up_half_way_is_removed_from_the_store(over: Tus) -> None:
    url = over.begin(12 << 20)
    for at in (0, 6_000_000):
        assert over.patch(url, at, content_of(6_000_000)).status_code == 204
    assert over.delete(url).status_code == 204
    assert pieces_of(over) == over.left() == []
    assert [key for key in over.api.objects() if str(id_of(url)) in key] == []
    # The store has nothing of it any more: there is nothing to go on with.
    assert over.patch(url, 12_000_000, b"x").status_code == 410


def test_an_unfinished_upload_that_the_store_has_lost_is_gone(tus: Tus) -> None:
    url = tus.begin(100)
    assert tus.patch(url, 0, b"x" * 10).status_code == 204
    store = tus.api.services.quarantine
    assert isinstance(store, LocalStore)
    token = tus.upload(url).progress.partition("~")[0]
    for file in (store.root / ".incoming").glob(f"{token}*"):
        file.unlink()
    assert tus.patch(url, 10, b"x").status_code == 410
    assert tus.upload(url).state is UploadState.ABORTED
    assert tus.head(url).status_code == 410


class Breaks(io.BytesIO):
    """A file whose reading fails once, at its first read behind a place."""

    def __init__(self, content: bytes, at: int) -> None:
        super().__init__(content)
        self.at: int | None = at

    def read(self, size: int | None = -1, /) -> bytes:
        if self.at is not None and self.tell() >= self.at:
            self.at = None
            raise requests.exceptions.ConnectionError
        return super().read(size)


@pytest.mark.parametrize(("over", "checksum"), [("local", False), ("s3", True)], indirect=["over"])
def test_tuspy_uploads_stops_and_goes_on(over: Tus, checksum: bool) -> None:
    content = content_of(11_111_111)
    client = TusClient(over.api.url + PATH, headers={"Authorization": f"Bearer {over.api.key}"})
    options = {"chunk_size": 2_500_000, "upload_checksum": checksum, "retries": 1, "retry_delay": 0}
    file = Breaks(content, 5_000_000)
    first = client.uploader(file_stream=file, metadata={"filename": "ü.txt", "filetype": "text/plain"}, **options)
    first.upload(stop_at=7_500_000)
    assert file.at is None  # it broke, and tuspy asked where it stood
    second = client.uploader(file_stream=io.BytesIO(content), url=first.url, **options)
    assert second.offset == 7_500_000
    second.upload()
    assert second.request.response_headers["airlock-document"] == str(id_of(first.url))
    assert_arrived(first.url, content, over.api.services)
    again = client.uploader(file_stream=io.BytesIO(content), url=first.url)
    assert again.offset == len(content)  # nothing is left to be done, and nothing is done twice
    again.upload()


def test_tuspy_is_told_why(tus: Tus) -> None:
    client = TusClient(tus.api.url + PATH, headers={"Authorization": f"Bearer {tus.api.key}"})
    with pytest.raises(exceptions.TusCommunicationError) as caught:
        client.uploader(file_stream=io.BytesIO(b"")).upload()
    assert caught.value.status_code == 400
    assert b"/problems/empty-file" in caught.value.response_content


def test_memory_is_flat_however_long_the_upload(deployed: System) -> None:
    tus = client_of(deployed)
    pid = deployed.processes["serve"].pid
    piece = hashlib.shake_128(b"piece").digest(MIB)

    def most(count: int) -> float:
        url = tus.begin(count * MIB)
        headers = {**VERSION, **CHUNK, "Upload-Offset": "0", "Authorization": f"Bearer {deployed.key}"}
        reset_peak(pid)
        connection = Connection(Target(deployed.port, url, headers, "PATCH"))
        connection.send_pieces(itertools.repeat(piece, count), count * MIB)
        connection.close()
        return peak(pid)

    most(16)  # what is loaded with the first is not growth
    small, large = most(16), most(240)
    tus.api.client.close()
    assert large - small < 16


@two_stores
def test_an_upload_that_rests_for_hours_is_nobodys_to_clear_away(over: Tus) -> None:
    content = content_of(7_000_000)
    url = over.begin(len(content))
    assert over.patch(url, 0, content[:6_000_000]).status_code == 204
    # To a sweeper for whom everything is old.
    over.api.services.settings = over.api.services.settings.model_copy(update={"orphan_after_seconds": 0.0})
    for _ in range(2):
        sweeper.reconcile(over.api.services)
        sweeper.sweep(over.api.services)
    assert over.patch(url, 6_000_000, content[6_000_000:]).status_code == 204
    assert_arrived(url, content, over.api.services)
