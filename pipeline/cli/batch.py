"""`airlock batch`: a folder or a manifest as one batch, followed to its end.

A folder's files are uploaded first, and the batch is made of their ids. Nothing has to be remembered in between: every
file has an Idempotency-Key that it gets again at the next run, and so has the batch.
"""

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
from pipeline.errors import AirlockError, Unavailable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pipeline.cli.client import Client
    from pipeline.cli.upload import Sending

Manifest = Callable[[], Iterator[bytes]]
MANIFESTS = {".csv": "text/csv", ".ndjson": "application/x-ndjson", ".jsonl": "application/x-ndjson"}
EVERY = 0.5  # seconds between two looks at a batch
AWAY = 60  # looks in a row without an answer after which it is given up
OVER = frozenset({"completed", "cancelled"})
NAMED = 20  # of those that did not become available


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
    cannot be one. Stopped half way, or with failures, the same command again goes on: what has arrived makes no second
    document, and what failed is tried again."""
    from pipeline.cli.client import Client

    kind = "application/x-ndjson" if source.is_dir() else _kind(source)
    sendings = _files(source) if source.is_dir() else []
    client, refused, names = Client(), 0, dict[str, str]()
    try:
        with _progress(quiet=as_json) as progress:
            if sendings:
                refused = _send(client, sendings, source, at_once, progress)
                sent = [sending for sending in sendings if sending.document]
                names = {sending.document["id"]: str(sending.path.relative_to(source)) for sending in sent}
                if not names:
                    complain("Nothing was taken, so there is no batch.")
                    raise typer.Exit(1)
            manifest = _ids(list(names)) if sendings else _lines(source)
            made = _begin(client, name or plain(source.resolve().name), kind, manifest)
            if wait:
                made = _followed(client, made, progress)
    except KeyboardInterrupt:
        complain("Stopped. The same command goes on from here; a batch that has begun goes on by itself.")
        raise typer.Exit(1) from None
    if as_json:
        say(json.dumps(made | {"refused": refused}, indent=2))
    else:
        _tell(client, made, refused, names)
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
    """Send all of them, some side by side; how many were refused, each with a line that says why.

    Raises Unavailable as soon as nobody answers: the others would not be answered either.
    """
    from pipeline.cli.upload import send

    task = progress.add_task("sent", total=len(sendings))

    def one(sending: Sending) -> bool:
        try:
            send(client, sending, lambda _: None, key=key_of(sending, folder))
        except Unavailable:
            raise
        except (AirlockError, OSError) as exc:
            why = exc.detail if isinstance(exc, AirlockError) else f"It cannot be read: {exc.strerror}."
            complain(f"{plain(sending.path)}: {why}")
            return False
        progress.advance(task)
        return True

    pool = ThreadPoolExecutor(at_once)
    try:
        return sum(not sent for sent in pool.map(one, sendings))
    finally:
        pool.shutdown(cancel_futures=True)


def key_of(sending: Sending, folder: Path) -> str:
    """The Idempotency-Key of a file as it is now: the same at every run, another once it was changed."""
    found = sending.path.stat()
    told = f"{folder.resolve()}\n{sending.path.relative_to(folder)}\n{found.st_size}\n{found.st_mtime_ns}"
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()


def _ids(ids: Sequence[str]) -> Manifest:
    return lambda: (json.dumps({"id": one}).encode() + b"\n" for one in ids)


def _lines(path: Path) -> Manifest:
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


def _begin(client: Client, name: str, kind: str, manifest: Manifest) -> dict[str, Any]:
    """The batch, made now or by an earlier run; what failed in that one is tried again."""
    from urllib.parse import urlencode

    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape"))
    for piece in manifest():
        digest.update(piece)
    headers = {"Content-Type": kind, "Idempotency-Key": digest.hexdigest()}
    reply = client.call("POST", f"/v1/batches?{urlencode({'name': name})}", headers, manifest)
    found: dict[str, Any] = reply.json()
    for problem in found.pop("problems", []):
        complain(f"line {problem['line']}: {plain(problem['problem'])}")
    if reply.headers.get("Idempotency-Replayed") == "true" and found["state"] in OVER and "retry" in found["links"]:
        found = client.call("POST", found["links"]["retry"]).json()
    return found


def _followed(client: Client, made: dict[str, Any], progress: Progress) -> dict[str, Any]:
    task: TaskID = progress.add_task("settled", total=made["total"], completed=made["ended"])
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


def _tell(client: Client, made: dict[str, Any], refused: int, names: dict[str, str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    say(f"batch {made['id']}: {plain(made['state'])}, {made['ended']} of {made['total']} ended")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("state")
    table.add_column("documents", justify="right")
    for state, count in sorted(made.get("counts", {}).items()):
        table.add_row(Text(plain(state)), str(count))
    if refused:
        table.add_row("refused", str(refused))
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    if made["state"] in OVER and _count(made, "available") < made["total"]:
        for line in _unavailable(client, made, names):
            say(line)
    say(f"All of them: {client.address}{made['links']['results']}?format=csv")


def _unavailable(client: Client, made: dict[str, Any], names: dict[str, str]) -> Iterator[str]:
    """The first items that did not become available, each with the reason."""
    told = 0
    with client.stream(f"{made['links']['results']}?format=ndjson", {}) as lines:
        for line in lines:
            item = json.loads(line)
            if item["state"] == "available":
                continue
            if told == NAMED:
                yield "  ..."
                return
            told += 1
            what = names.get(item.get("id", "")) or item.get("name") or item.get("key") or f"line {item.get('line')}"
            why = ": ".join(plain(item[part]) for part in ("error", "detail") if item.get(part))
            yield f"  {plain(what)}: {plain(item['state'])}{f' ({why})' if why else ''}"


def _count(made: dict[str, Any], state: str) -> int:
    return int(made.get("counts", {}).get(state, 0))
