"""From a bucket's URL to its store. A vendor's SDK is imported when its scheme is opened, not before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.errors import Misconfigured
from pipeline.storage.base import ObjectStore
from pipeline.storage.local_signing import LocalSigner


def open_store(url: str, *, signer: LocalSigner | None = None, sources: Sequence[ObjectStore] = ()) -> ObjectStore:
    """The store behind a URL. Raises Misconfigured, never repeating the URL.

        file:///dir     memory://name     gs://bucket?endpoint=http://host:port
        s3://bucket?endpoint=http://host:port&region=eu-west-1&path_style=1&conditional_copy=0

    `conditional_copy=0` is for stores that ignore If-None-Match on a copy. Credentials come from the SDK's own
    environment. `signer` signs URLs where the store has no server (file, memory); `sources` are the open stores that
    copies come from (quarantine, for serving).
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise Misconfigured("A bucket's URL holds no credentials: they belong in the SDK's own environment.")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    match parts.scheme:
        case "file" if parts.netloc in ("", "localhost") and len(parts.path) > 1:
            _only(options)
            from pipeline.storage.local import LocalStore

            root = Path(unquote(parts.path))
            for other in sources:
                if isinstance(other, LocalStore) and other.bucket == root.name and other.root != root.absolute():
                    raise Misconfigured(f"Two local buckets are named {root.name!r}: a bucket's name is its folder's.")
            return LocalStore(root, signer=signer, sources=sources)
        case "memory" if parts.netloc:
            _only(options)
            from pipeline.storage.memory import MemoryStore

            return MemoryStore(parts.netloc, signer=signer, sources=sources)
        case "s3" if parts.netloc:
            _only(options, "endpoint", "region", "path_style", "conditional_copy")
            from pipeline.storage.s3 import open_s3

            return open_s3(
                parts.netloc,
                endpoint=options.get("endpoint"),
                region=options.get("region"),
                path_style=options.get("path_style", "0") in ("1", "true", "yes"),
                conditional_copy=options.get("conditional_copy", "1") in ("1", "true", "yes"),
            )
        case "gs" if parts.netloc:
            _only(options, "endpoint")
            from pipeline.storage.gcs import open_gcs

            return open_gcs(parts.netloc, endpoint=options.get("endpoint"))
    raise Misconfigured(
        "AIRLOCK_QUARANTINE_URL and AIRLOCK_SERVING_URL look like file:///dir, s3://bucket, gs://bucket or memory://name."
    )


def _only(options: dict[str, str], *known: str) -> None:
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise Misconfigured(f"A bucket's URL of this kind has no option {', '.join(unknown)}.")
