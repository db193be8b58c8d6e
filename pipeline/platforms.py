"""The platforms that call this code instead of running it, told by their environment, and what they let through.

Limits as their documentation has them: Vercel "Functions limits" (4.5 MB a body), AWS "Lambda quotas" (6 MB an event,
in which a body is base64, so 4.5 MB of it), Cloud Run "Quotas and limits" (32 MiB a request over HTTP/1).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import Misconfigured

if TYPE_CHECKING:
    from pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Platform:
    """One of them."""

    name: str
    body_bytes: int  # the largest body of a request that arrives; larger ones the platform refuses itself
    stream_seconds: float | None  # after which an answer that goes on for ever had better end
    scratch: Path | None  # the one place that can be written to, where the rest cannot; gone with the instance


VERCEL = Platform("Vercel", 4_500_000, 240.0, Path("/tmp/airlock"))  # noqa: S108  the platform's own and only place
LAMBDA = Platform("AWS Lambda", 4_500_000, 20.0, Path("/tmp/airlock"))  # noqa: S108
CLOUD_RUN = Platform("Cloud Run", 32 << 20, None, None)

# What each sets for whatever runs on it. Vercel runs its functions on Lambda, so it is asked for first.
TOLD_BY: Mapping[str, Platform] = {"VERCEL": VERCEL, "AWS_LAMBDA_FUNCTION_NAME": LAMBDA, "K_SERVICE": CLOUD_RUN}
# What is on the instance goes with it, so these have no defaults there.
NEEDED = ("database_url", "quarantine_url", "serving_url")


def platform(environment: Mapping[str, str] = os.environ) -> Platform | None:
    """The platform that this process is on; None: a machine of somebody's own."""
    return next((found for name, found in TOLD_BY.items() if environment.get(name)), None)


def must_last(settings: Settings, where: Platform | None) -> None:
    """Raises Misconfigured where what is acknowledged would lie on an instance that ends."""
    if where is None:
        return
    missing = [f"AIRLOCK_{name.upper()}" for name in NEEDED if getattr(settings, name) is None]
    if settings.receipt_key is None and settings.receipt_key_file is None:
        missing.append("AIRLOCK_RECEIPT_KEY")
    if missing:
        raise Misconfigured(
            f"On {where.name} nothing on the instance lasts: set {', '.join(missing)}, or uploads, their state or the "
            "key that receipts are signed by would be gone with it."
        )
