"""`/livez`, `/readyz` and `/metrics`: is the process alive, can it accept, and does everything behind it work.

Ready means that uploads can be accepted: the ledger and both stores answer. A queue or a scanner that is away makes the
service degraded, not unready: what arrives is kept and waits, so taking the API out of its load balancer would turn
waiting into refusing. `/readyz?all=true` asks for every part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from ingest_api.web import Threads, web_of
from pipeline.errors import AirlockError, LedgerUnavailable
from pipeline.services import Services
from pipeline.telemetry import logger
from scanners.base import Fitness

log = logger(__name__)

SCANNER_KEPT = 10.0  # seconds
PARTS_KEPT = 1.0  # seconds: a flood of probes costs the parts one question a second
PATIENCE = 5.0  # seconds for one part; one that is silent longer is not ok
NEEDED = ("ledger", "quarantine", "serving")  # to accept an upload and to hand documents out

router = APIRouter(tags=["operations"])


class PartOut(BaseModel):
    """One part of the service."""

    ok: bool
    problem: str | None = Field(None, description="What is wrong and what to do.")
    warnings: list[str] = Field(default_factory=list)


class ReadyOut(BaseModel):
    """The whole service."""

    status: Literal["ready", "degraded", "unready"]
    warnings: list[str] = Field(description="What an operator must know even though everything works.")
    parts: dict[str, PartOut]


class Health:
    """Asks the parts, side by side, in threads, and remembers the answers for a moment."""

    def __init__(self, services: Services, threads: Threads) -> None:
        self._services = services
        self._threads = threads
        self._kept: dict[str, tuple[float, PartOut]] = {}
        self._asking: dict[str, asyncio.Task[PartOut]] = {}
        self._fitness: Fitness | None = None

    async def parts(self) -> dict[str, PartOut]:
        """Every part's condition. Never raises."""
        ask: dict[str, Callable[[], PartOut]] = {
            "ledger": self._ledger,
            "quarantine": lambda: _pinged(self._services.quarantine.ping),
            "serving": lambda: _pinged(self._services.serving.ping),
            "queue": lambda: _pinged(self._services.queue.ping),
        }
        if self._services.settings.scans:
            ask["scanner"] = self._scanner
        answers = await asyncio.gather(*(self._part(name, call) for name, call in ask.items()))
        return dict(zip(ask, answers, strict=True))

    async def scanner(self) -> tuple[Fitness | None, float | None]:
        """The scanner's fitness and the age of its signatures in seconds, at most SCANNER_KEPT old. None: not here."""
        if not self._services.settings.scans:
            return None, None
        await self._part("scanner", self._scanner)
        fitness = self._fitness or Fitness("clamav", fit=False, problems=("It did not answer yet.",))
        built = fitness.engine.signatures_at if fitness.engine else None
        return fitness, (datetime.now(UTC) - built).total_seconds() if built else None

    async def _part(self, name: str, call: Callable[[], PartOut]) -> PartOut:
        until, kept = self._kept.get(name, (0.0, None))
        if kept is not None and time.monotonic() < until:
            return kept
        task = self._asking.get(name)
        if task is None:  # one question at a time, however many ask
            task = self._asking[name] = asyncio.create_task(self._ask(name, call))
        try:
            return await asyncio.wait_for(asyncio.shield(task), PATIENCE)
        except TimeoutError:
            return PartOut(ok=False, problem=f"It has not answered for {PATIENCE:.0f} seconds.")

    async def _ask(self, name: str, call: Callable[[], PartOut]) -> PartOut:
        try:
            answer = await self._threads.rows(call)
        finally:
            del self._asking[name]
        self._kept[name] = (time.monotonic() + (SCANNER_KEPT if name == "scanner" else PARTS_KEPT), answer)
        return answer

    def _ledger(self) -> PartOut:
        def ping() -> None:
            self._services.ledger.ping()
            current, head = self._services.ledger.revision()
            if current != head:
                raise LedgerUnavailable(f"The database is at revision {current}, not {head}: run `airlock migrate`.")

        return _pinged(ping)

    def _scanner(self) -> PartOut:
        # clamd is asked rather than the whole gate: this process scans nothing, so it needs no other engine.
        try:
            fitness = self._services.clamav.check()
        except Exception as exc:  # noqa: BLE001 - whatever went wrong, the scanner is not known to be fit
            fitness = Fitness("clamav", fit=False, problems=(f"It cannot be asked ({type(exc).__name__}).",))
        self._fitness = fitness
        problem = None if fitness.fit else " ".join(fitness.problems) or "It is not fit to judge."
        return PartOut(ok=fitness.fit, problem=problem, warnings=list(fitness.warnings))


def _pinged(ping: Callable[[], None]) -> PartOut:
    try:
        ping()
    except AirlockError as exc:
        return PartOut(ok=False, problem=exc.detail)
    except Exception as exc:
        # A vendor's words may hold a secret or a path: they go to the log, which redacts.
        log.exception("a part cannot be asked")
        return PartOut(ok=False, problem=f"It cannot be asked ({type(exc).__name__}).")
    return PartOut(ok=True)


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="Is the process alive?", response_class=Response)
async def livez() -> Response:
    """Touches nothing: a database that is away is no reason to restart this process."""
    return Response("ok\n", media_type="text/plain")


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Does every part work?",
    response_model=ReadyOut,
    responses={503: {"model": ReadyOut, "description": "Uploads cannot be accepted now."}},
)
async def readyz(
    request: Request, every: Annotated[bool, Query(alias="all", description="503 unless every part is ok.")] = False
) -> Response:
    """Each part with its problem and warnings. 200 as long as uploads can be accepted."""
    parts = await web_of(request).health.parts()
    able = all(parts[name].ok for name in NEEDED)
    well = able and all(part.ok for part in parts.values())
    body = ReadyOut(
        status="ready" if well else "degraded" if able else "unready",
        warnings=[f"{name}: {warning}" for name, part in parts.items() for warning in part.warnings],
        parts=parts,
    )
    return JSONResponse(body.model_dump(exclude_none=True), 200 if (well if every else able) else 503)


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Requests, bytes, durations; documents by state, the oldest that wait and for what; the scanner's fitness."""
    from ingest_api.metrics import CONTENT_TYPE, scraped

    web = web_of(request)
    fitness, age = await web.health.scanner()
    text = await web.threads.rows(scraped, web.services, web.metrics, fitness, age)
    return Response(text, headers={"Content-Type": CONTENT_TYPE})
