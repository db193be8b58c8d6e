"""What the commands write, and the settings they read."""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING

from pipeline.errors import Misconfigured

if TYPE_CHECKING:
    from pipeline.settings import Settings


def plain(text: object) -> str:
    """The text without what could steer a terminal: names and details come from somebody else."""
    return "".join("?" if unicodedata.category(char) in {"Cc", "Cf", "Cs"} else char for char in str(text))


def say(text: str = "") -> None:
    """One line to standard output, out at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """One line to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def load_settings(**given: object) -> Settings:
    """Settings from the environment; `given` comes before it.

    Raises:
        Misconfigured: naming each variable and what is wrong with it, never its value.
    """
    from pydantic import ValidationError

    from pipeline.settings import Settings

    try:
        return Settings.model_validate(given)
    except ValidationError as exc:
        problems = "; ".join(
            f"AIRLOCK_{'_'.join(str(part) for part in error['loc'][:1]).upper()}: {error['msg']}"
            for error in exc.errors(include_input=False, include_url=False)
        )
        raise Misconfigured(f"The settings cannot be used. {problems}.") from None


def kib(size: float) -> str:
    """A size for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
