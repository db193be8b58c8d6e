"""What boto3 raises, in our words. Never the SDK's own message: it can hold keys and addresses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.errors import (
    AirlockError,
    ChecksumMismatch,
    Misconfigured,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
)

_DIGEST = {"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "InvalidDigest"}
_MISSING = {"NoSuchKey", "NoSuchVersion", "NoSuchUpload", "NotFound", "404", "MethodNotAllowed", "405"}
_PRECONDITION = {"PreconditionFailed", "412", "ConditionalRequestConflict"}
_LATER = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestTimeTooSkewed", "OperationAborted"}
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403", "401"}
_UNREACHED = (
    boto.ConnectionError,  # refused, or no answer to the first packet; the SDK does not count it among HTTPClientError
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    boto.FlexibleChecksumError,
)
_SETTINGS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.NoRegionError,
)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the SDK's errors into ours."""
    try:
        yield
    except ClientError as error:
        raise _of_answer(error) from None
    except _SETTINGS:
        raise Misconfigured("The S3 credentials or region are missing or cannot be read.") from None
    except _UNREACHED:
        raise StoreUnavailable(
            "S3 cannot be reached, or broke off: see that it runs, and the endpoint in the bucket's URL."
        ) from None
    except BotoCoreError as error:
        raise StoreError(f"The S3 call cannot be made ({type(error).__name__}).") from None


def code_of(error: ClientError) -> str:
    """The store's own code."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _of_answer(error: ClientError) -> AirlockError:
    code = code_of(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return Misconfigured("The bucket is not there.")
    if code in _MISSING:
        return ObjectNotFound()
    if code in _PRECONDITION or status == 412:
        return PreconditionFailed()
    if code in _DIGEST:
        return ChecksumMismatch()
    if code in _LATER or status >= 500 or status == 429:
        return StoreUnavailable(f"S3 answered {status} ({code}).")
    if code in _REFUSED or status in (401, 403):
        return Misconfigured("S3 refused the credentials, or they may not do this.")
    return StoreError(f"S3 answered {status} ({code}).")
