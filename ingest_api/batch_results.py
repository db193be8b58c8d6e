"""`GET /v1/batches/{id}/results`: every item and how it ended, streamed as CSV or NDJSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from ingest_api.auth import Reader
from ingest_api.problems import InvalidParameters, documented
from ingest_api.web import Web, web_of
from pipeline.batches import Batch, ItemState
from pipeline.errors import Forbidden, NotFound, Unauthorized
from pipeline.states import SERVED, State

router = APIRouter(tags=["batches"])

PAGE = 500  # items of one look into the ledger
MEMBERS = (
    "item",
    "line",
    "id",
    "key",
    "name",
    "state",
    "error",
    "detail",
    "size",
    "sha256",
    "detected_type",
    "content",
)
# What a spreadsheet takes for a formula (OWASP, CSV Injection): such a cell begins with an apostrophe here.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

Row = dict[str, Any]


class Shape(StrEnum):
    """How the results are written."""

    CSV = "csv"
    NDJSON = "ndjson"


@router.get(
    "/v1/batches/{batch_id}/results",
    summary="Every item and how it ended",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A line an item, in their order. CSV has a header, and an apostrophe before what a "
            "spreadsheet would take for a formula. NDJSON leaves out what has no value.",
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}},
            },
        },
        **documented(Unauthorized, Forbidden, NotFound, InvalidParameters),
    },
)
async def results(
    request: Request,
    who: Reader,
    batch_id: UUID,
    shape: Annotated[
        Shape | None, Query(alias="format", description="Else as `Accept` says; NDJSON if that says neither.")
    ] = None,
) -> StreamingResponse:
    """At any time: items that have not ended are named with where they are."""
    web = web_of(request)

    def look() -> Batch:
        with web.services.ledger.reading() as tx:
            return tx.batch(batch_id, tenant=who.tenant)

    batch = await web.threads.rows(look)
    if shape is None:
        shape = Shape.CSV if "text/csv" in request.headers.get("accept", "").lower() else Shape.NDJSON
    kind, write = {
        Shape.CSV: ("text/csv; charset=utf-8", _as_csv),
        Shape.NDJSON: ("application/x-ndjson", _as_ndjson),
    }[shape]
    return StreamingResponse(
        _stream(web, batch, write, [MEMBERS] if shape is Shape.CSV else []),
        media_type=kind,
        headers={"Content-Disposition": f'attachment; filename="batch-{batch.id}.{shape.value}"'},
    )


async def _stream(
    web: Web, batch: Batch, write: Callable[[Sequence[Row]], str], header: Sequence[Sequence[str]]
) -> AsyncIterator[str]:
    yield "".join(f"{','.join(names)}\r\n" for names in header)
    after = -1
    while True:
        page = await web.threads.rows(_page, web, batch, after)
        if page:
            yield write(page)
            after = page[-1]["item"]
        if len(page) < PAGE:
            return


def _page(web: Web, batch: Batch, after: int) -> list[Row]:
    with web.services.ledger.reading() as tx:
        return [_row(found) for found in tx.results(batch, after=after, limit=PAGE)]


def _row(found: Any) -> Row:
    """An item as it is shown. One that became available is told as what its document is today."""
    state = found.state
    if state == ItemState.AVAILABLE and found.now is not None:
        state = found.now
    served = state in {one.value for one in SERVED} and found.now == State.AVAILABLE
    return {
        "item": found.seq,
        "line": found.line,
        "id": None if found.document_id is None else str(found.document_id),
        "key": found.key,
        "name": found.document_name or found.name,
        "state": state,
        "error": found.error,
        "detail": found.problem or (found.detail if found.error else None),
        "size": found.size,
        "sha256": found.sha256,
        "detected_type": found.detected_type,
        "content": f"/v1/documents/{found.document_id}/content" if served else None,
    }


def _as_ndjson(rows: Sequence[Row]) -> str:
    lines = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)


def _as_csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)  # RFC 4180: commas, CRLF, quotes where they are needed
    writer.writerows([cell(row[name]) for name in MEMBERS] for row in rows)
    return out.getvalue()


def cell(value: object) -> str:
    """A value as a spreadsheet may open it."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
