"""Web pages of other origins at the bucket itself, as a browser asks for them."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from botocore.exceptions import ClientError

from pipeline.storage.base import ObjectHeaders
from pipeline.storage.pages import SENDING, AdmitsPages
from pipeline.storage.s3 import S3Store
from tests.contract.backends import Backend

PAGE = "https://app.example.com"


def test_a_page_that_is_named_may_send_to_a_signed_url_and_another_may_not(backend: Backend) -> None:
    store = backend.store
    if not isinstance(store, AdmitsPages):
        pytest.skip("its URLs lead to the API")
    store.admit_pages([PAGE], SENDING)
    store.admit_pages([PAGE], SENDING)
    if not isinstance(store, S3Store):
        assert [rule["origin"] for rule in store._bucket.cors] == [[PAGE]]  # type: ignore[attr-defined]
        return  # the double answers no preflight
    url = store.sign_put("pages/a", ObjectHeaders(), timedelta(minutes=5)).url
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type,if-none-match"}
    answer = httpx.options(url, headers={"Origin": PAGE, **asked})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "etag" in answer.headers["access-control-expose-headers"].lower()
    refused = httpx.options(url, headers={"Origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in refused.headers
    store.admit_pages([], SENDING)
    with pytest.raises(ClientError, match="NoSuchCORSConfiguration"):
        store.client.get_bucket_cors(Bucket=store.bucket)
