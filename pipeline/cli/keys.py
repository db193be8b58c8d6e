"""`airlock keys`: works on the database itself, so whoever may run it needs no key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from pipeline.cli.console import complain, load_settings, plain, say
from pipeline.errors import BadRequest, Misconfigured

if TYPE_CHECKING:
    from pipeline.ledger.session import Ledger

app = typer.Typer(help="API keys.", no_args_is_help=True)


@contextlib.contextmanager
def _ledger() -> Iterator[Ledger]:
    from pipeline.ledger.session import Ledger

    settings = load_settings()
    if settings.database_url is None and not (settings.var_dir / "airlock.db").exists():
        raise Misconfigured(
            f"There is no database in {settings.var_dir}: run `airlock migrate` (or `airlock run`) first."
        )
    ledger = Ledger(settings.ledger_url)
    try:
        current, newest = ledger.revision()
        if current != newest:
            raise Misconfigured("The database is not up to date: run `airlock migrate` (or `airlock run`) first.")
        yield ledger
    finally:
        ledger.dispose()


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Whose documents it opens: a-z, 0-9 and '-'.")],
    name: Annotated[str, typer.Option(help="What it is for, to tell it from others.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help="documents:read, documents:write or admin; may be given several times.")
    ] = None,
) -> None:
    """Make a key and show it, once."""
    from pipeline.api_keys import SCOPES, make_key

    with _ledger() as ledger:
        secret = make_key(ledger, tenant, name, scope or SCOPES)
    complain("Keep it: only its hash is stored, and it is not shown again.")
    say(secret)


@app.command("list")
def listing() -> None:
    """List all keys, without their secrets."""
    with _ledger() as ledger, ledger.reading() as tx:
        keys = tx.keys()
    for key in keys:
        ended = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "valid"
        scopes = ",".join(sorted(key.scopes))
        say(f"{key.id}  {key.created_at:%Y-%m-%d %H:%M}  {key.tenant:<16} {ended:<24} {scopes}  {plain(key.name)}")


@app.command()
def revoke(key: Annotated[str, typer.Argument(metavar="ID", help="From `airlock keys list`.")]) -> None:
    """End a key, for good. API processes notice within a few seconds."""
    try:
        key_id = UUID(key)
    except ValueError:
        raise BadRequest("That is not a key's id: `airlock keys list` shows them (the id, not the secret).") from None
    with _ledger() as ledger, ledger.begin() as tx:
        tx.revoke_key(key_id)
    say(f"{key_id} is revoked.")
