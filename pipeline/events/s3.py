"""S3's events: plain (SQS, webhooks), wrapped by SNS, and as EventBridge tells them.

"Event message structure" and "EventBridge event message structure" of the Amazon S3 User Guide, "Parsing message
formats" of Amazon SNS. In S3's own message the key is form-urlencoded, in EventBridge's it is raw. MinIO, Garage,
RustFS and moto follow S3; Ceph's gateway follows it but for the key, which it sends raw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.events.landed import Ignored, Result, Unreadable
from pipeline.events.reading import MAX_RECORDS, Malformed, count, decoded, instant, landed, parsed, record, text

WRAPPINGS = 3  # an EventBridge event that went by SNS by way of another has two
# Kinds of `ObjectCreated` (MinIO's) that change no byte.
NO_CONTENT = frozenset({"PutTagging", "DeleteTagging", "PutRetention", "PutLegalHold", "PutAcl"})


def read(body: bytes, attributes: Mapping[str, str]) -> Sequence[Result]:
    """What an S3 message says. See `Read`."""
    try:
        return read_value(parsed(body))
    except Malformed as exc:
        return [Unreadable(str(exc))]


def read_value(value: Any) -> Sequence[Result]:
    """The same, of JSON that is parsed already. Raises Malformed."""
    for _ in range(WRAPPINGS):
        message = record(value, "The message")
        if "Records" in message:
            return _records(message["Records"])
        if "detail-type" in message:
            return [_event_bridge(message)]
        if message.get("Event") == "s3:TestEvent":
            return [Ignored("S3's test message")]
        match message.get("Type"):
            case "Notification":
                inner = text(message, "Message")
                if inner is None:
                    raise Malformed("The SNS notification has no message.")
                value = parsed(inner.encode("utf-8", "surrogatepass"))
            case "SubscriptionConfirmation" | "UnsubscribeConfirmation":
                return [Ignored("SNS's own message about a subscription")]
            case _:
                raise Malformed("The message is no event of S3, SNS or EventBridge.")
    raise Malformed("The message is wrapped too many times.")


def _records(records: Any) -> Sequence[Result]:
    if not isinstance(records, list) or not records:
        raise Malformed("The S3 message has no records.")
    if len(records) > MAX_RECORDS:
        raise Malformed(f"The S3 message has more than {MAX_RECORDS} records.")
    return [result for each in records for result in _record(each)]


def _record(value: Any) -> Sequence[Result]:
    try:
        return _created(record(value, "A record"))
    except Malformed as exc:
        return [Unreadable(str(exc))]


def _created(fields: Mapping[str, Any]) -> Sequence[Result]:
    # MinIO and the older Ceph write "s3:ObjectCreated:Put".
    name = (text(fields, "eventName") or "").removeprefix("s3:")
    family, _, kind = name.partition(":")
    if not name:
        raise Malformed("A record names no event.")
    # ObjectSynced: another zone of Ceph sent it here.
    if family not in {"ObjectCreated", "ObjectSynced"} or kind in NO_CONTENT or kind.startswith("Delet"):
        return [Ignored("an event of another kind")]
    s3 = record(fields.get("s3"), "A record's `s3`")
    bucket = text(record(s3.get("bucket"), "A record's bucket"), "name")
    details = record(s3.get("object"), "A record's object")
    written = text(details, "key")
    if written is None:
        raise Malformed("A record names no key.")
    keys = [decoded(written)]
    if fields.get("eventSource") == "ceph:s3" and written != keys[0]:
        # It is most likely raw; should a gateway encode it after all, the other name is tried as well. Only one of
        # the two is there.
        keys.insert(0, written)
    return [
        landed(
            "s3",
            bucket,
            key,
            version=version_of(details.get("versionId")),
            size=count(details.get("size")),
            at=instant(fields.get("eventTime")),
            sequencer=text(details, "sequencer"),
        )
        for key in keys
    ]


def _event_bridge(message: Mapping[str, Any]) -> Result:
    if message["detail-type"] != "Object Created" or message.get("source") != "aws.s3":
        return Ignored("an event of another kind")
    detail = record(message.get("detail"), "The event's `detail`")
    details = record(detail.get("object"), "The event's object")
    return landed(
        "eventbridge",
        text(record(detail.get("bucket"), "The event's bucket"), "name"),
        text(details, "key"),
        version=version_of(details.get("version-id")),
        size=count(details.get("size")),
        at=instant(message.get("time")),
        sequencer=text(details, "sequencer"),
    )


def version_of(value: Any) -> str | None:
    """A version id; None where the bucket keeps none, or kept none when the object came ("null")."""
    return value if isinstance(value, str) and value not in ("", "null") else None
