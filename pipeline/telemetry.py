"""Structured logs: one JSON object a line, with the correlation id that follows a document from request to promotion.

A client's file name or text, a key's secret and a signed URL are never logged: nothing here takes them, and `redact`
is the net beneath.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from types import ModuleType
from typing import TYPE_CHECKING, Any


def _structlog() -> ModuleType:
    """structlog without rich, which it would load merely because it is installed: the larger half of its import.

    Only its own printing of tracebacks would use it, and here a traceback is a string by then.
    """
    hide = not {"rich", "structlog"} & sys.modules.keys()
    if hide:
        sys.modules["rich"] = None  # type: ignore[assignment]  # "import rich" fails, as if it were not there
    try:
        import structlog
    finally:
        if hide:
            del sys.modules["rich"]
    return structlog


if TYPE_CHECKING:
    import structlog
else:
    structlog = _structlog()

contextvars = structlog.contextvars  # what every line of this request or document says too

# Signed URLs and API keys, wherever they turn up (in an exception's text, say).
_SECRET = re.compile(r"alk_[A-Za-z0-9_-]{8,}|(?i:(x-amz-signature|x-goog-signature|sig|signature)=)[^&\s\"']+")
_NEVER = frozenset({"name", "filename", "file_name", "authorization", "secret", "token", "password", "url"})


def redact(_: object, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop fields that can hold a client's words or a secret; blank out secrets inside text."""
    for field in _NEVER & entry.keys():
        entry[field] = "[redacted]"
    for field, value in entry.items():
        if isinstance(value, str):
            entry[field] = _SECRET.sub(lambda m: f"{m[1]}=[redacted]" if m[1] else "[redacted]", value)
    return entry


def configure_logging(level: str = "INFO", *, json: bool = True) -> None:
    """Send structlog and the standard library's loggers to standard error, in one form."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[1:]],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [out]
    root.setLevel(level)
    # These say every request or message at INFO; ours say what matters once.
    for noisy in (
        "botocore",
        "urllib3",
        "httpx",
        "httpcore",
        "kombu",
        "mangum",  # its lines have the path in them
        "amqp",
        "alembic",
        "celery.worker.strategy",
        "celery.app.trace",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that writes key-value pairs."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound
