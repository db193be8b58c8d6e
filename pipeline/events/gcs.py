"""Cloud Storage's events by way of Pub/Sub: pulled, or pushed with or without the wrapper.

"Pub/Sub notifications for Cloud Storage" (attributes and payload), "Push subscriptions" and "Payload unwrapping" of the
Pub/Sub documentation. What happened to which object is in the message's attributes; the data is the object's resource,
or nothing (payloadFormat NONE).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.events.landed import Ignored, Result, Unreadable
from pipeline.events.reading import Malformed, count, instant, landed, parsed, record, text

NAMES = ("eventType", "bucketId", "objectId", "objectGeneration", "eventTime", "payloadFormat")


def read(body: bytes, attributes: Mapping[str, str]) -> Sequence[Result]:
    """What a message of a notification configuration says: data and attributes, as they are pulled. See `Read`.

    Unwrapped pushes have the attributes as headers (any case), if the subscription writes metadata at all.
    """
    lowered = {name.lower(): value for name, value in attributes.items()}
    try:
        return [_notification(body, {name: lowered[name.lower()] for name in NAMES if name.lower() in lowered})]
    except Malformed as exc:
        return [Unreadable(str(exc))]


def read_push(body: bytes, headers: Mapping[str, str]) -> Sequence[Result]:
    """What a push request says, wrapped or unwrapped. See `Read`."""
    try:
        return read(*opened(body, headers))
    except Malformed as exc:
        return [Unreadable(str(exc))]


def opened(body: bytes, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
    """A push's data and attributes: out of its wrapper, or as they came without one. Raises Malformed."""
    value = parsed(body) if body else {}
    if isinstance(value, dict) and isinstance(value.get("message"), dict):
        return unwrapped(value)
    return body, headers


def read_wrapped(value: Mapping[str, Any]) -> Sequence[Result]:
    """The wrapper of a push: `{"message": {"attributes": ..., "data": base64}, "subscription": ...}`.

    Raises Malformed.
    """
    return read(*unwrapped(value))


def unwrapped(value: Mapping[str, Any]) -> tuple[bytes, Mapping[str, str]]:
    """Data and attributes of a wrapped push. Raises Malformed."""
    message = record(value.get("message"), "The push's message")
    attributes = message.get("attributes") or {}
    data = message.get("data") or ""
    if not isinstance(attributes, dict) or not isinstance(data, str):
        raise Malformed("The push's message is not a Pub/Sub message.")
    try:
        return base64.b64decode(data, validate=True), {
            name: value for name, value in attributes.items() if isinstance(value, str)
        }
    except (binascii.Error, ValueError):
        raise Malformed("The push's data is not base64.") from None


def _notification(body: bytes, attributes: Mapping[str, str]) -> Result:
    kind = attributes.get("eventType")
    if kind is not None and kind != "OBJECT_FINALIZE":
        return Ignored("an event of another kind")
    try:
        resource = parsed(body) if body else None
    except Malformed:
        # The attributes say enough. Without them it is not a notification.
        resource = None
    if kind is None:
        return resource_landed(resource)
    details: Mapping[str, Any] = resource if isinstance(resource, dict) else {}
    return landed(
        "gcs",
        attributes.get("bucketId") or text(details, "bucket"),
        attributes.get("objectId") or text(details, "name"),
        version=generation_of(attributes.get("objectGeneration") or details.get("generation")),
        size=count(details.get("size")),
        at=instant(attributes.get("eventTime")) or instant(details.get("timeCreated")),
    )


def resource_landed(resource: Any) -> Result:
    """A bare object resource (JSON API v1): without a word of what happened, so the store will know whether it is
    there. Raises Malformed."""
    fields = record(resource, "The message")
    if fields.get("kind") != "storage#object":
        raise Malformed("The message is no notification of Cloud Storage.")
    return landed(
        "gcs",
        text(fields, "bucket"),
        text(fields, "name"),
        version=generation_of(fields.get("generation")),
        size=count(fields.get("size")),
        at=instant(fields.get("timeCreated")),
    )


def generation_of(value: Any) -> str | None:
    """An object's generation as a string of digits."""
    number = count(value)
    return str(number) if number else None
