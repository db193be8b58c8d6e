"""The nouns: frozen values that the ledger gives and takes. All datetimes are aware and UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from pipeline.states import Reason, State
from pipeline.storage.base import ObjectRef
from pipeline.turns import Turn
from scanners.base import ScanResult

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


class Lane(StrEnum):
    """A queue that can have workers of its own."""

    INSPECT = "inspect"
    OCR = "ocr"


@dataclass(frozen=True, slots=True)
class NewDocument:
    """What an upload leaves behind: the bytes are already in quarantine, pinned."""

    id: UUID
    tenant: str
    source: ObjectRef
    size: int
    sha256: str | None  # None: an object that nobody hashed on its way in (inspect does)
    name: str | None  # the sender's file name: shown, compared, never part of a key, a URL or a log line
    declared_type: str | None
    retention: str
    policy_digest: str
    correlation_id: str
    via: str = "direct"  # the way in: direct, tus, chunks, put, drop, adopted, ...
    declared_sha256: str | None = None  # what the sender says the bytes hash to, where nobody has compared yet
    batch_id: UUID | None = None
    state: State = State.QUARANTINED  # RECEIVED: the bytes are there in parts, and `source` names no version yet


@dataclass(frozen=True, slots=True)
class Part:
    """Something derived from a document (its text, its searchable PDF), held to the same promise as the original."""

    name: str  # a member of keys.PARTS
    source: ObjectRef  # in quarantine until promoted
    size: int
    sha256: str
    media_type: str
    served: ObjectRef | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """The row."""

    id: UUID
    tenant: str
    state: State
    reason: Reason | None
    detail: str | None  # one sentence about the reason, safe to show to the tenant
    name: str | None
    declared_type: str | None
    detected_type: str | None
    size: int
    sha256: str | None
    source: ObjectRef
    served: ObjectRef | None
    retention: str
    policy_digest: str
    correlation_id: str
    via: str
    attempt: int  # claims over the whole life; with `state` the fencing token
    tries: int  # counted attempts in this state
    lease_owner: str | None
    lease_until: datetime | None
    available_at: datetime  # not to be claimed before
    waiting_for: str | None  # the code of the last error that made it wait, e.g. "engine-unavailable"
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    erase_at: datetime | None  # when its objects are to be removed (quarantine; serving too once it is not AVAILABLE)
    text_length: int | None
    pages: int | None
    parts: tuple[Part, ...] = ()
    declared_sha256: str | None = None
    batch_id: UUID | None = None
    turn: Turn | None = None  # None: it is not on its way


@dataclass(frozen=True, slots=True)
class VerdictRecord:
    """One scanner's answer about one part, as it is kept."""

    part: str  # "original", "text", "pdf"
    sha256: str  # of exactly the bytes that were judged
    result: ScanResult
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One state change: audit trail, outbox and history in one. `hash` covers the event and `previous`."""

    id: int  # rises within a database; not gapless
    document_id: UUID
    tenant: str
    seq: int  # 0, 1, 2... within the document, gapless
    at: datetime
    start: State | None  # None: the document came to be
    to: State
    reason: Reason | None
    attempt: int
    actor: str  # "upload", "worker", "api", "sweeper", ...
    facts: Mapping[str, Json]
    previous: str  # hash of the event before, "" for the first
    hash: str
    # Known to whoever wrote the event, and no part of it: whether its document is to be rung for, and where.
    turn: Turn | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed document: the lease (owner, attempt, deadline) that everything later is fenced by."""

    document: Document
    owner: str
    attempt: int
    state: State


@dataclass(frozen=True, slots=True)
class Advance:
    """What a step decided: the next state and what was learnt. The ledger writes it, all or nothing."""

    to: State
    reason: Reason | None = None
    detail: str | None = None
    detected_type: str | None = None
    sha256: str | None = None  # set by inspect where the upload did not hash
    source: ObjectRef | None = None  # set by assemble: what the parts became
    size: int | None = None
    verdicts: tuple[VerdictRecord, ...] = ()
    parts: tuple[Part, ...] = ()  # added, or replaced by name
    served: ObjectRef | None = None
    receipt: str | None = None
    expires_in: timedelta | None = None
    erase_in: timedelta | None = None  # when the objects that are no longer needed go
    text_length: int | None = None
    pages: int | None = None
    facts: Mapping[str, Json] = field(default_factory=dict)  # kept in the event: durations, engines; no client text


@dataclass(frozen=True, slots=True)
class Stranded:
    """A document that could be worked on and is not: enough to choose the queue for a message."""

    id: UUID
    state: State
    detected_type: str | None
    turn: Turn | None = None


@dataclass(frozen=True, slots=True)
class Filters:
    """What `GET /documents` can ask for. Every query names its tenant."""

    tenant: str
    states: frozenset[State] = frozenset()
    sha256: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as kept: only the SHA-256 of the secret."""

    id: UUID
    tenant: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message about an object that could not be taken, as it is kept for a person to look at."""

    id: str  # SHA-256 (hex) over source, attributes and body: the same message again is the same letter
    source: str  # where it came from: "sqs/QUEUE", "pubsub/SUBSCRIPTION", "push", "eventarc", "webhook"
    reason: str
    body: str  # cut where it is long
    attributes: Mapping[str, str]  # what came beside the body
    size: int  # bytes of the whole body
    count: int  # how often it came
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Replay:
    """What an Idempotency-Key stood for."""

    fingerprint: str
    document_ids: tuple[UUID, ...]
    at: datetime | None = None


class UploadMethod(StrEnum):
    """The ways in that take more than one request."""

    TUS = "tus"
    TUS_PARTIAL = "tus_partial"  # becomes a piece of another upload, never a document of its own
    TUS_FINAL = "tus_final"  # partial uploads, joined
    CHUNKS = "chunks"
    PUT = "put"  # one request to a signed URL
    POST = "post"  # one form to the store
    MULTIPART = "multipart"  # parts to signed URLs
    SESSION = "session"  # a resumable session of Cloud Storage
    DROP = "drop"  # an object that somebody else put into the bucket


class UploadState(StrEnum):
    """Whether a way in is still open. COMPLETED: there is a document with the upload's id (not for a partial one)."""

    OPEN = "open"
    COMPLETED = "completed"
    JOINED = "joined"  # a partial one that is a piece of another upload now, and goes when that one needs it no more
    ABORTED = "aborted"  # its sender gave it up
    EXPIRED = "expired"  # nobody finished it in time


@dataclass(frozen=True, slots=True)
class Upload:
    """A way in that takes several requests. Its id is the id of the document that it becomes."""

    id: UUID
    tenant: str
    method: UploadMethod
    state: UploadState
    key: str  # where its bytes will lie in quarantine
    name: str | None  # the sender's, cleaned
    declared_type: str | None
    size: int | None  # announced; None: not said (yet)
    declared_sha256: str | None
    offset: int  # bytes that are acknowledged, where they come in order
    progress: str  # the store's own words for what is unfinished; may hold a secret; "" where there is nothing
    details: Mapping[str, Json]  # what the method needs to remember
    version: str | None  # of the finished object, where the upload is a piece of another
    batch_id: UUID | None
    correlation_id: str
    created_at: datetime
    expires_at: datetime
    lock_owner: str | None = None


@dataclass(frozen=True, slots=True)
class UploadPart:
    """One piece of an upload whose pieces come in any order: an object of its own, or a part that the store holds."""

    number: int  # 0, 1, 2...
    size: int
    version: str  # pins the piece's object; or the part's ETag
    sha256: str | None = None
    piece: str | None = None  # what its object's key ends in, where that is more than its number
