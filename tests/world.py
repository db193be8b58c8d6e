"""A whole Airlock in one process: a real ledger and real stores, scanners that do as the test says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from pipeline import flow
from pipeline.documents import Document, Event, Lane, NewDocument
from pipeline.services import Services
from pipeline.settings import QueueKind, Settings
from pipeline.states import State
from pipeline.storage.base import ObjectHeaders
from pipeline.storage.keys import key_of
from pipeline.storage.open import open_store
from scanners.base import Engine, Finding, Fitness, Sample, ScanResult, Verdict
from tests.servers.seaweedfs import S3Server

TENANT = "acme"
# The EICAR test string in two halves, so that a scanner leaves this file alone.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD" + rb"-ANTIVIRUS-TEST-FILE!$H+H*"


class FakeScanner:
    """Says what the test says; by default a file is infected if it holds EICAR, and clean if not."""

    def __init__(self, name: str, *, media_type: str | None = None) -> None:
        self.name = name
        self.media_type = media_type
        self.fit = True
        self.before: Callable[[Sample], None] = lambda _: None
        self.scanned: list[str] = []

    def scan(self, sample: Sample) -> ScanResult:
        self.before(sample)
        self.scanned.append(sample.sha256)
        engine = Engine("fake", "1", "7")
        with sample.open() as file:
            infected = EICAR in file.read()
        if infected and self.name == "clamav":
            return ScanResult(self.name, Verdict.INFECTED, "Eicar-Test", Finding.INFECTED, engine)
        return ScanResult(self.name, Verdict.CLEAN, engine=engine, media_type=self.media_type)

    def check(self) -> Fitness:
        return Fitness(self.name, self.fit, problems=() if self.fit else ("It is not fit.",))


class Rings:
    """A queue that only remembers; `drain` plays the worker."""

    def __init__(self) -> None:
        self.rung: list[tuple[UUID, Lane, float]] = []
        self.bulk: dict[UUID, bool] = {}  # how each was rung for last

    def ring(self, document_id: UUID, lane: Lane, *, delay: float = 0.0, bulk: bool = False) -> None:
        self.rung.append((document_id, lane, delay))
        self.bulk[document_id] = bulk

    def ping(self) -> None:
        """Always there."""


class World:
    """Services with fakes where engines would be, and short words for what tests do all the time."""

    def __init__(self, tmp: Path, **settings: Any) -> None:
        given: dict[str, Any] = {"var_dir": tmp, "queue": QueueKind.INLINE, "max_tries": 3, **settings}
        self.services = Services(Settings(**given))
        self.clamav = FakeScanner("clamav")
        self.mime = FakeScanner("mime", media_type="text/plain")
        self.structure = FakeScanner("structure")
        self.rings = Rings()
        self.place(scanners=(self.clamav, self.mime, self.structure), queue=self.rings, recognizer=None)
        self.services.ledger.upgrade()
        for store in (self.services.quarantine, self.services.serving):
            store.ensure_bucket()  # type: ignore[attr-defined]

    def place(self, **parts: object) -> None:
        """Put these parts where the services would have made their own."""
        self.services.__dict__.update(parts)

    def land(self, body: bytes = b"some,text\n", *, name: str | None = "a.csv", tenant: str = TENANT) -> UUID:
        """What an upload leaves behind: bytes in quarantine, a row, an event."""
        document_id = uuid4()
        sha256 = hashlib.sha256(body).hexdigest()
        key = key_of("standard", tenant, document_id)
        with self.services.quarantine.create(key, ObjectHeaders()) as writer:
            writer.write(body)
            stat = writer.commit(sha256)
        new = NewDocument(
            id=document_id,
            tenant=tenant,
            source=stat.ref,
            size=len(body),
            sha256=sha256,
            name=name,
            declared_type="text/csv",
            retention="standard",
            policy_digest=self.services.policy.digest,
            correlation_id=f"test-{document_id}",
        )
        with self.services.ledger.begin() as tx:
            tx.insert(new)
        return document_id

    def run(self, document_id: UUID) -> State | None:
        """What a worker does when the bell rings."""
        return flow.run(document_id, self.services)

    def document(self, document_id: UUID) -> Document:
        with self.services.ledger.reading() as tx:
            return tx.document(document_id)

    def history(self, document_id: UUID) -> list[Event]:
        with self.services.ledger.reading() as tx:
            return tx.history(document_id)

    def hurry(self, document_id: UUID) -> None:
        """Let the backoff or the lease of a document be over."""
        from sqlalchemy import update

        from pipeline.ledger.models import documents

        with self.services.ledger.begin() as tx:
            tx._connection.execute(
                update(documents)
                .where(documents.c.id == document_id)
                .values(available_at=0, nudged_at=0, lease_until=1, lease_owner="gone")
            )

    def served(self) -> dict[str, bytes]:
        """Everything in the serving bucket."""
        store = self.services.serving
        return {stat.ref.key: b"".join(store.get(stat.ref)) for stat in store.list()}

    def quarantined(self) -> list[str]:
        return [stat.ref.key for stat in self.services.quarantine.list()]


def bucket_urls(kind: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings that name two empty buckets of this kind: "local", or "s3" on a real server."""
    if kind == "local":
        return {}
    server: S3Server = request.getfixturevalue("s3_server")
    # The same two for every test: each new bucket costs this server the better part of a second, and volumes.
    urls = {f"{role}_url": server.url(f"world-{role}") for role in ("quarantine", "serving")}
    for url in urls.values():
        store = open_store(url)
        store.ensure_bucket()  # type: ignore[attr-defined]
        for left in list(store.list()):
            store.delete(left.ref)
    return urls


def worlds(tmp: Path, **settings: Any) -> Iterator[World]:
    """One world, closed behind the test."""
    world = World(tmp, **settings)
    yield world
    world.services.close()
