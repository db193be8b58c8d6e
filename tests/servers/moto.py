"""S3, SQS, SNS and EventBridge of moto: an object that is put really sends its event to the queue.

It checks neither signatures nor conditions, so it proves nothing about security; SeaweedFS does that.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3

from tests.servers.process import accepts, free_port, need, running

REGION = "us-east-1"
CREDENTIALS = ("testkey", "testsecret")  # SeaweedFS's: both servers may be in use in one run


@dataclass(frozen=True)
class Moto:
    """Where it listens, and clients for it."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What boto3 reads its credentials from."""
        return {
            "AWS_ACCESS_KEY_ID": CREDENTIALS[0],
            "AWS_SECRET_ACCESS_KEY": CREDENTIALS[1],
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str, region: str = REGION) -> Any:
        return boto3.client(  # type: ignore[call-overload]
            service,
            endpoint_url=self.endpoint,
            region_name=region,
            aws_access_key_id=CREDENTIALS[0],
            aws_secret_access_key=CREDENTIALS[1],
        )

    @cached_property
    def s3(self) -> Any:
        return self.client("s3")

    @cached_property
    def sqs(self) -> Any:
        return self.client("sqs")

    def bucket_url(self, bucket: str) -> str:
        """As AIRLOCK_QUARANTINE_URL has it."""
        return f"s3://{bucket}?endpoint={self.endpoint}&region={REGION}&path_style=1"

    def source(self, queue_url: str) -> str:
        """As AIRLOCK_EVENT_SOURCES has it."""
        return f"sqs+{queue_url}?region={REGION}"

    def queue(self, name: str, **attributes: str) -> tuple[str, str]:
        """A new queue: its URL and its ARN."""
        url = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url, self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    def left_in(self, queue_url: str) -> tuple[int, int]:
        """How many messages a queue holds: (to be received, in somebody's hand)."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def announce(self, bucket: str, queue_arn: str, *, way: str = "sqs") -> None:
        """Have the bucket tell the queue what lands in it: itself ("sqs"), by SNS, or by EventBridge."""
        kind = {"Events": ["s3:ObjectCreated:*"]}
        match way:
            case "sqs":
                wanted: dict[str, Any] = {"QueueConfigurations": [{"QueueArn": queue_arn, **kind}]}
            case "sns" | "sns raw":
                sns = self.client("sns")
                topic = sns.create_topic(Name=f"{bucket}-landed")["TopicArn"]
                raw = {"RawMessageDelivery": "true"} if way == "sns raw" else {}
                sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn, Attributes=raw)
                wanted = {"TopicConfigurations": [{"TopicArn": topic, **kind}]}
            case _:
                events = self.client("events")
                pattern = {"source": ["aws.s3"], "detail": {"bucket": {"name": [bucket]}}}
                events.put_rule(Name=bucket, EventPattern=json.dumps(pattern))
                events.put_targets(Rule=bucket, Targets=[{"Id": "1", "Arn": queue_arn}])
                wanted = {"EventBridgeConfiguration": {}}
        self.s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=wanted)


@contextlib.contextmanager
def moto(folder: Path, *, port: int | None = None) -> Iterator[Moto]:
    """A server that ends with the block, and forgets everything with it."""
    program = need("moto_server", "pip install moto flask flask-cors", str(Path(sys.executable).parent))
    port = port or free_port()
    with running([program, "-H", "127.0.0.1", "-p", str(port)], lambda: accepts(port), log=folder / "moto.log"):
        yield Moto(port)
