"""One chunk on its way from the socket into a piece of its own in quarantine, in flat memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import anyio
from fastapi import Request

from ingest_api.auth import Principal
from ingest_api.uploads.bodies import Fields, wrong
from ingest_api.uploads.digests import Checks, digests_in
from ingest_api.uploads.form import boundary_of, read_form
from ingest_api.uploads.landing import Incoming, Landing, too_large
from ingest_api.uploads.stream import refuse_coded, unstalled
from ingest_api.web import Threads, Web
from pipeline.chunks import Expected, composable, expect, note, remove
from pipeline.errors import BadRequest, LedgerUnavailable
from pipeline.storage.base import ObjectHeaders
from pipeline.storage.keys import key_of

SESSION = ("sessionId", "upload_id")
INDEX = ("chunkIndex", "index")
STAGED = "piece-staged"


async def take_chunk(request: Request, web: Web, who: Principal) -> Expected:
    """Have the chunk of this request's form count. Raises as `expect` and `note` of pipeline.chunks do, and as a form
    does that is no form, or cut off."""
    refuse_coded(request.headers)
    boundary = boundary_of(request.headers.get("content-type"))
    if boundary is None:
        raise BadRequest("Send a form (multipart/form-data) with sessionId, chunkIndex and chunk.")
    chunk = _Chunk(web, who)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > chunk.max_form_bytes:
        raise too_large(chunk.max_form_bytes, "form_bytes")
    whole = Checks(digests_in(request.headers), alone=True)
    try:
        await read_form(_counted(request, web), boundary, chunk, whole, chunk.fields)
        whole.verify()
        return await chunk.keep()
    except BaseException:
        await chunk.discard()
        raise


async def _counted(request: Request, web: Web) -> AsyncIterator[bytes]:
    async for piece in unstalled(request.stream()):
        web.metrics.received(len(piece))
        yield piece


class _Chunk:
    """A form's one file. Where the form names its session first, the bytes go where they belong; where the file comes
    first they are staged, and the store copies them."""

    max_files = 1

    def __init__(self, web: Web, who: Principal) -> None:
        self.threads: Threads = web.threads
        self.fields: dict[str, str] = {}
        self._services = web.services
        self._tenant = who.tenant
        limits, settings = web.services.policy.limits, web.services.settings
        self.max_bytes = limits.bytes
        self.max_form_bytes = min(limits.bytes, settings.chunk_bytes) + (1 << 20)
        self._expected: Expected | None = None
        self._landing: Landing | None = None
        self._keeping: asyncio.Future[None] | None = None
        self._in_doubt = False

    async def open(
        self, *, field: str, name: str | None, declared: str | None, size: int | None, checks: Checks
    ) -> Landing:
        """See Files."""
        self._expected = await self._named()
        services = self._services
        if self._expected is not None:
            number, key, most = self._expected.upload.id, self._expected.key, self._expected.most
        else:
            number = uuid4()
            key = key_of(services.policy.retention.name, self._tenant, number, STAGED)
            most = min(services.settings.chunk_bytes, services.policy.limits.bytes)
        self._landing = Landing(
            Incoming(number, key, field, None, None, ObjectHeaders(), size),
            self.threads,
            services.quarantine,
            limit=most,
            checks=checks,
            refusal=self._expected.refusal if self._expected else None,
        )
        return self._landing

    async def _named(self) -> Expected | None:
        """The chunk that the fields name, as far as they have come."""
        fields = Fields(self.fields)
        session, number = fields.id(*SESSION), fields.number(*INDEX)
        if session is None or number is None:
            return None
        return await self.threads.rows(expect, session, self._tenant, number, self._services)

    async def keep(self) -> Expected:
        """The form has ended: make the piece durable and have it count."""
        landing, expected = self._landing, self._expected
        if landing is None:
            raise BadRequest("The form has no chunk.")
        staged = expected is None
        if expected is None:
            expected = await self._named()
            if expected is None:
                wrong(SESSION[0], "is missing, or chunkIndex is")
            if landing.size > expected.most:
                raise expected.refusal
        await landing.settle()
        self._keeping = self.threads.bytes(self._keep, landing, expected, staged)
        await asyncio.shield(self._keeping)  # a thread cannot be stopped half-way
        return expected

    def _keep(self, landing: Landing, expected: Expected, staged: bool) -> None:
        landing.seal()
        ref = landing.sealed.ref
        if staged:
            ref = composable(self._services).compose([ref], expected.key).ref
            remove(landing.sealed.ref, self._services)
        try:
            note(expected, ref, landing.size, landing.sha256, self._services)
        except LedgerUnavailable:
            self._in_doubt = True
            raise

    async def discard(self) -> None:
        """Leave nothing behind of a chunk that does not count."""
        with anyio.CancelScope(shield=True):
            if self._keeping is not None:
                [kept] = await asyncio.gather(self._keeping, return_exceptions=True)
                if kept is None or self._in_doubt:
                    return
            if self._landing is not None:
                await self._landing.discard()


def session_in(fields: Fields) -> UUID:
    """The session that a request is about. Raises InvalidParameters."""
    found = fields.id(*SESSION, "file_id", "id")
    if found is None:
        wrong(SESSION[0], "is missing")
    return found
