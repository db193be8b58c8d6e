"""SQS as the doorbell, without Celery: an id is sent to a queue, which calls a function (ingest_api/serverless.py)."""

from __future__ import annotations

import math
import re
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from pipeline.documents import Lane
from pipeline.errors import Misconfigured, QueueUnavailable

LONGEST = 900  # seconds that SQS delays a message at most; what is rung for too early merely comes again
_SCHEMES = {"https": "https", "sqs": "https", "sqs+https": "https", "sqs+http": "http"}


def _region_of(host: str) -> str:
    """Of sqs.eu-west-1.amazonaws.com, and of a VPC endpoint's vpce-1a2b.sqs.eu-west-1.vpce.amazonaws.com."""
    found = re.search(r"(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.", host)
    return found[1] if found else ""


class SqsQueue:
    """Sends document ids. Credentials come from where the AWS SDK looks for them."""

    def __init__(self, url: str | None) -> None:
        """`url` is written like a source of events (pipeline/events/open.py). Raises Misconfigured."""
        parts = urlsplit(url or "")
        region = parse_qs(parts.query).get("region", [""])[-1] or _region_of(parts.hostname or "")
        if parts.scheme not in _SCHEMES or not parts.hostname or not parts.path.strip("/") or parts.username:
            raise Misconfigured(
                "AIRLOCK_QUEUE=sqs needs a queue: AIRLOCK_QUEUE_URL looks like "
                "https://sqs.REGION.amazonaws.com/ACCOUNT/NAME."
            )
        if not region:
            raise Misconfigured("AIRLOCK_QUEUE_URL names no region: add ?region=...")
        self._endpoint = f"{_SCHEMES[parts.scheme]}://{parts.netloc}"
        self._url = self._endpoint + parts.path
        self._region = region

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
        return boto3.session.Session().client(
            "sqs", endpoint_url=self._endpoint, region_name=self._region, config=config
        )

    def ring(self, document_id: UUID, lane: Lane, *, delay: float = 0.0, bulk: bool = False) -> None:
        """See `Queue.ring`. One queue for all lanes: a function has one size."""
        try:
            self._client.send_message(
                QueueUrl=self._url, MessageBody=str(document_id), DelaySeconds=min(math.ceil(max(delay, 0)), LONGEST)
            )
        except Exception as exc:
            raise QueueUnavailable("SQS cannot be reached; the document waits in the database.") from exc

    def ping(self) -> None:
        """See `Queue.ping`."""
        try:
            self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        except Exception as exc:
            raise QueueUnavailable("SQS cannot be reached: check AIRLOCK_QUEUE_URL and the credentials.") from exc
