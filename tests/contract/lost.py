"""Replies that are lost on the way: what was asked for is done, and nobody is told."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from botocore.exceptions import ConnectionClosedError
from google.cloud.storage import Blob

from pipeline.storage import gcs_writer, local_writer
from tests.contract.backends import Backend

S3_CALLS = ("complete_multipart_upload", "put_object", "upload_part", "create_multipart_upload")
GCS_CALLS = ("compose", "upload_from_file", "upload_from_string")


@contextlib.contextmanager
def lost_replies(backend: Backend, *, done: bool = True) -> Iterator[None]:
    """Whatever `backend.store` writes into its server is written (or, with `done` off, is not), and then the connection
    breaks. In a local bucket it is the disk that fails, once everything is in place."""
    with pytest.MonkeyPatch.context() as patch:

        def breaks(owner: Any, name: str, error: Exception) -> None:
            call = getattr(owner, name)

            @functools.wraps(call)
            def broken(*args: Any, **more: Any) -> Any:
                if done:
                    call(*args, **more)
                raise error

            patch.setattr(owner, name, broken)

        if backend.name.startswith("s3"):
            for name in S3_CALLS:
                breaks(backend.able.client, name, ConnectionClosedError(endpoint_url="http://s3"))
        elif backend.name == "gcs":
            for name in GCS_CALLS:
                breaks(Blob, name, requests.ConnectionError("broken"))
            breaks(gcs_writer._Session, "write", requests.ConnectionError("broken"))
        elif backend.name == "local":
            breaks(local_writer.files, "link_new", OSError(5, "Input/output error"))
        yield
