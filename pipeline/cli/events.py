"""`airlock events` receives what queues tell of objects; `airlock dead-letters` shows what nobody could take."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import plain, say
from pipeline.errors import AirlockError, BadRequest, Misconfigured

if TYPE_CHECKING:
    from pipeline.documents import DeadLetter
    from pipeline.services import Services

app = typer.Typer(help="Messages about objects that could not be taken.", no_args_is_help=True)

Beginning = Annotated[
    str, typer.Argument(metavar="ID", help="From `airlock dead-letters list`; its beginning will do.")
]
_HEX = re.compile(r"[0-9a-f]{4,64}")
LINE = 100  # characters of a message in the list


def events() -> None:
    """Receive from AIRLOCK_EVENT_SOURCES: what lands in the bucket becomes a document."""
    from pipeline.cli.running import settings_of_running
    from pipeline.events.run import run_events
    from pipeline.services import Services
    from pipeline.telemetry import configure_logging

    settings = settings_of_running()
    configure_logging(settings.log_level, json=settings.log_json)
    stop = threading.Event()
    services = Services(settings)
    services.drain.watch()

    def end(*_: object) -> None:
        stop.set()
        services.drain.begin()  # of AIRLOCK_QUEUE=inline the flow runs here

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        run_events(services, stop)
    finally:
        services.close()


@app.command("list")
def listing(limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50) -> None:
    """List those that came last, with how often each came, why it could not be taken, and its text."""
    with _services() as services, services.ledger.reading() as tx:
        letters = tx.dead_letters(limit)
    for letter in letters:
        say(f"{letter.id[:12]}  {letter.last_at:%Y-%m-%d %H:%M}  {letter.count:>5} x  {plain(letter.source)}")
        say(f"    {plain(letter.reason)}")
        text = plain(" ".join(_text(letter).split()))
        say(f"    {text[:LINE]}{'...' if len(text) > LINE else ''}")
    if not letters:
        say("There are no dead letters.")


@app.command()
def show(beginning: Beginning) -> None:
    """Show one with its whole text, as far as it was kept."""
    with _services() as services:
        letter = _found(beginning, services)
    say(f"id      {letter.id}")
    say(f"source  {plain(letter.source)}")
    say(f"reason  {plain(letter.reason)}")
    say(f"came    {letter.count} times, {letter.first_at:%Y-%m-%d %H:%M:%S} to {letter.last_at:%Y-%m-%d %H:%M:%S} UTC")
    say(f"size    {letter.size} bytes")
    for name, value in letter.attributes.items():
        say(f"{plain(name)}: {plain(value)}")
    say()
    for line in letter.body.splitlines():
        say(plain(line))


@app.command()
def retry(
    beginning: Annotated[str | None, typer.Argument(metavar="[ID]", help="From `airlock dead-letters list`.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Each of them.")] = False,
) -> None:
    """Take one again, or all, after the cause was mended; what is taken now is forgotten."""
    from pipeline.events.intake import retake

    if (beginning is None) is not everything:
        raise BadRequest("Name one dead letter, or --all.")
    failed = 0
    with _services() as services:
        if beginning is not None:
            ids = [_found(beginning, services).id]
        else:
            with services.ledger.reading() as tx:
                ids = tx.dead_letter_ids()
        for letter_id in ids:
            try:
                with services.ledger.reading() as tx:
                    letter = tx.dead_letter(letter_id)
                retake(letter, services)
            except AirlockError as exc:
                failed += 1
                say(f"{letter_id[:12]}  not taken: {plain(exc.detail)}")
            else:
                say(f"{letter_id[:12]}  taken")
    raise typer.Exit(1 if failed else 0)


@app.command()
def forget(beginning: Beginning) -> None:
    """Remove one, for good."""
    with _services() as services:
        letter = _found(beginning, services)
        with services.ledger.begin() as tx:
            tx.forget_dead_letter(letter.id)
    say(f"{letter.id[:12]}  forgotten")


def _found(beginning: str, services: Services) -> DeadLetter:
    if not _HEX.fullmatch(beginning):
        raise BadRequest("That is not a dead letter's id: `airlock dead-letters list` shows them.")
    with services.ledger.reading() as tx:
        return tx.dead_letter(beginning)


def _text(letter: DeadLetter) -> str:
    """A message without a body has all it says beside it."""
    return letter.body or json.dumps(dict(letter.attributes))


@contextlib.contextmanager
def _services() -> Iterator[Services]:
    from pipeline.cli.running import settings_of_running
    from pipeline.services import Services

    services = Services(settings_of_running())
    try:
        current, newest = services.ledger.revision()
        if current != newest:
            raise Misconfigured("The database is not up to date: run `airlock migrate` (or `airlock run`) first.")
        yield services
    finally:
        services.close()
