"""Signed URLs for stores that have no server of their own: the API serves them (`/v1/objects/...`)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

from pipeline.errors import Forbidden
from pipeline.storage.base import ObjectHeaders, ObjectRef, SignedPut
from pipeline.storage.streams import bound

PATH = "/v1/objects"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a signed URL allows, once its signature was checked."""

    method: str  # GET (and HEAD), or PUT
    bucket: str
    key: str
    version: str | None  # GET: exactly this one
    size: int | None  # PUT: exactly so many bytes, where it was signed
    content_type: str | None  # PUT: what the client must send, and did
    expires_at: datetime

    @property
    def ref(self) -> ObjectRef:
        """What a GET may read. Raises Forbidden for a PUT."""
        if self.version is None:
            raise Forbidden("This URL is for sending an object.")
        return ObjectRef(self.bucket, self.key, self.version)


class LocalSigner:
    """HMAC-SHA256 over method, bucket, key, version, expiry, and for a PUT its content type and size."""

    def __init__(self, secret: bytes, base_url: str) -> None:
        if len(secret) < 16:
            raise ValueError("the secret that signs URLs needs 16 bytes or more")
        self._secret = secret
        self.base_url = base_url.rstrip("/")

    def get_url(self, ref: ObjectRef, expires: timedelta) -> str:
        """A URL for exactly these bytes. Raises ValueError unless 0 < expires <= MAX_SIGNED."""
        expiry = int((datetime.now(UTC) + bound(expires)).timestamp())
        signature = self._sign("GET", ref.bucket, ref.key, ref.version, str(expiry), "", "")
        return self._url(ref.bucket, ref.key, v=ref.version, exp=str(expiry), sig=signature)

    def put_url(
        self, bucket: str, key: str, headers: ObjectHeaders, expires: timedelta, *, size: int | None = None
    ) -> SignedPut:
        """A URL for one PUT. Raises ValueError unless 0 < expires <= MAX_SIGNED.

        The content type is signed but not in the URL: it is the client's own text.
        """
        expires_at = (datetime.now(UTC) + bound(expires)).replace(microsecond=0)
        expiry, length = str(int(expires_at.timestamp())), "" if size is None else str(size)
        signature = self._sign("PUT", bucket, key, "", expiry, headers.content_type, length)
        query = {"exp": expiry, "sig": signature} | ({"size": length} if length else {})
        sent = {"Content-Type": headers.content_type, "If-None-Match": "*"}
        if length:
            sent["Content-Length"] = length
        return SignedPut(self._url(bucket, key, **query), sent, expires_at)

    def verify(
        self,
        method: str,
        bucket: str,
        key: str,
        query: Mapping[str, str],
        now: datetime,
        *,
        content_type: str = "",
        content_length: int | None = None,
    ) -> Grant:
        """What the URL allows. Raises Forbidden where it was not signed so, or is over.

        `key` is percent-decoded; HEAD counts as GET. For a PUT give the request's Content-Type and Content-Length: one
        that differs from what was signed is refused (no length, as with chunked bodies: the caller must count).
        """
        method = "GET" if method == "HEAD" else method
        version, expiry, length = query.get("v", ""), query.get("exp", ""), query.get("size", "")
        sent_type = content_type if method == "PUT" else ""
        wanted = self._sign(method, bucket, key, version, expiry, sent_type, length)
        # Over bytes: compare_digest refuses text that is not ASCII with a TypeError.
        if not hmac.compare_digest(wanted.encode(), query.get("sig", "").encode("utf-8", "surrogatepass")):
            raise Forbidden("This URL's signature is wrong: it was changed, or signed for another request.")
        # From here on the values are our own.
        expires_at = datetime.fromtimestamp(int(expiry), UTC)
        if now >= expires_at:
            raise Forbidden("This URL has expired: ask for a new one.")
        size = int(length) if length else None
        if size is not None and content_length is not None and content_length != size:
            raise Forbidden(f"This URL is for a body of exactly {size} bytes.")
        return Grant(method, bucket, key, version or None, size, sent_type or None, expires_at)

    def _sign(self, *fields: str) -> str:
        # Each field with its length in front: no two requests give the same text.
        message = b"airlock-url-1\n"
        for text in fields:
            raw = text.encode("utf-8", "surrogatepass")
            message += b"%d:%b\n" % (len(raw), raw)
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()

    def _url(self, bucket: str, key: str, **query: str) -> str:
        return f"{self.base_url}{PATH}/{quote(bucket, safe='')}/{quote(key)}?{urlencode(query)}"
