"""From a source's URL to its consumer. A vendor's SDK is imported when its consumer starts, not before."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from pipeline.errors import Misconfigured
from pipeline.services import Services

# sqs.eu-west-1.amazonaws.com, and a VPC endpoint's vpce-1a2b.sqs.eu-west-1.vpce.amazonaws.com
_REGION = re.compile(r"(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com(?:\.cn)?$")
_PROJECT = re.compile(r"[a-z][a-z0-9.:-]{4,61}[a-z0-9]")
_SUBSCRIPTION = re.compile(r"[A-Za-z][A-Za-z0-9._~+%-]{2,254}")
_QUEUE = re.compile(r"/[A-Za-z0-9_-]+/[A-Za-z0-9_-]{1,80}(\.fifo)?")


class Source(Protocol):
    """Where messages about objects come from."""

    name: str  # for logs, metrics and dead letters: the kind and the queue's own name

    def run(self, stop: threading.Event) -> None:
        """Receive and take messages until `stop` is set, and finish what is in hand. A queue that is away is asked
        again, less and less often; nothing but a bug raises."""
        ...


def open_sources(urls: Iterable[str], services: Services) -> list[Source]:
    """The consumers, in order of their names. Raises Misconfigured, never repeating a URL."""
    sources = sorted((open_source(url, services) for url in urls), key=lambda source: source.name)
    if not sources:
        raise Misconfigured("AIRLOCK_EVENT_SOURCES names no queue: there is nothing to receive.")
    return sources


def open_source(url: str, services: Services) -> Source:
    """The consumer behind a URL:

        https://sqs.eu-west-1.amazonaws.com/123456789012/landed    as AWS shows it; sqs://... is the same
        sqs+http://host:port/account/queue?region=eu-west-1        another server that speaks SQS; also sqs+https
        pubsub://project/subscription

    Credentials come from the SDK's own environment. Raises Misconfigured.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _unknown() from None
    if parts.username or parts.password:
        raise Misconfigured("An event source's URL holds no credentials: they belong in the SDK's own environment.")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    match parts.scheme:
        case "https" | "sqs" | "sqs+https" | "sqs+http" if host and _QUEUE.fullmatch(parts.path):
            if options.keys() - {"region"}:
                raise Misconfigured("An SQS queue's URL has no option but `region`.")
            found = _REGION.search(host)
            region = options.get("region") or (found[1] if found else None)
            if region is None:
                raise Misconfigured("An SQS queue's URL that names no region needs `?region=...`.")
            from pipeline.events.sqs import SqsSource

            endpoint = f"{'http' if parts.scheme == 'sqs+http' else 'https'}://{host}{f':{port}' if port else ''}"
            return SqsSource(endpoint, parts.path, region, services)
        case "pubsub" if _PROJECT.fullmatch(parts.netloc) and _SUBSCRIPTION.fullmatch(parts.path.removeprefix("/")):
            if options:
                raise Misconfigured("A Pub/Sub subscription's URL has no options.")
            from pipeline.events.pubsub import PubSubSource

            return PubSubSource(parts.netloc, parts.path.removeprefix("/"), services)
    raise _unknown()


def _unknown() -> Misconfigured:
    return Misconfigured(
        "A source in AIRLOCK_EVENT_SOURCES looks like https://sqs.REGION.amazonaws.com/ACCOUNT/QUEUE, "
        "sqs+http://host:port/account/queue?region=REGION or pubsub://project/subscription."
    )
