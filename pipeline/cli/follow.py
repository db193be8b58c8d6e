"""Each document's way through the states as it happens, from its event stream; and how it ended."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.cli.client import Client
from pipeline.cli.console import complain, kib, plain, say
from pipeline.errors import Unavailable
from pipeline.states import SETTLED

AT_ONCE = 8
AGAIN = 1.0  # seconds between two tries
RECONNECTS = 60  # in a row, without a single event in between


def follow_all(client: Client, documents: Mapping[str, str], *, quiet: bool = False) -> None:
    """Follow documents (id -> name) until each is settled, showing every change. Raises Refused, Unavailable."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        for followed in [pool.submit(_follow, client, one, name, quiet) for one, name in documents.items()]:
            followed.result()


def _follow(client: Client, document_id: str, name: str, quiet: bool) -> None:
    width = min(32, len(name))
    for event in changes(client, document_id):
        if not quiet:
            reason = f" ({plain(event['reason'])})" if event.get("reason") else ""
            say(f"{plain(name):<{width}}  {str(event['at'])[11:19]}  {plain(event['to'])}{reason}")


def changes(client: Client, document_id: str) -> Iterator[dict[str, Any]]:
    """The document's events, from the first, until the stream ends. A lost connection is taken up where it broke."""
    last, idle, settled = -1, 0, False
    while True:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(last)} if last >= 0 else {})
        cause: Exception | None = None
        try:
            with client.stream(f"/v1/documents/{document_id}/events", headers) as response:
                for event in parse(response):
                    if event["seq"] > last:
                        last, idle, settled = event["seq"], 0, event["to"] in SETTLED
                        yield event
        except (OSError, http.client.HTTPException, Unavailable) as exc:
            cause = exc
        # A stream that is cut can look like one that ended: only the state tells.
        if settled and cause is None:
            return
        idle += 1
        if idle > RECONNECTS:
            raise Unavailable(
                f"The connection to {client.address} is lost; `airlock status` tells the rest."
            ) from cause
        if idle == 1:
            complain("The connection was lost; trying again.")
        time.sleep(AGAIN)


def parse(lines: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """`state` events of a server-sent event stream (comments and unknown fields are passed over)."""
    kind, data = "", ""
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if kind == "state" and data:
                yield json.loads(data)
            kind, data = "", ""
        elif line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()


def summary(client: Client, document: Mapping[str, Any], name: str) -> list[str]:
    """How it ended: the verdict, what was read, where to get it."""
    state, took = document["state"], document.get("timings", {}).get("total")
    lines = [f"{plain(name)}: {state.upper()}" + (f" in {took / 1000:.1f} s" if took else "")]
    lines.append(f"  document   {document['id']}")
    if document.get("reason") or document.get("detail"):
        lines.append(f"  reason     {plain(document.get('reason', ''))}: {plain(document.get('detail', ''))}")
    for verdict in document.get("verdicts", []):
        if verdict["part"] == "original":
            detail = f" ({plain(verdict['detail'])})" if verdict.get("detail") else ""
            engine = plain(" ".join(filter(None, (verdict.get("engine"), verdict.get("engine_version")))))
            lines.append(f"  verdict    {plain(verdict['verdict'])} by {engine or plain(verdict['scanner'])}{detail}")
    lines.append(f"  type       {plain(document.get('detected_type', 'unknown'))}, {kib(document['size'])}")
    if document.get("text_length") is not None:
        pages = f" on {document['pages']} pages" if document.get("pages") else ""
        lines.append(f"  text       {document['text_length']} characters{pages}")
    if state == "available":
        location = client.get(f"/v1/documents/{document['id']}/content").headers.get("Location")
        lines.append(f"  download   {plain(location)}")
    return lines
