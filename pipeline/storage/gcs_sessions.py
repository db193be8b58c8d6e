"""Resumable sessions that clients are given. See OpensSessions."""

from __future__ import annotations

import requests
from google.cloud.storage import Bucket

from pipeline.storage.base import ObjectHeaders
from pipeline.storage.gcs_errors import of_status, translated
from pipeline.storage.gcs_writer import CALL, dress

_ENDED = {204, 404, 410, 499}  # 499 says that it was open until now


class GCSSessions:
    """The part of GCSStore that is OpensSessions."""

    _bucket: Bucket

    def open_session(self, key: str, headers: ObjectHeaders, *, size: int | None, origin: str | None) -> str:
        """See OpensSessions. `size` is announced (X-Upload-Content-Length); Google does not promise to hold the client
        to it, so what lands is measured."""
        blob = self._bucket.blob(key)
        dress(blob, headers)
        with translated():
            url: str = blob.create_resumable_upload_session(
                content_type=headers.content_type,
                size=size,
                origin=origin,
                checksum=None,
                if_generation_match=0,
                **CALL,
            )
        return url

    def close_session(self, url: str) -> None:
        """See OpensSessions. One that is done stays done."""
        with translated():  # no token is sent along: the URL is one
            answer = requests.delete(
                url, headers={"Content-Length": "0"}, timeout=CALL["timeout"], allow_redirects=False
            )
        if answer.status_code not in _ENDED and not answer.ok:
            raise of_status(answer.status_code)
