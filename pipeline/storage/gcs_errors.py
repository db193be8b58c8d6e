"""What google-cloud-storage raises, in our words. Never the SDK's own message: it can hold keys and addresses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from pipeline.errors import (
    AirlockError,
    ChecksumMismatch,
    Misconfigured,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the SDK's errors into ours."""
    try:
        yield
    except DataCorruption:
        raise ChecksumMismatch from None
    except InvalidResponse as error:  # what the streams raise
        raise of_status(int(error.response.status_code)) from None
    except api.RetryError:
        raise StoreUnavailable("Cloud Storage cannot be reached, or is busy for too long.") from None
    except api.GoogleAPICallError as error:
        raise of_status(int(error.code or 0)) from None
    except (auth.DefaultCredentialsError, auth.RefreshError, auth.MalformedError):
        raise Misconfigured("The Google credentials are missing or were refused.") from None
    except (auth.GoogleAuthError, requests.RequestException, ConnectionError, TimeoutError):
        raise StoreUnavailable("Cloud Storage cannot be reached, or broke off.") from None


def of_status(status: int) -> AirlockError:
    """The error for an HTTP status."""
    match status:
        case 404 | 410:
            return ObjectNotFound()
        case 412:
            return PreconditionFailed()
        case 401 | 403:
            return Misconfigured("Cloud Storage refused the credentials, or they may not do this.")
        case 408 | 429:
            return StoreUnavailable(f"Cloud Storage answered {status}.")
        case _ if status >= 500:
            return StoreUnavailable(f"Cloud Storage answered {status}.")
    return StoreError(f"Cloud Storage answered {status}.")
