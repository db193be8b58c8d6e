"""What needs no key: the landing page, the policy, the receipt keys, and what each kind of problem means."""

from __future__ import annotations

import html
import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from ingest_api.explanations import EXPLANATIONS
from ingest_api.limits import LARGER
from ingest_api.pages import inline, page
from ingest_api.problems import catalogue
from ingest_api.web import Web, web_of
from pipeline.errors import NotFound
from scanners.base import Fitness

router = APIRouter()


@router.get("/", include_in_schema=False)
async def landing(request: Request) -> HTMLResponse:
    """What this is, and the first upload."""
    web = web_of(request)
    fitness, _ = await web.health.scanner()
    alarm = _alarm(fitness) if fitness is not None else ""
    base = html.escape(web.services.settings.base_url)
    return page(
        "Airlock",
        f"""{alarm}<h1>Airlock</h1>
<p>Every file that is uploaded here lands in quarantine. Its type is checked, it is scanned and read; only what passes
can be downloaded, and exactly those bytes.</p>
<h2>Upload</h2>
<pre>curl -H "Authorization: Bearer $AIRLOCK_API_KEY" -F "file=@report.pdf" {base}/v1/documents</pre>
<p>or the bytes alone:</p>
<pre>curl -H "Authorization: Bearer $AIRLOCK_API_KEY" -H "Content-Type: application/pdf" \\
     --data-binary @report.pdf "{base}/v1/documents?name=report.pdf"</pre>
<p>Large files, in as many requests as it takes: point a tus client at <code>{base}/v1/uploads/tus</code>. Straight to
the bucket: ask <code>POST /v1/uploads</code> what to do. A folder or a list: <code>airlock batch DIR</code>.</p>
<h2>Follow and download</h2>
<pre>curl -N -H "Authorization: Bearer $AIRLOCK_API_KEY" {base}/v1/documents/ID/events
curl -L -OJ -H "Authorization: Bearer $AIRLOCK_API_KEY" {base}/v1/documents/ID/content</pre>
<h2>More</h2>
<ul><li><a href="/docs">The API, with an example of each call</a>, and its
<a href="/openapi.json">OpenAPI document</a></li>
<li><a href="/v1/policy">What is accepted</a></li><li><a href="/problems">What each error means</a></li>
<li><a href="/.well-known/airlock-receipt-keys.json">The keys that clearance receipts are signed with</a></li>
<li><a href="/readyz">Is everything working?</a></li></ul>""",
    )


def _alarm(fitness: Fitness) -> str:
    return "".join(
        f'<p class="alarm" role="alert">{html.escape(warning)}</p>' for warning in fitness.warnings
    ) + "".join(
        f'<p class="note" role="status">Uploads are kept, and wait: {html.escape(problem)}</p>'
        for problem in fitness.problems
        if not fitness.fit
    )


@router.get("/v1/policy", tags=["policy"], summary="The policy that is in force")
async def policy(request: Request) -> JSONResponse:
    """What is accepted, how far it is looked into, what is read and how long it is kept; and the digest of all that."""
    running = web_of(request).services.policy
    members: dict[str, Any] = running.model_dump(mode="json", by_alias=True)
    members["accept"]["types"].sort()
    members["scan"]["required"].sort()
    told: dict[str, Any] = {"digest": running.digest, "policy": members}
    limit = web_of(request).services.settings.body_limit
    if limit is not None:
        # Not the policy's, so no part of its digest: what is larger goes another way.
        told["request"] = {"bytes": limit, "links": {"upload": LARGER}}
    return JSONResponse(told, headers={"Cache-Control": "no-cache"})


@router.get(
    "/.well-known/airlock-receipt-keys.json",
    tags=["policy"],
    summary="The keys that receipts are signed with",
    response_class=Response,
    responses={200: {"content": {"application/jwk-set+json": {"schema": {"type": "object"}}}}},
)
async def receipt_keys(request: Request) -> Response:
    """A JSON Web Key Set (RFC 7517)."""
    web = web_of(request)
    # In a thread: on first use the key is read from its file, or made.
    keys = await web.threads.rows(_jwks, web)
    return Response(
        json.dumps(keys), headers={"Cache-Control": "public, max-age=300"}, media_type="application/jwk-set+json"
    )


def _jwks(web: Web) -> dict[str, list[dict[str, str]]]:
    return web.services.receipts.jwks()


@router.get("/problems", include_in_schema=False)
async def problems() -> HTMLResponse:
    """Every kind of problem."""
    rows = "".join(
        f'<li><a href="/problems/{code}">{code}</a> ({kind.status}): {html.escape(kind.title)}</li>'
        for code, kind in sorted(catalogue().items())
    )
    return page("Airlock: problems", f"<h1>Problems</h1><ul>{rows}</ul>")


@router.get("/problems/{code}", include_in_schema=False)
async def problem(code: str) -> HTMLResponse:
    """One kind of problem: what `type` in a problem document leads to."""
    kind = catalogue().get(code)
    if kind is None:
        raise NotFound("There is no such kind of problem.")
    again = (
        "Trying again later may help."
        if kind.retryable
        else "The same request again gives the same answer, unless something has changed meanwhile."
        if kind.status < 500
        else "It is a fault of the service's."
    )
    return page(
        f"Airlock: {kind.code}",
        f"<h1>{html.escape(kind.title)}</h1><p><code>{kind.code}</code>, HTTP {kind.status}. {again}</p>"
        f"<p>{inline(EXPLANATIONS[kind.code])}</p>"
        '<p>Quote the <code>correlation_id</code> when you ask for help. <a href="/problems">All problems</a></p>',
    )
