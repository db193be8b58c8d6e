"""The steps. Each is a function `(Job, Hand, Services) -> Advance` that may run twice: every effect is create-only or
conditional, and "already there with the same hash" is success. None calls another, none holds a transaction."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.documents import Advance, Job
from pipeline.hand import Hand
from pipeline.services import Services
from pipeline.steps.assemble import assemble
from pipeline.steps.decide import decide
from pipeline.steps.inspect import inspect
from pipeline.steps.promote import promote
from pipeline.steps.recognize import recognize

Step = Callable[[Job, Hand, Services], Advance]

__all__ = ["Step", "assemble", "decide", "inspect", "promote", "recognize"]
