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

AT_MOST = 10_000  # letters of one source
OVERFLOW = f"{AT_MOST} messages are kept of this source already: this one was only counted."
BODY_BYTES = 65_535  # what is kept of a body: the most that MariaDB's TEXT holds
ATTRIBUTES = 64  # Pub/Sub has at most 100, of which a notification uses 8
ATTRIBUTE_CHARS = 1024


def bury(source: str, body: bytes, attributes: Mapping[str, str], reason: str, services: Services) -> None:
    """Keep a message for a person to look at. Raises LedgerUnavailable: then it must come again.

    Of a source that has so many already, further ones are only counted, in one letter that says so: whoever floods us
    must not fill the database.
    """
    kept = {name[:255]: value[:ATTRIBUTE_CHARS] for name, value in sorted(attributes.items())[:ATTRIBUTES]}
    letter_id = id_of(source, body, kept)
    again = _until_kept(services, letter_id, source, reason, text_of(body), kept, len(body))
    log.error("message dead-lettered", source=source, reason=reason, letter=letter_id[:12], again=again)


def _until_kept(
    services: Services, letter_id: str, source: str, reason: str, body: str, attributes: Mapping[str, str], size: int
) -> bool:
    """Whether it was there before."""
    while True:
        try:
            with services.ledger.begin() as tx:
                if tx.count_dead_letter(letter_id, reason):
                    return True
                if tx.dead_letters_of(source) < AT_MOST:
                    tx.bury(letter_id, source=source, reason=reason, body=body, attributes=attributes, size=size)
                    return False
                rest = id_of(source, OVERFLOW.encode(), {})
                if not tx.count_dead_letter(rest, OVERFLOW):
                    tx.bury(rest, source=source, reason=OVERFLOW, body="", attributes={}, size=0)
                return False
        except ObjectExists:  # another process got the same message at the same time: count it
            continue


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
