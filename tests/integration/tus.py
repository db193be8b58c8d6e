"""A bare tus client for tests: each request as it goes over the wire, and connections that break when the test says."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from pipeline import flow, sweeper
from pipeline.documents import Document, Upload
from pipeline.services import Services
from tests.integration.api_server import Api
from tests.system import until
from tests.world import FakeScanner

PATH = "/v1/uploads/tus"
VERSION = {"Tus-Resumable": "1.0.0"}
CHUNK = {"Content-Type": "application/offset+octet-stream"}


def content_of(size: int) -> bytes:
    """Bytes that are never the same twice in a row, so that nothing can be lost, doubled or moved unseen."""
    return hashlib.shake_128(b"%d" % size).digest(size)


class Tus:
    """One tenant's client of one API."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._before = set(api.leftovers())

    def left(self) -> list[Path]:
        """What lies in the buckets' folders after a sweep that is no object, and did not lie there before."""
        sweeper.sweep(self.api.services)
        return sorted(set(self.api.leftovers()) - self._before)

    def create(self, length: int | None, **headers: str) -> httpx.Response:
        """POST; names of headers with underscores."""
        size = {"Upload-Length": str(length)} if length is not None else {"Upload-Defer-Length": "1"}
        return self.api.client.post(PATH, headers={**VERSION, **size, **named(headers)})

    def begin(self, length: int | None, **headers: str) -> str:
        """A new upload's URL."""
        answer = self.create(length, **headers)
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]

    def patch(self, url: str, offset: int, content: Any, **headers: str) -> httpx.Response:
        """PATCH with the bytes, or with an iterator of them (chunked)."""
        mine = {**VERSION, **CHUNK, "Upload-Offset": str(offset), **named(headers)}
        return self.api.client.patch(url, content=content, headers=mine)

    def head(self, url: str) -> httpx.Response:
        """HEAD."""
        return self.api.client.head(url, headers=VERSION)

    def offset(self, url: str) -> int:
        """What the server acknowledges."""
        answer = self.head(url)
        assert answer.status_code == 200
        return int(answer.headers["upload-offset"])

    def delete(self, url: str) -> httpx.Response:
        """DELETE."""
        return self.api.client.delete(url, headers=VERSION)

    def connect(self, url: str, offset: int, length: int | None, **headers: str) -> socket.socket:
        """A PATCH that was begun: its head is sent, its body is the test's. `length` None: chunked."""
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        mine = {**VERSION, **CHUNK, "Upload-Offset": str(offset), **named(headers)}
        lines = [f"PATCH {url} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.api.key}", framing]
        lines += [f"{name}: {value}" for name, value in mine.items()]
        sock = self.api.connect()
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        return sock

    def upload(self, url: str) -> Upload:
        """The ledger's row."""
        return row_of(url, self.api.services)

    def is_free(self, url: str) -> bool:
        """Whether no request holds it."""
        return self.upload(url).lock_owner is None

    def wait_until_free(self, url: str) -> None:
        """The request that broke off has kept what it keeps."""
        until(lambda: self.is_free(url), "the upload is let go of", 30)


def named(headers: Mapping[str, str]) -> dict[str, str]:
    """Keyword arguments as headers."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


def id_of(url: str) -> UUID:
    """The upload's, and the document's."""
    return UUID(url.rstrip("/").rpartition("/")[2])


def row_of(url: str, services: Services) -> Upload:
    """The ledger's row."""
    with services.ledger.reading() as tx:
        return tx.upload(id_of(url))


def stored(document: Document, services: Services) -> bytes:
    """What lies at the document's source."""
    return b"".join(services.quarantine.get(document.source))


def arrived(url: str, services: Services) -> Document:
    """Play the worker until the document goes no further; the document."""
    services.__dict__.update(
        scanners=(FakeScanner("clamav"), FakeScanner("mime", media_type="text/plain"), FakeScanner("structure")),
        recognizer=None,
    )
    flow.run(id_of(url), services)
    with services.ledger.reading() as tx:
        return tx.document(id_of(url))


def assert_arrived(url: str, content: bytes, services: Services) -> None:
    """Exactly these bytes went all the way."""
    document = arrived(url, services)
    assert document.state == "available", (document.state, document.reason, document.detail)
    assert document.sha256 == hashlib.sha256(content).hexdigest()
    assert document.size == len(content)
    assert document.served is not None
    assert b"".join(services.serving.get(document.served)) == content
