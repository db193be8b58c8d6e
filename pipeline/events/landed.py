"""The normal form: what one message says, whoever sent it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class ObjectLanded:
    """An object is said to lie in a bucket. Only where to look is of use: what lies there, the store is asked.

    `version` is a version id or a generation, where the message names one; an ETag is not taken for one, since the
    object may have been replaced before the message is read, and would then not be found at all.
    """

    bucket: str
    key: str  # as the store knows it: decoded
    version: str | None
    size: int | None  # bytes
    at: datetime | None  # aware, UTC
    sequencer: str | None  # orders the events of one key; a hint for people who read logs, nothing depends on it
    source: str  # which kind of message said so: "s3", "eventbridge", "gcs", "seaweedfs"


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message that is understood, and asks for nothing: a deletion, a test, another kind of event."""

    why: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that nobody can make sense of. `why` is one sentence of ours: it quotes nothing of the message."""

    why: str


Result: TypeAlias = ObjectLanded | Ignored | Unreadable
# Reads one message: its body, and what came beside it (HTTP headers in lower case, or a message's attributes). Never
# raises, never answers with nothing.
Read: TypeAlias = Callable[[bytes, Mapping[str, str]], Sequence[Result]]
