"""Messages that cannot be taken: kept once each with their text and a count, so that nothing is dropped in silence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pipeline.documents import DeadLetter
from pipeline.errors import ObjectExists
from pipeline.services import Services
from pipeline.telemetry import logger

log = logger(__name__)

BODY_BYTES = 65_535  # what is kept of a body: the most that MariaDB's TEXT holds
ATTRIBUTES = 64  # Pub/Sub has at most 100, of which a notification uses 8
ATTRIBUTE_CHARS = 1024


def bury(source: str, body: bytes, attributes: Mapping[str, str], reason: str, services: Services) -> None:
    """Keep a message for a person to look at. Raises LedgerUnavailable: then it must come again."""
    kept = {name[:255]: value[:ATTRIBUTE_CHARS] for name, value in sorted(attributes.items())[:ATTRIBUTES]}
    letter_id = id_of(source, body, kept)
    while True:
        try:
            with services.ledger.begin() as tx:
                new = tx.bury(
                    letter_id, source=source, reason=reason, body=text_of(body), attributes=kept, size=len(body)
                )
        except ObjectExists:  # another process got the same message at the same time: count it
            continue
        break
    log.error("message dead-lettered", source=source, reason=reason, letter=letter_id[:12], again=not new)


def id_of(source: str, body: bytes, attributes: Mapping[str, str]) -> str:
    """The same for the same message from the same source."""
    beside = json.dumps([source, sorted(attributes.items())]).encode()
    return hashlib.sha256(beside + b"\n" + body).hexdigest()


def text_of(body: bytes) -> str:
    """The body as it is kept: text as it is, other bytes escaped, cut where it is long."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("utf-8", "backslashreplace")
    text = text.replace("\0", "\\x00")
    return text.encode("utf-8")[:BODY_BYTES].decode("utf-8", "ignore")


def body_of(letter: DeadLetter) -> bytes | None:
    """The message's body, byte for byte; None where it was cut or escaped, so that it cannot be taken again."""
    body = letter.body.encode("utf-8")
    return body if id_of(letter.source, body, letter.attributes) == letter.id else None
