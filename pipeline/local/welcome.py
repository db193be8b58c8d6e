"""What somebody who has just started Airlock is told: where it is, a key, and a line to try."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.api_keys import make_key

if TYPE_CHECKING:
    from pipeline.services import Services

TENANT = "main"


def first_key(services: Services) -> str | None:
    """The secret of the first API key, made if there never was one. None: it was made and shown before."""
    with services.ledger.reading() as tx:
        if tx.keys():
            return None
    return make_key(services.ledger, TENANT, "first")


def welcome(base_url: str, key: str | None, *, testing: bool) -> list[str]:
    """The lines. Each command can be pasted as it stands."""
    airlock = shlex.quote(str(Path(sys.executable).with_name("airlock")))
    where = "" if base_url == "http://127.0.0.1:8000" else f"AIRLOCK_API_URL={base_url} "
    lines = ["", f"Airlock is ready:  {base_url}", ""]
    if key:
        lines += [
            f"API key:           {key}   (shown this once: keep it)",
            "Try it:",
            f"  {where}AIRLOCK_API_KEY={key} {airlock} upload FILE... --wait",
        ]
    else:
        lines += [
            "API key:           made and shown at the first start",
            f"Another one:       {airlock} keys create {TENANT}",
            "Try it:",
            f"  {where}AIRLOCK_API_KEY=alk_... {airlock} upload FILE... --wait",
        ]
    if testing:
        lines += ["", *TESTING]
    return [*lines, "", "Ctrl-C stops everything.", ""]


TESTING = (
    "*** ONLY TEST SIGNATURES ARE LOADED: EICAR is found, real viruses are NOT. ***",
    "*** The public database is fetched in the background where there is a network. ***",
)
