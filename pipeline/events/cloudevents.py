"""CloudEvents 1.0 over HTTP, as Eventarc delivers them: binary, structured or batched.

CloudEvents specification 1.0.2 and its HTTP protocol binding; googleapis/google-cloudevents for the types. A Cloud
Storage trigger sends `google.cloud.storage.object.v1.finalized`, a Pub/Sub trigger wraps a message, and an audit log
trigger tells who called what: that one is ignored, as it says nothing of the object.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.events import gcs
from pipeline.events.landed import Ignored, Result, Unreadable
from pipeline.events.reading import MAX_RECORDS, Malformed, count, instant, landed, parsed, record, text

FINALIZED = "google.cloud.storage.object.v1.finalized"
PUBLISHED = "google.cloud.pubsub.topic.v1.messagePublished"
STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"


def read(body: bytes, headers: Mapping[str, str]) -> Sequence[Result]:
    """What one request says. See `Read`."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == BATCHED:
            return _batch(parsed(body))
        if kind == STRUCTURED:
            return _structured(parsed(body))
        if "ce-type" in headers:
            event = {name.removeprefix("ce-"): value for name, value in headers.items() if name.startswith("ce-")}
            return _event(event, parsed(body) if body else None)
        # Sent by hand, or by something that forgot the media type.
        return _structured(parsed(body))
    except Malformed as exc:
        return [Unreadable(str(exc))]


def _batch(value: Any) -> Sequence[Result]:
    if not isinstance(value, list) or len(value) > MAX_RECORDS:
        raise Malformed("The batch is not a list of events, or too long.")
    if not value:
        return [Ignored("an empty batch")]
    found: list[Result] = []
    for each in value:
        try:
            found += _structured(each)
        except Malformed as exc:
            found.append(Unreadable(str(exc)))
    return found


def _structured(value: Any) -> Sequence[Result]:
    event = record(value, "The event")
    data = event.get("data")
    if data is None and isinstance(packed := event.get("data_base64"), str):
        try:
            data = parsed(base64.b64decode(packed, validate=True))
        except (binascii.Error, ValueError):
            raise Malformed("The event's data is not base64.") from None
    elif isinstance(data, str):
        # JSON in a string: what a gateway makes of data whose media type it does not know.
        data = parsed(data.encode("utf-8", "surrogatepass"))
    return _event(event, data)


def _event(event: Mapping[str, Any], data: Any) -> Sequence[Result]:
    kind = text(event, "type")
    if kind is None or not isinstance(event.get("specversion", "1.0"), str):
        raise Malformed("The message is no CloudEvent.")
    if kind == PUBLISHED:
        return gcs.read_wrapped(record(data, "The event's data"))
    if kind != FINALIZED:
        return [Ignored("an event of another kind")]
    details = record(data, "The event's data") if data is not None else {}
    return [
        landed(
            "gcs",
            text(details, "bucket") or text(event, "bucket"),
            text(details, "name") or _subject(text(event, "subject")),
            version=gcs.generation_of(details.get("generation")),
            size=count(details.get("size")),
            at=instant(event.get("time")),
        )
    ]


def _subject(subject: str | None) -> str | None:
    """`objects/NAME`. In a header it is percent-encoded, if at all, in a way that nobody agrees on; the data has it
    as it is, so this is for events without data."""
    return subject.removeprefix("objects/") if subject is not None and subject.startswith("objects/") else None
