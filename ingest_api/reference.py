"""`/docs`: the OpenAPI document as a page that anybody can read: no script, no network but this one.

A console to try things in would need a third party's script on the page where somebody pastes an API key.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from ingest_api.pages import inline, page, prose
from ingest_api.uploads.tus_headers import CHUNK

Node = Mapping[str, Any]

router = APIRouter()

_LINKS = (
    '<p><a href="/">Start</a> · <a href="/openapi.json">OpenAPI document</a> · <a href="/problems">Problems</a></p>'
)
_SAMPLES = {"document_id": "$ID", "upload_id": "$ID", "bucket": "serving", "key": "..."}


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Every route, parameter, answer and type."""
    state = request.app.state
    if getattr(state, "reference", None) is None:  # it never changes while the process lives
        state.reference = reference(request.app.openapi())
    return page("Airlock: the API", state.reference)


def reference(schema: Node) -> str:
    """The page's body."""
    groups: dict[str, list[tuple[str, str, Node]]] = {tag["name"]: [] for tag in schema.get("tags", ())}
    for path, verbs in schema["paths"].items():
        for verb, operation in verbs.items():
            groups.setdefault(operation.get("tags", ["other"])[0], []).append((verb.upper(), path, operation))
    told = {tag["name"]: tag.get("description", "") for tag in schema.get("tags", ())}
    types = schema["components"]["schemas"]
    parts = [
        f"<h1>{html.escape(schema['info']['title'])}: the API</h1>{prose(schema['info'].get('description', ''))}",
        _LINKS,
        "<ul>",
        *(_entry(*one) for operations in groups.values() for one in operations),
        '<li><a href="#types">Types</a></li></ul>',
    ]
    for tag, operations in groups.items():
        parts.append(f"<h2>{html.escape(tag.capitalize())}</h2><p>{inline(told.get(tag, ''))}</p>")
        parts.extend(_operation(*one) for one in operations)
    parts.append('<h2 id="types">Types</h2>')
    parts.extend(_type(name, types[name]) for name in sorted(types))
    return "".join(parts)


def _entry(verb: str, path: str, operation: Node) -> str:
    return (
        f'<li><a href="#{operation["operationId"]}"><code>{verb} {html.escape(path)}</code></a> '
        f"{inline(operation.get('summary', ''))}</li>"
    )


def _operation(verb: str, path: str, operation: Node) -> str:
    return "".join(
        (
            f'<section id="{operation["operationId"]}"><h3><span class="verb">{verb}</span>',
            f'<code class="path">{html.escape(path)}</code></h3>',
            f"<p><strong>{inline(operation.get('summary', '')).rstrip('.?')}.</strong> ",
            f"{inline(operation.get('description', ''))}</p>",
            f"<pre>{html.escape(_curl(verb, path, operation))}</pre>",
            _parameters(operation.get("parameters", ())),
            _body(operation.get("requestBody")),
            _answers(operation["responses"]),
            "</section>",
        )
    )


def _curl(verb: str, path: str, operation: Node) -> str:
    words = ["curl"]
    if "307" in operation["responses"]:
        words.append("-L -OJ")
    if "text/event-stream" in str(operation["responses"].get("200")):
        words.append("-N")
    if operation.get("security"):
        words.append('-H "Authorization: Bearer $AIRLOCK_API_KEY"')
    forms = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in forms:
        words.append("-F file=@report.pdf")
    elif verb == "PUT":
        words.append("-T report.pdf")
    elif verb == "HEAD":
        words.append("-I")
    elif verb != "GET":
        words.append(f"-X {verb}")
    sent = [one for one in operation.get("parameters", ()) if one["in"] == "header" and "example" in one["schema"]]
    words += [f'-H "{one["name"]}: {one["schema"]["example"]}"' for one in sent]
    if CHUNK in forms and operation["requestBody"].get("required"):
        words.append(f'-H "Content-Type: {CHUNK}" --data-binary @report.pdf')
    for name, sample in _SAMPLES.items():
        path = path.replace(f"{{{name}}}", sample)
    return " ".join([*words, f'"$AIRLOCK_API_URL{path}"'])


def _parameters(parameters: Any) -> str:
    rows = [
        f"<tr><td><code>{html.escape(one['name'])}</code></td><td>{one['in']}</td><td>{_kind(one['schema'])}</td>"
        f"<td>{inline(one.get('description', ''))}{_bounds(one['schema'])}</td></tr>"
        for one in parameters
        if one["in"] != "path"
    ]
    if not rows:
        return ""
    return f"<table><tr><th>Parameter</th><th>in</th><th>is</th><th></th></tr>{''.join(rows)}</table>"


def _body(body: Node | None) -> str:
    if body is None:
        return ""
    kinds = " or ".join(f"<code>{html.escape(kind)}</code>" for kind in body["content"])
    return f"<p>Body: {kinds}. {inline(body.get('description', ''))}</p>"


def _answers(responses: Node) -> str:
    rows = "".join(
        f"<tr><td>{status}</td><td>{inline(answer.get('description', ''))}{''.join(_content(answer))}</td></tr>"
        for status, answer in responses.items()
    )
    return f"<table><tr><th>Status</th><th></th></tr>{rows}</table>"


def _content(answer: Node) -> Iterator[str]:
    for kind, content in answer.get("content", {}).items():
        named = content.get("examples", {})
        if kind == "application/problem+json":
            links = ", ".join(f'<a href="/problems/{html.escape(code)}">{html.escape(code)}</a>' for code in named)
            yield f'<br><span class="dim">{links}</span>'
            continue
        yield f'<br><span class="dim"><code>{html.escape(kind)}</code> {_kind(content.get("schema", {}))}</span>'
        for name, example in named.items():
            shown = html.escape(json.dumps(example["value"], indent=2))
            yield f"<details><summary>Example: {html.escape(name)}</summary><pre>{shown}</pre></details>"


def _type(name: str, schema: Node) -> str:
    start = f'<section id="type-{html.escape(name)}"><h3><code>{html.escape(name)}</code></h3>'
    start += f"<p>{inline(schema.get('description', ''))}</p>"
    if "enum" in schema:
        return f"{start}<p>{_kind(schema)}</p></section>"
    rows = "".join(
        f"<tr><td><code>{html.escape(field)}</code></td><td>{_kind(inner)}</td>"
        f"<td>{inline(inner.get('description', ''))}</td></tr>"
        for field, inner in schema.get("properties", {}).items()
    )
    return f"{start}<table><tr><th>Member</th><th>is</th><th></th></tr>{rows}</table></section>"


def _kind(schema: Node) -> str:
    """What a value is, in few words."""
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#type-{name}">{name}</a>'
    if "enum" in schema:
        return ", ".join(f"<code>{html.escape(str(value))}</code>" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_kind(inner) for inner in schema["anyOf"] if inner.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    return html.escape(str(schema.get("format", schema.get("type", "anything"))))


def _bounds(schema: Node) -> str:
    told = [f"{word} {schema[name]}" for name, word in (("minimum", "from"), ("maximum", "to")) if name in schema]
    if "default" in schema and schema["default"] not in (None, []):
        told.append(f"default {json.dumps(schema['default'])}")
    return f' <span class="dim">{html.escape(", ".join(told))}</span>' if told else ""
