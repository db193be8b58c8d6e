"""The one exception tree. HTTP only renders it (ingest_api/problems.py).

    AirlockError
    ├── BadRequest 400              malformed-request
    │   ├── DigestMismatch 400      digest-mismatch
    │   ├── NoFile 400              no-file
    │   └── EmptyFile 400           empty-file
    ├── Unauthorized 401            unauthorized
    ├── Forbidden 403               forbidden
    ├── NotAppendable 403           not-appendable
    ├── NotFound 404                not-found
    ├── Conflict 409                conflict
    │   ├── NotAvailable 409        not-available
    │   ├── ObjectExists 409        object-exists
    │   ├── LeaseLost 409           lease-lost
    │   ├── OffsetMismatch 409      offset-mismatch
    │   └── UploadIncomplete 409    upload-incomplete
    ├── UploadGone 410              upload-gone
    ├── PreconditionFailed 412      precondition-failed
    ├── TooLarge 413                too-large
    │   └── PlatformLimit 413       platform-limit
    ├── TypeNotAllowed 415          type-not-allowed
    ├── IdempotencyConflict 422     idempotency-conflict
    ├── NoSuchWay 422               no-such-way
    ├── UploadLocked 423            upload-locked                 retryable
    ├── TooMany 429                 too-many-requests             retryable
    │   └── QuotaExceeded 429       quota-exceeded                retryable
    ├── Misconfigured 500           misconfigured
    ├── StoreError 502              store-error                   retryable
    │   ├── ObjectNotFound 404      object-not-found              (not retryable)
    │   ├── ChecksumMismatch 502    checksum-mismatch             retryable
    │   └── StoreUnavailable 503    store-unavailable             retryable, waits
    ├── StepError 500               step-error                    retryable: this attempt failed
    │   └── StepRefused 500         step-refused                  (not retryable: trying again does not mend it)
    └── Unavailable 503             unavailable                   retryable, waits
        ├── LedgerUnavailable 503   ledger-unavailable            retryable, waits
        ├── QueueUnavailable 503    queue-unavailable             retryable, waits
        ├── Draining 503            draining                      retryable, waits
        └── EngineUnavailable 503   engine-unavailable            retryable, waits

`retryable`: the same call may succeed later. `waits`: the fault lies outside the document, so the attempt is not
counted against it; it waits with backoff until the part is back, and is shown as waiting.
"""

from __future__ import annotations

from typing import ClassVar


class AirlockError(Exception):
    """Something that Airlock can name. The message is one sentence for the caller; it holds no secret and no path."""

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    waits: ClassVar[bool] = False

    def __init__(self, detail: str = "", /, **extra: object) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.extra = extra  # rendered as further members of the problem document (RFC 9457 section 3.2)


class BadRequest(AirlockError):
    code, title, status = "malformed-request", "The request cannot be read", 400


class DigestMismatch(BadRequest):
    code, title = "digest-mismatch", "The bytes that arrived are not the bytes that the digest names"


class NoFile(BadRequest):
    code, title = "no-file", "The request holds no file"


class EmptyFile(BadRequest):
    code, title = "empty-file", "The file is empty"


class Unauthorized(AirlockError):
    code, title, status = "unauthorized", "A valid API key is needed", 401


class Forbidden(AirlockError):
    code, title, status = "forbidden", "This key may not do that", 403


class NotAppendable(AirlockError):
    code, title, status = "not-appendable", "This upload takes no bytes", 403


class NotFound(AirlockError):
    code, title, status = "not-found", "No such thing here", 404


class Conflict(AirlockError):
    code, title, status = "conflict", "The document's state does not allow this", 409


class NotAvailable(Conflict):
    code, title = "not-available", "The document is not available"


class ObjectExists(Conflict):
    code, title = "object-exists", "The key is taken"


class LeaseLost(Conflict):
    code, title = "lease-lost", "Another worker has taken this document over"


class OffsetMismatch(Conflict):
    code, title = "offset-mismatch", "The upload stands at another offset"


class UploadIncomplete(Conflict):
    code, title = "upload-incomplete", "Parts of the upload are missing"


class UploadGone(AirlockError):
    code, title, status = "upload-gone", "The upload was given up or its time is over", 410


class PreconditionFailed(AirlockError):
    code, title, status = "precondition-failed", "The object is not the one that was named", 412


class TooLarge(AirlockError):
    code, title, status = "too-large", "The upload is larger than the policy allows", 413


class PlatformLimit(TooLarge):
    code, title = "platform-limit", "The request is larger than this platform lets through"


class TypeNotAllowed(AirlockError):
    code, title, status = "type-not-allowed", "The policy takes no files of this type", 415


class IdempotencyConflict(AirlockError):
    code, title, status = "idempotency-conflict", "This Idempotency-Key was used with another body", 422


class TooMany(AirlockError):
    code, title, status, retryable = "too-many-requests", "Too many requests", 429, True


class QuotaExceeded(TooMany):
    code, title = "quota-exceeded", "The quota is used up"


class NoSuchWay(AirlockError):
    code, title, status = "no-such-way", "This store takes no uploads in this way", 422


class UploadLocked(AirlockError):
    code, title, status, retryable = "upload-locked", "Another request is sending to this upload", 423, True


class Misconfigured(AirlockError):
    code, title = "misconfigured", "The service is not configured for this"


class StoreError(AirlockError):
    code, title, status, retryable = "store-error", "The object store gave an error", 502, True


class ObjectNotFound(StoreError):
    code, title, status, retryable = "object-not-found", "No such object, or no such version of it", 404, False


class ChecksumMismatch(StoreError):
    code, title = "checksum-mismatch", "The store holds other bytes than were sent"


class StoreUnavailable(StoreError):
    code, title, status, waits = "store-unavailable", "The object store cannot be reached", 503, True


class StepError(AirlockError):
    code, title, retryable = "step-error", "A step failed", True


class StepRefused(StepError):
    code, title, retryable = "step-refused", "A step failed in a way that trying again does not mend", False


class Unavailable(AirlockError):
    code, title, status, retryable, waits = "unavailable", "A part of the service cannot be reached", 503, True, True


class LedgerUnavailable(Unavailable):
    code, title = "ledger-unavailable", "The database cannot be reached"


class QueueUnavailable(Unavailable):
    code, title = "queue-unavailable", "The queue cannot be reached"


class Draining(Unavailable):
    code, title = "draining", "This process is about to end"


class EngineUnavailable(Unavailable):
    code, title = "engine-unavailable", "A scanner cannot be reached or is not fit to judge"
