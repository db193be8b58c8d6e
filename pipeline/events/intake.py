"""What becomes of one message: landed, ignored, dead-lettered, or left to come again.

Only a message that is done with is acknowledged, so a process that dies in between loses nothing; and as landing the
same object twice changes nothing, one that comes again does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pipeline.documents import DeadLetter
from pipeline.errors import AirlockError, BadRequest, Unavailable
from pipeline.events import cloudevents, gcs, s3, webhook
from pipeline.events.dead_letters import body_of, bury
from pipeline.events.landed import Ignored, ObjectLanded, Read, Unreadable
from pipeline.landing import land
from pipeline.services import Services
from pipeline.telemetry import logger

log = logger(__name__)


# By the first word of a source's name.
READERS: Mapping[str, Read] = {
    "sqs": s3.read,
    "pubsub": gcs.read,
    "push": gcs.read_push,
    "eventarc": cloudevents.read,
    "webhook": webhook.read,
}


class Disposition(StrEnum):
    """What to tell whoever brought the message."""

    ACK = "ack"  # done with it, for good
    RETRY = "retry"  # the store or the ledger is away: bring it again, later


def take(
    body: bytes,
    attributes: Mapping[str, str],
    read: Read,
    services: Services,
    *,
    source: str,
    attempt: int | None = None,
) -> Disposition:
    """Read a message and land what it tells of. Never raises.

    `attempt` counts the message's deliveries from 1, where whoever brings it counts them: then a fault that may pass,
    but does not, ends it after AIRLOCK_MAX_TRIES. A part that is away ends nothing.
    """
    away, poison = _taken(body, attributes, read, services, source, last=(attempt or 0) >= services.settings.max_tries)
    if away:
        # Its other records are landed, or will be found so; what is poison among them is buried when it is over.
        return Disposition.RETRY
    if poison:
        try:
            bury(source, body, attributes, poison[0], services)
        except AirlockError as exc:
            log.warning("dead letter cannot be kept", source=source, error=exc.code)
            return Disposition.RETRY
    return Disposition.ACK


def retake(letter: DeadLetter, services: Services) -> None:
    """Take a dead letter once more, and forget it if nothing of it is left to do.

    Raises:
        BadRequest: only a part of it was kept, or it cannot be taken for this reason.
        Unavailable: a part of the service is away.
    """
    read = READERS.get(letter.source.partition("/")[0])
    if read is None:
        raise BadRequest("This message is not about an object: what it asked for, the sweeper does.")
    body = body_of(letter)
    if body is None:
        raise BadRequest("Only a part of this message was kept, so it cannot be taken again.")
    away, poison = _taken(body, letter.attributes, read, services, letter.source, last=False)
    if away:
        raise Unavailable("The store or the database is away: try again later.")
    if poison:
        raise BadRequest(poison[0])
    with services.ledger.begin() as tx:
        tx.forget_dead_letter(letter.id)


def _taken(
    body: bytes, attributes: Mapping[str, str], read: Read, services: Services, source: str, *, last: bool
) -> tuple[bool, list[str]]:
    """Land every record. (Whether one has to come again, why others never will succeed.)"""
    away, poison = False, []
    for result in read(body, attributes):
        match result:
            case ObjectLanded():
                try:
                    _land(result, services, source, last=last)
                except _Away:
                    away = True
                except _Poison as exc:
                    poison.append(str(exc))
            case Ignored(why):
                log.debug("event ignored", source=source, why=why)
            case Unreadable(why):
                poison.append(why)
    return away, poison


class _Away(Exception):
    """The same may succeed later."""


class _Poison(Exception):
    """The same will fail again, in these words."""


def _land(landed: ObjectLanded, services: Services, source: str, *, last: bool) -> None:
    try:
        outcome = land(landed, services)
    except AirlockError as exc:
        if exc.waits or (exc.retryable and not last):
            log.warning("event waits", source=source, error=exc.code)
            raise _Away from None
        raise _Poison(f"{exc.code}: {exc.detail}") from None
    except Exception as exc:
        # A bug, then, and the same one the next time. The text is kept, and the sweeper looks for the object too.
        log.exception("event failed", source=source)
        raise _Poison(f"internal-error: landing it ended in {type(exc).__name__}") from exc
    log.info("event", source=source, outcome=outcome.value)
