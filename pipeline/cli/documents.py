"""`airlock status` and `airlock retry`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.console import complain, kib, plain, say
from pipeline.errors import BadRequest

if TYPE_CHECKING:
    from pipeline.cli.client import Client


def status(
    document: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One document; without it, the newest.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many of the newest.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As the API gives it.")] = False,
) -> None:
    """Show where documents are."""
    from pipeline.cli.client import Client

    client = Client()
    if document is not None:
        found = client.get(f"/v1/documents/{_id(document)}").json()
        if as_json:
            say(json.dumps(found, indent=2))
        else:
            _one(client, found)
        return
    page = client.get("/v1/documents", {"limit": limit}).json()
    if as_json:
        say(json.dumps(page, indent=2))
        return
    for each in page["documents"]:
        why = each.get("reason") or (f"waits for {each['waiting_for']}" if each.get("waiting_for") else "")
        say(
            f"{each['id']}  {str(each['created_at'])[:19]}  {plain(each['state']):<12} {kib(each['size']):>10}  "
            f"{plain(each.get('name') or '-')}  {plain(why)}".rstrip()
        )
    if not page["documents"]:
        say("No documents yet: `airlock upload FILE... --wait`")


def _one(client: Client, found: dict[str, Any]) -> None:
    from pipeline.cli.follow import summary

    for line in summary(client, found, found.get("name") or "(no name)"):
        say(line)
    for event in found["history"]:
        reason = f" ({plain(event['reason'])})" if event.get("reason") else ""
        say(f"  {str(event['at'])[:23]}  {plain(event['to'])}{reason} by {plain(event['actor'])}")


def retry(
    documents: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Failed documents.")] = None,
    all_failed: Annotated[bool, typer.Option("--all-failed", help="Every one that failed.")] = False,
) -> None:
    """Take failed documents back to the step that failed."""
    from pipeline.cli.client import Client, Refused

    if bool(documents) == all_failed:
        raise BadRequest("Name the documents to retry, or say --all-failed.")
    client = Client()
    ids = _failed(client) if all_failed else [_id(document) for document in documents or []]
    refused = 0
    for one in ids:
        try:
            found = client.call("POST", f"/v1/documents/{one}/retry").json()
        except Refused as exc:
            refused += 1
            complain(f"{one}: {exc.detail}")
        else:
            say(f"{one}: {plain(found['state'])}")
    if not ids:
        say("Nothing has failed.")
    raise typer.Exit(1 if refused else 0)


def _failed(client: Client) -> list[str]:
    """All of them first, then retried: a page turned while its documents move would skip some."""
    ids: list[str] = []
    query: dict[str, Any] = {"state": "failed", "limit": 200}
    while True:
        page = client.get("/v1/documents", query).json()
        ids += [each["id"] for each in page["documents"]]
        if not page.get("next_cursor"):
            return ids
        query["cursor"] = page["next_cursor"]


def _id(text: str) -> str:
    from uuid import UUID

    try:
        return str(UUID(text))
    except ValueError:
        raise BadRequest(f"{plain(text)} is not a document's id: `airlock status` lists them.") from None
