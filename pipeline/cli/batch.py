"""`airlock batch`: a folder or a manifest as one batch, followed to its end."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.console import complain, plain, say
from pipeline.errors import AirlockError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pipeline.cli.client import Client
    from pipeline.cli.upload import Sending

MANIFESTS = {".csv": "text/csv", ".ndjson": "application/x-ndjson", ".jsonl": "application/x-ndjson"}
EVERY = 0.5  # seconds between two looks at a batch
AWAY = 60  # looks in a row without an answer after which it is given up
OVER = frozenset({"completed", "cancelled"})


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|MANIFEST",
            help="A folder, all files in it and below; or a manifest: .csv with a header "
            "(key or id, name, type, sha256), .ndjson with an object a line.",
            exists=True,
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="What to call it; default: the folder's or the file's name.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it until every document is settled.")] = True,
    at_once: Annotated[int, typer.Option(min=1, max=32, help="Files sent at once.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Give the batch as JSON.")] = False,
) -> None:
    """Hand in many documents as one batch. The exit code is 0 only if all of them became available; 2 for a source that
    cannot be one. Stopped half way, the same command again goes on: what has arrived makes no second document."""
    from pipeline.cli.client import Client

    client = Client()
    with _progress(quiet=as_json) as progress:
        refused = 0
        if source.is_dir():
            sendings = _files(source)
            refused = _send(client, sendings, source, at_once, progress)
            manifest = _ids([sending.document["id"] for sending in sendings if sending.document])
            kind = "application/x-ndjson"
            if refused == len(sendings):
                complain("Nothing was taken, so there is no batch.")
                raise typer.Exit(1)
        else:
            manifest, kind = _lines(source), _kind(source)
        made = _begin(client, name or plain(source.resolve().name), kind, manifest)
        if wait:
            made = _followed(client, made, progress)
    if as_json:
        say(json.dumps(made, indent=2))
    else:
        _tell(made, refused)
    well = not refused and (not wait or _count(made, "available") == made["total"])
    raise typer.Exit(0 if well else 1)


def _progress(*, quiet: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = sys.stderr.isatty() and not quiet
    return Progress(*columns, console=Console(stderr=True), disable=not shown)


def _files(folder: Path) -> list[Sending]:
    """Every file below, in order; no links are followed. Exit code 2 where there is none."""
    from pipeline.cli.upload import Sending

    found: list[Sending] = []
    for place, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for each in sorted(names):
            path = Path(place) / each
            if path.is_file() and not path.is_symlink():
                found.append(Sending(path, path.stat().st_size))
    if not found:
        raise typer.BadParameter(f"There are no files in {plain(folder)}.")
    return found


def _send(client: Client, sendings: Sequence[Sending], folder: Path, at_once: int, progress: Progress) -> int:
    """Send all of them, some side by side; how many were refused, each with a line that says why."""
    from pipeline.cli.client import Refused
    from pipeline.cli.upload import send

    task = progress.add_task("sent", total=len(sendings))

    def one(sending: Sending) -> bool:
        try:
            send(client, sending, lambda _: None, key=key_of(sending, folder))
        except (Refused, OSError) as exc:
            why = exc.detail if isinstance(exc, AirlockError) else f"It cannot be read: {exc.strerror}."
            complain(f"{plain(sending.path)}: {why}")
            return False
        finally:
            progress.advance(task)
        return True

    with ThreadPoolExecutor(at_once) as pool:
        return sum(not sent for sent in pool.map(one, sendings))


def key_of(sending: Sending, folder: Path) -> str:
    """The Idempotency-Key of a file as it is now: the same at every run, another once it was changed."""
    found = sending.path.stat()
    told = f"{sending.path.relative_to(folder)}\n{found.st_size}\n{found.st_mtime_ns}"
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()


def _ids(ids: Sequence[str]) -> Callable[[], Iterator[bytes]]:
    return lambda: (json.dumps({"id": one}).encode() + b"\n" for one in ids)


def _lines(path: Path) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(1 << 18):
                yield piece

    return pieces


def _kind(path: Path) -> str:
    kind = MANIFESTS.get(path.suffix.lower())
    if kind is None:
        raise typer.BadParameter("A manifest's name ends in .csv, .ndjson or .jsonl; anything else is a folder.")
    return kind


def _begin(client: Client, name: str, kind: str, manifest: Callable[[], Iterator[bytes]]) -> dict[str, Any]:
    from urllib.parse import urlencode

    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape"))
    for piece in manifest():
        digest.update(piece)
    # The same batch, however often this command has to be run.
    headers = {"Content-Type": kind, "Idempotency-Key": digest.hexdigest()}
    found: dict[str, Any] = client.call("POST", f"/v1/batches?{urlencode({'name': name})}", headers, manifest).json()
    return found


def _followed(client: Client, made: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from pipeline.errors import Unavailable

    task: TaskID = progress.add_task("settled", total=made["total"])
    silent = 0
    while made["state"] not in OVER:
        time.sleep(EVERY)
        try:
            made = client.get(f"/v1/batches/{made['id']}").json()
        except Unavailable:
            silent += 1
            if silent > AWAY:
                raise
            continue
        silent = 0
        progress.update(task, completed=made["ended"], total=made["total"])
    return made


def _tell(made: dict[str, Any], refused: int) -> None:
    say(f"batch {made['id']}: {plain(made['state'])}, {made['ended']} of {made['total']} settled")
    for state, count in sorted(made.get("counts", {}).items()):
        say(f"  {plain(state):<12} {count}")
    if refused:
        say(f"  {'refused':<12} {refused}")
    say(f"  results      /v1/batches/{made['id']}/results")


def _count(made: dict[str, Any], state: str) -> int:
    return int(made.get("counts", {}).get(state, 0))
