"""Which web pages may use the API from a browser (Fetch standard, CORS): the origins in the settings, none by default.

A page sends its key in a header, never in a cookie, so no credentials are allowed across origins.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# What the usual clients send: fetch, tus-js-client, Uppy with its tus and aws-s3 plug-ins.
SENT = (
    "Authorization",
    "Cache-Control",
    "Content-Digest",
    "Content-Disposition",
    "Content-Type",
    "Digest",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Range",
    "Repr-Digest",
    "Tus-Resumable",
    "Upload-Checksum",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "Uppy-Auth-Token",
    "Uppy-Versions",
    "X-File-Name",
    "X-HTTP-Method-Override",
    "X-Request-ID",
    "X-Requested-With",
)
READ = (
    "Accept-Ranges",
    "Airlock-Document",
    "Content-Disposition",
    "Content-Length",
    "Content-Location",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "Retry-After",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "X-Request-ID",
)


def allow(app: FastAPI, origins: frozenset[str]) -> None:
    """Answer preflights and mark answers for these origins; "*" is every page."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=METHODS,
            allow_headers=SENT,
            expose_headers=READ,
            max_age=600,
        )
