"""The stores that the contract is held to, each with a way to do what only a foreign hand would do."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pipeline.errors import Forbidden, ObjectExists
from pipeline.storage.base import ObjectHeaders, ObjectStore
from pipeline.storage.gcs import GCSStore, open_gcs
from pipeline.storage.gcs_writer import PART as GCS_PART
from pipeline.storage.local import LocalStore
from pipeline.storage.local_signing import LocalSigner
from pipeline.storage.memory import MemoryStore
from pipeline.storage.s3 import S3Store, open_s3
from pipeline.storage.s3_writer import PART
from tests.servers.gcs_double import GCSDouble
from tests.servers.seaweedfs import S3Server

SECRET = b"only for tests: sixteen and more"


@dataclass(frozen=True)
class Backend:
    """Two buckets of one kind, and what may be expected of them."""

    name: str
    store: ObjectStore
    other: ObjectStore  # a second bucket, which `store` can copy from
    missing: ObjectStore  # a bucket that is not there
    overwrite: Callable[[str, bytes], None]  # replace an object of `other`, as whoever has the bucket's keys could
    leftovers: Callable[[], int]  # unfinished uploads, their pieces and temporary files, in both buckets
    again: Callable[[], Any]  # `store` as another process would open it
    keeps_versions: bool = False  # replaced bytes can still be read by their version
    checks_sha256: bool = False  # a small object's SHA-256 is checked by the store at commit
    parts: int = 1 << 20  # a body longer than this takes more than one request
    sorts_by_key: bool = True  # SeaweedFS lists by path: "a/b" before "a-b"

    @property
    def able(self) -> Any:
        """`store`, with whatever it can do beyond the port."""
        return self.store


@contextlib.contextmanager
def local(folder: Path) -> Iterator[Backend]:
    """Folders, with a signer whose URLs a small server of the tests answers."""
    with signed_door() as (signer, doors):
        other = LocalStore(folder / "other", signer=signer)
        store = LocalStore(folder / "store", signer=signer, sources=[other])
        for each in (store, other):
            each.ensure_bucket()
            doors[each.bucket] = each

        def overwrite(key: str, body: bytes) -> None:
            foreign = folder / "foreign"
            foreign.write_bytes(body)
            foreign.rename(other.root / key)

        def leftovers() -> int:
            return sum(len(list((each.root / ".incoming").iterdir())) for each in (store, other))

        def again() -> LocalStore:
            return LocalStore(folder / "store", signer=signer, sources=[other])

        yield Backend("local", store, other, LocalStore(folder / "missing"), overwrite, leftovers, again)


@contextlib.contextmanager
def memory(_folder: Path) -> Iterator[Backend]:
    """This process's memory."""
    with signed_door() as (signer, doors):
        other = MemoryStore("other", signer=signer)
        store = MemoryStore("store", signer=signer, sources=[other])
        doors.update(store=store, other=other)

        def overwrite(key: str, body: bytes) -> None:
            other.put(key, body, ObjectHeaders(), sha256=None, overwrite=True)

        def leftovers() -> int:
            return store.unfinished() + other.unfinished()

        yield Backend("memory", store, other, store, overwrite, leftovers, lambda: store, checks_sha256=True)


def _s3(server: S3Server, *, versioned: bool) -> Backend:
    """Two buckets of a real server. Copies go by parts above 6 MiB, so that small tests reach them."""
    client = open_s3("none", endpoint=server.endpoint, region="us-east-1", path_style=True).client
    kind = "versioned" if versioned else "plain"
    stores = [S3Store(client, f"{kind}-{n}", single_copy=12 << 20, copy_part=5 << 20) for n in ("store", "other")]
    for each in stores:
        each.ensure_bucket()
        each.ensure_bucket()
        if versioned:
            client.put_bucket_versioning(Bucket=each.bucket, VersioningConfiguration={"Status": "Enabled"})
    store, other = stores

    def overwrite(key: str, body: bytes) -> None:
        client.put_object(Bucket=other.bucket, Key=key, Body=body)

    def leftovers() -> int:
        uploads = sum(len(client.list_multipart_uploads(Bucket=each.bucket).get("Uploads", ())) for each in stores)
        return uploads + _pieces(stores)

    def again() -> S3Store:
        return S3Store(client, store.bucket, single_copy=12 << 20, copy_part=5 << 20)

    return Backend(
        f"s3 {kind}",
        store,
        other,
        S3Store(client, f"{kind}-missing"),
        overwrite,
        leftovers,
        again,
        keeps_versions=versioned,
        checks_sha256=True,
        parts=PART,
        sorts_by_key=False,
    )


def _pieces(stores: Sequence[ObjectStore]) -> int:
    """Objects that only an unfinished upload needs."""
    return sum("/piece-" in each.ref.key for store in stores for each in store.list())


@contextlib.contextmanager
def s3_versioned(server: S3Server) -> Iterator[Backend]:
    """A bucket that keeps versions: pinned by version id."""
    yield _s3(server, versioned=True)


@contextlib.contextmanager
def s3_plain(server: S3Server) -> Iterator[Backend]:
    """A bucket that keeps none: pinned by ETag."""
    yield _s3(server, versioned=False)


@contextlib.contextmanager
def gcs(double: GCSDouble) -> Iterator[Backend]:
    """The real SDK, against a double that keeps generations."""
    store, other, missing = (open_gcs(name, endpoint=double.endpoint) for name in ("store", "other", "missing"))
    for each in (store, other):
        each.ensure_bucket()
        each.ensure_bucket()

    def overwrite(key: str, body: bytes) -> None:
        double.buckets.put(other.bucket, key, body, {}, None)

    def leftovers() -> int:
        return len(double.sessions) + _pieces([store, other])

    def again() -> GCSStore:
        return GCSStore(store.client, store.bucket, endpoint=double.endpoint)  # a client takes seconds to sign in

    yield Backend("gcs", store, other, missing, overwrite, leftovers, again, parts=GCS_PART)
    for each in (store, other, missing):
        each.client.close()


@contextlib.contextmanager
def signed_door() -> Iterator[tuple[LocalSigner, dict[str, ObjectStore]]]:
    """A server for signed URLs of stores that have none: what the API does, at its smallest."""
    doors: dict[str, ObjectStore] = {}

    class Door(BaseHTTPRequestHandler):
        def _grant(self) -> Any:
            url = urlsplit(self.path)
            bucket, _, key = url.path.removeprefix("/v1/objects/").partition("/")
            length = self.headers.get("Content-Length")
            return signer.verify(
                self.command,
                unquote(bucket),
                unquote(key),
                dict(parse_qsl(url.query)),
                datetime.now(UTC),
                content_type=self.headers.get("Content-Type", ""),
                content_length=int(length) if length else None,
            )

        def do_GET(self) -> None:
            try:
                grant = self._grant()
            except Forbidden:
                return self._end(403)
            store = doors[grant.bucket]
            stat = store.head(grant.key, grant.version)
            start, end, status = 0, stat.size, 200
            if wanted := self.headers.get("Range"):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, end, status = int(first), min(int(last) + 1, stat.size), 206
            self.send_response(status)
            self.send_header("Content-Type", stat.headers.content_type)
            if stat.headers.content_disposition:
                self.send_header("Content-Disposition", stat.headers.content_disposition)
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            for piece in store.get(grant.ref, start, end):
                self.wfile.write(piece)
            return None

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            try:
                grant = self._grant()
                with doors[grant.bucket].create(grant.key, ObjectHeaders(grant.content_type)) as writer:
                    writer.write(body)
                    writer.commit()
            except Forbidden:
                return self._end(403)
            except ObjectExists:
                return self._end(412)
            return self._end(200)

        def _end(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        signer = LocalSigner(SECRET, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield signer, doors
        finally:
            server.shutdown()
            thread.join()


def random_bytes(size: int) -> bytes:
    """Bytes that no store can compress."""
    return os.urandom(size)


SHORT = timedelta(minutes=5)
