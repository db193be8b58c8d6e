"""The promises, as functions over the ledger and the buckets (docs/design: invariants). Each gives its violations.

Used by the tests, by the fault runs and by `airlock doctor --deep`. They read everything: not for a hot path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from pipeline.documents import Document, Filters
from pipeline.errors import ObjectNotFound
from pipeline.ledger.chain import verify_chain
from pipeline.scanning import required_of
from pipeline.services import Services
from pipeline.states import SETTLED, State, may_move
from pipeline.storage.keys import parse
from scanners.base import Verdict

Check = Callable[[Services], Iterator[str]]


def only_cleared_bytes_are_served(services: Services) -> Iterator[str]:
    """1, 3: whatever lies in serving has, by its own SHA-256, a clean verdict from every required scanner."""
    for stat in services.serving.list():
        place = parse(stat.ref.key)
        if place is None:
            yield f"serving holds something that is not ours: {stat.ref.key}"
            continue
        digest = hashlib.sha256()
        for chunk in services.serving.get(stat.ref):
            digest.update(chunk)
        with services.ledger.reading() as tx:
            records = tx.verdicts(place.document_id)
        about = [r for r in records if r.sha256 == digest.hexdigest()]
        clean = {r.result.scanner for r in about if r.result.verdict is Verdict.CLEAN}
        if any(r.result.verdict is not Verdict.CLEAN for r in about):
            yield f"served, but a scanner did not call it clean: {stat.ref.key}"
        if missing := required_of(place.part, services.policy) - clean:
            yield f"served without a clean verdict from {sorted(missing)}: {stat.ref.key}"


def available_means_there(services: Services) -> Iterator[str]:
    """3, 8: an AVAILABLE document's parts are in serving, byte for byte; of a rejected one nothing is."""
    for document in _documents(services):
        if document.state is State.AVAILABLE:
            named = [(document.served, document.sha256), *((part.served, part.sha256) for part in document.parts)]
            for ref, sha256 in named:
                if ref is None:
                    yield f"available, but nothing was promoted: {document.id}"
                    continue
                digest = hashlib.sha256()
                try:
                    for chunk in services.serving.get(ref):
                        digest.update(chunk)
                except ObjectNotFound:
                    yield f"available, but gone from serving: {document.id}"
                    continue
                if digest.hexdigest() != sha256:
                    yield f"served bytes are not the scanned bytes: {document.id}"
        elif document.state is State.REJECTED:
            prefix = f"{document.retention}/{document.tenant}/{document.id}/"
            if any(True for _ in services.serving.list(prefix)):
                yield f"rejected, but in serving: {document.id}"


def histories_are_whole(services: Services) -> Iterator[str]:
    """5, 6, 10, 16: one unbroken chain, along the graph, that ends where the row says; promoted at most once."""
    for document in _documents(services):
        with services.ledger.reading() as tx:
            events = tx.history(document.id)
        yield from (f"{document.id}: {problem}" for problem in verify_chain(events))
        for before, after in pairwise(events):
            if after.start is not before.to or not may_move(before.to, after.to):
                yield f"{document.id}: {before.to} -> {after.to} is no move"
        if events and events[-1].to is not document.state:
            yield f"{document.id}: the row says {document.state}, its last event {events[-1].to}"
        if sum(event.to is State.AVAILABLE for event in events) > 1:
            yield f"{document.id}: promoted more than once"


def everything_has_settled(services: Services) -> Iterator[str]:
    """4: nothing stands still in a working state (to be asked once faults have stopped and queues have drained)."""
    for document in _documents(services):
        if document.state not in SETTLED:
            yield f"{document.id} is still {document.state} (waiting for {document.waiting_for})"


def quarantine_holds_no_strangers(services: Services) -> Iterator[str]:
    """13: every quarantined object belongs to a document that still needs it."""
    for stat in services.quarantine.list():
        place = parse(stat.ref.key)
        if place is None:
            yield f"quarantine holds something that is not ours: {stat.ref.key}"
            continue
        with services.ledger.reading() as tx:
            state = tx.states({place.document_id}).get(place.document_id)
            waits = tx.upload_waits(place.document_id)
        if state is None and waits:
            continue  # of an upload that is not whole yet
        if state is None:
            yield f"quarantine holds an object without a document: {stat.ref.key}"
        elif state in (State.AVAILABLE, State.EXPIRED, State.DELETED, State.RECALLED):
            yield f"{state}, but still in quarantine: {stat.ref.key}"


ALWAYS: Mapping[str, Check] = {
    "only cleared bytes are served": only_cleared_bytes_are_served,
    "available means there": available_means_there,
    "histories are whole": histories_are_whole,
}
AT_REST: Mapping[str, Check] = {
    "everything has settled": everything_has_settled,
    "quarantine holds no strangers": quarantine_holds_no_strangers,
}


def violations(services: Services, *, at_rest: bool = False) -> list[str]:
    """Every violation of what must always hold, and, `at_rest`, of what must hold once all work is done."""
    checks = {**ALWAYS, **AT_REST} if at_rest else ALWAYS
    return [f"{name}: {problem}" for name, check in checks.items() for problem in check(services)]


def _documents(services: Services) -> Iterator[Document]:
    with services.ledger.reading() as tx:
        tenants = tx.tenants()
    for tenant in tenants:
        cursor: str | None = None
        while True:
            with services.ledger.reading() as tx:
                page, cursor = tx.documents(Filters(tenant=tenant), limit=500, cursor=cursor)
            yield from page
            if cursor is None:
                break
