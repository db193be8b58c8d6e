"""Celery's brokers by their URL: what each needs to be told, so that it loses nothing and waits no longer than it must.

    redis://host:6379/0     rediss://...     redis+socket:///path     amqp://user:password@host/vhost     amqps://...
    sqs://sqs.REGION.amazonaws.com/ACCOUNT?prefix=airlock-      queues that are there already (ListQueues is not needed)
    sqs://?region=REGION&prefix=airlock-                        queues that are made when they are first used
    sqs+http://host:port?region=REGION&prefix=airlock-          another server that speaks SQS
    gcpubsub://projects/PROJECT?prefix=airlock-

Credentials of SQS and Pub/Sub come from the SDKs' own environment, not from the URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import SplitResult, parse_qs, urlsplit

from pipeline.errors import Misconfigured
from pipeline.settings import Settings

PREFIX = "airlock-"  # of the names of queues, topics and subscriptions that share an account with others'
LONG_POLL = 10  # seconds for which SQS holds an empty answer back
PULL = 4  # the same of Pub/Sub, whose transport waits for it when the worker is told to end
WEEK = int(timedelta(days=7).total_seconds())
ACK_DEADLINE = 600  # seconds, the longest that Pub/Sub has; the transport extends it while a task runs


@dataclass(frozen=True, slots=True)
class Broker:
    """What Celery is given."""

    url: str
    options: Mapping[str, object] = field(default_factory=dict)  # broker_transport_options

    @property
    def tells_all(self) -> bool:
        """Whether it can tell every worker something at once, which `airlock alive worker` asks by."""
        return not self.url.startswith("sqs")


def broker_of(settings: Settings, queues: Iterable[str]) -> Broker:
    """The broker that AIRLOCK_BROKER_URL names, for these queues. Raises Misconfigured, without repeating the URL."""
    url = settings.broker_url.get_secret_value()
    must_be_known(url)
    # Longer than any task: a message that still runs must not come again merely because time passed.
    hidden = 2 * settings.task_time_limit_seconds
    match url.partition("://")[0].partition("+")[0]:
        case "redis" | "rediss" | "valkey" | "valkeys":
            timeouts = {"socket_connect_timeout": 3, "socket_timeout": 30, "socket_keepalive": True}
            return Broker(url, {"visibility_timeout": hidden, **timeouts})
        case "amqp" | "amqps" | "pyamqp":
            return Broker(url, {"confirm_publish": True})  # without it a publish into a dying broker looks like success
        case "sqs":
            return _sqs(url, queues, hidden)
        case "gcpubsub":
            return _pubsub(url)
    return Broker(url)


def must_be_known(broker: str) -> None:
    """Raises Misconfigured unless the URL is of a kind that kombu has, without repeating it."""
    from kombu.transport import get_transport_cls

    kind = broker.partition("://")[0].partition("+")[0]
    try:
        get_transport_cls(kind)
    except KeyError:
        raise Misconfigured(
            "AIRLOCK_BROKER_URL names no known kind of broker: it looks like redis://, rediss://, amqp://, amqps://, "
            "sqs:// or gcpubsub://..."
        ) from None
    except ImportError:
        extra = f": pip install 'airlock[{kind}]'" if kind in ("sqs", "gcpubsub") else ""
        raise Misconfigured(
            f"AIRLOCK_BROKER_URL names a broker whose Python package is not installed{extra}."
        ) from None


def _sqs(url: str, queues: Iterable[str], hidden: int) -> Broker:
    parts, options = _split(url, "region", "prefix")
    host = parts.netloc.rpartition("@")[2]
    if parts.netloc != host:
        raise Misconfigured("A broker's URL of SQS holds no credentials: they belong in the SDK's own environment.")
    named = re.search(r"(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.", parts.hostname or "")
    region = options.get("region") or (named[1] if named else None)
    prefix = options.get("prefix", PREFIX)
    secure = parts.scheme != "sqs+http"
    told: dict[str, object] = {
        "is_secure": secure,
        # Of a queue that is made here. A message that is in hand for longer comes again, and finds its document held.
        "visibility_timeout": min(hidden, 43_200),
        "wait_time_seconds": LONG_POLL,
        "polling_interval": 0,  # beside the long poll there is nothing to wait for
        "queue_name_prefix": prefix,
    }
    if region:
        told["region"] = region
    if account := parts.path.strip("/"):
        base = f"{'https' if secure else 'http'}://{host}/{account}"
        told["predefined_queues"] = {f"{prefix}{name}": {"url": f"{base}/{prefix}{name}"} for name in queues}
    return Broker(f"sqs://{host}", told)


def _pubsub(url: str) -> Broker:
    parts, options = _split(url, "prefix")
    if parts.netloc != "projects" or not re.fullmatch(r"/[a-z][a-z0-9.:-]{4,61}[a-z0-9]", parts.path):
        raise Misconfigured("AIRLOCK_BROKER_URL of Pub/Sub looks like gcpubsub://projects/PROJECT.")
    return Broker(
        f"gcpubsub://{parts.netloc}{parts.path}",
        {
            "queue_name_prefix": options.get("prefix", PREFIX),
            "ack_deadline_seconds": ACK_DEADLINE,
            "wait_time_seconds": PULL,
            # A subscription that nobody reads for so long goes, with what is in it: the sweeper rings for that anew.
            "expiration_seconds": WEEK,
            "retry_timeout_seconds": 10,
        },
    )


def _split(url: str, *known: str) -> tuple[SplitResult, dict[str, str]]:
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := sorted(options.keys() - set(known)):
        raise Misconfigured(f"A broker's URL of this kind has no option {', '.join(unknown)}.")
    return parts, options
