"""The same app where a platform calls a function: Vercel (ASGI) and AWS Lambda. Cloud Run runs `airlock serve`.

    application()         the ASGI application                                Vercel
    handler(event, ...)   HTTP: API Gateway (HTTP API) and function URLs      Lambda
    work(event, ...)      a batch of SQS: document ids, and S3's events       Lambda
    sweep(event, ...)     a clock (EventBridge)                               Lambda
    migrate(event, ...)   whoever deploys: the database's newest revision     Lambda

Everything is made once an instance, on the first call, and lives as long as the instance does; between two calls it is
frozen. What must not be lost lies in the ledger and the buckets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from ingest_api.app import create_app
from pipeline.errors import AirlockError, BadRequest
from pipeline.platforms import platform
from pipeline.settings import QueueKind, Settings
from pipeline.telemetry import configure_logging, logger

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

    from pipeline.services import Services

T = TypeVar("T")
log = logger(__name__)


def settings_here() -> Settings:
    """Settings from the environment; what is written for the while goes where the platform lets it."""
    settings = Settings()
    where = platform()
    if where is not None and where.scratch is not None and "var_dir" not in settings.model_fields_set:
        settings = settings.model_copy(update={"var_dir": where.scratch})
    configure_logging(settings.log_level, json=settings.log_json)
    return settings


class SelfStarting:
    """The app, started by its first request if nobody has started it: not every platform speaks ASGI's lifespan."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._started = False
        self._starting = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._started = True
        elif not self._started:
            await self.start()
        await self.app(scope, receive, send)

    async def start(self) -> None:
        """Start the app in the running loop, once. It ends with the process: nobody says when that is."""
        async with self._starting:
            if not self._started:
                await self._stack.enter_async_context(self.app.router.lifespan_context(self.app))
                self._started = True


@cache
def application() -> SelfStarting:
    """The ASGI application of this instance."""
    return SelfStarting(create_app(settings_here()))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One loop for the life of the instance: caches, threads and tasks of the app belong to it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _run(call: Coroutine[Any, Any, T]) -> T:
    return _loop().run_until_complete(call)


@cache
def _http() -> Callable[[Any, Any], dict[str, Any]]:
    from mangum import Mangum

    app = application()
    _run(app.start())
    # lifespan off: Mangum would start and end the app around every single request.
    text = ["text/", "application/json", "application/problem+json", "application/jwk-set+json", "application/jose"]
    return Mangum(app, lifespan="off", text_mime_types=text)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """One HTTP request, as API Gateway's payload version 2.0 or a function URL brings it."""
    return _http()(event, context)


@cache
def _services() -> Services:
    from pipeline.platforms import must_last
    from pipeline.services import Services

    settings = settings_here()
    must_last(settings, platform())
    return Services(settings)


class Failed(TypedDict):
    """One message that is to come again."""

    itemIdentifier: str


class Batch(TypedDict):
    """What SQS is told of a batch ("Reporting batch item failures" of the Lambda guide)."""

    batchItemFailures: list[Failed]


def work(event: Mapping[str, Any], context: object) -> Batch:
    """The messages of one batch: ids of documents that wait, and what S3 says of its buckets. Never raises.

    What is not reported is deleted. One that is comes again after the queue's visibility timeout, and after the queue's
    `maxReceiveCount` goes to its dead letter queue. A message that nobody can read is kept in the ledger instead.
    """
    failed: list[Failed] = []
    for record in event.get("Records", ()):
        try:
            done = _take(record, _services())
        except AirlockError as exc:
            log.warning("message will come again", error=exc.code)
            done = False
        except Exception:
            log.exception("message will come again")
            done = False
        if not done:
            failed.append({"itemIdentifier": str(record.get("messageId", ""))})
    return {"batchItemFailures": failed}


def _take(record: Mapping[str, Any], services: Services) -> bool:
    """Whether this message has done its work."""
    from pipeline.queue.pushed import answer, document_in

    body = str(record.get("body", "")).encode("utf-8", "surrogatepass")
    try:
        document_id = document_in(body)
    except BadRequest:
        return _landed(record, body, services)
    again = answer(document_id, services)
    # Where our own queue rings, what waits has been rung for anew by now, for the moment when its time has come.
    return again is None or services.settings.queue is QueueKind.SQS


def _landed(record: Mapping[str, Any], body: bytes, services: Services) -> bool:
    from pipeline.events import s3
    from pipeline.events.intake import Disposition, take

    queue = str(record.get("eventSourceARN", "")).rpartition(":")[2]
    count = str(record.get("attributes", {}).get("ApproximateReceiveCount", ""))
    attempt = int(count) if count.isdecimal() else None
    return take(body, {}, s3.read, services, source=f"sqs/{queue}", attempt=attempt) is Disposition.ACK


def sweep(event: Mapping[str, Any], context: object) -> dict[str, int]:
    """Everything that beat does, once. `{"thorough": false}`: without listing the buckets."""
    from pipeline import sweeper

    return sweeper.once(_services(), thorough=event.get("thorough") is not False)


def migrate(event: Mapping[str, Any], context: object) -> dict[str, str | None]:
    """Bring the database to the newest revision. Of several that do it at once one does."""
    ledger = _services().ledger
    ledger.upgrade()
    return {"revision": ledger.revision()[0]}
