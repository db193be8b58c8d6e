"""`airlock upload`: sends files as they are read, and shows what becomes of each."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote
from uuid import uuid4

import typer

from pipeline.cli.console import complain, plain, say
from pipeline.errors import AirlockError

if TYPE_CHECKING:
    from pipeline.cli.client import Client

PIECE = 1 << 20


@dataclass(slots=True)
class Sending:
    """One file on its way."""

    path: Path
    size: int
    sha256: str = ""
    document: dict[str, Any] = field(default_factory=dict)

    def pieces(self, sent: Callable[[int], None]) -> Iterator[bytes]:
        """The file from its start, hashed as it goes; `sent` hears how many bytes have been read so far."""
        digest, done = hashlib.sha256(), 0
        with self.path.open("rb") as source:
            while piece := source.read(PIECE):
                digest.update(piece)
                yield piece
                done += len(piece)
                sent(done)
        self.sha256 = digest.hexdigest()


def upload(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What to send.", show_default=False)],
    wait: Annotated[bool, typer.Option("--wait", help="Follow each document until it is settled.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Give the documents as JSON.")] = False,
) -> None:
    """Upload files. With --wait the exit code is 0 only if all of them became available."""
    from pipeline.cli.client import Client

    sendings = [_look(path) for path in files]
    client = Client()
    failed = _send_all(client, sendings, quiet=as_json)
    sent = [sending for sending in sendings if sending.document]
    if wait:
        from pipeline.cli.follow import follow_all, summary

        follow_all(client, {sending.document["id"]: sending.path.name for sending in sent}, quiet=as_json)
        for sending in sent:
            sending.document = client.get(f"/v1/documents/{sending.document['id']}").json()
            failed |= sending.document["state"] != "available"
            if not as_json:
                for line in summary(client, sending.document, sending.path.name):
                    say(line)
    elif not as_json:
        for sending in sent:
            say(f"{plain(sending.path.name)}: {sending.document['id']} ({sending.document['state']})")
    if as_json:
        say(json.dumps([sending.document for sending in sent], indent=2))
    raise typer.Exit(1 if failed else 0)


def _look(path: Path) -> Sending:
    """Before anything is sent: can all of them be read? Raises AirlockError."""
    try:
        with path.open("rb") as source:
            return Sending(path, os.fstat(source.fileno()).st_size)
    except OSError as exc:
        raise AirlockError(f"{plain(path)} cannot be read: {exc.strerror}.") from exc


def _send_all(client: Client, sendings: list[Sending], *, quiet: bool) -> bool:
    """Send one after another; True if one of them was refused. Raises AirlockError when nobody answers."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from pipeline.cli.client import Refused

    failed = False
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    shown = sys.stderr.isatty() and not quiet
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        for sending in sendings:
            task = progress.add_task(plain(sending.path.name), total=sending.size)
            try:
                send(client, sending, lambda done, task=task: progress.update(task, completed=done))  # type: ignore[misc]
            except Refused as exc:
                failed = True
                complain(f"{plain(sending.path.name)}: {exc.detail}")
    return failed


def send(client: Client, sending: Sending, sent: Callable[[int], None], *, key: str | None = None) -> None:
    """Send one file and note the document that it became; `key`: its Idempotency-Key.

    Raises Refused, Unavailable, AirlockError.
    """
    headers = {
        "Content-Type": _declared(sending.path),
        "Content-Length": str(sending.size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(os.fsencode(sending.path.name), safe='')}",
        # The same for every attempt at this file, so that a lost answer makes no second document.
        "Idempotency-Key": key or str(uuid4()),
    }
    document = client.call("POST", "/v1/documents", headers, lambda: sending.pieces(sent)).json()
    if document.get("sha256") not in (None, sending.sha256):
        raise AirlockError(f"{plain(sending.path.name)}: other bytes arrived than were sent; send it again.")
    sending.document = document


def _declared(path: Path) -> str:
    import mimetypes

    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"
