"""`airlock buckets`."""

from __future__ import annotations

import typer

from pipeline.cli.console import complain, load_settings, say
from pipeline.errors import Misconfigured

app = typer.Typer(help="The quarantine and the serving bucket.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The quarantine and the serving bucket."""


@app.command()
def create() -> None:
    """Make both buckets where they are not there yet, and admit the web pages in AIRLOCK_CORS_ORIGINS to them."""
    from pipeline.services import Services
    from pipeline.storage.base import Provisionable
    from pipeline.storage.pages import FETCHING, SENDING, AdmitsPages

    services = Services(load_settings())
    try:
        for name, store in (("quarantine", services.quarantine), ("serving", services.serving)):
            if not isinstance(store, Provisionable):
                raise Misconfigured(f"The {name} bucket is of a kind that has to be made by its own tools.")
            store.ensure_bucket()
            say(f"{name}: {store.bucket}")
            if services.settings.cors_origins and isinstance(store, AdmitsPages):
                store.admit_pages(services.settings.cors_origins, SENDING if name == "quarantine" else FETCHING)
    finally:
        services.close()
    complain("Both buckets are there.")
