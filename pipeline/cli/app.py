"""The list of commands, in the order of the help."""

from __future__ import annotations

import typer

from pipeline.cli import alive, batch, buckets, doctor, documents, events, keys, policy, receipts, run, serve, upload

app = typer.Typer(
    name="airlock",
    help="Takes files that nobody trusts; gives back only what got a clean verdict.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

CLIENT = "A client of the API (AIRLOCK_API_URL, AIRLOCK_API_KEY)"
SERVICE = "The service"
CARE = "Looking after it"

app.command(rich_help_panel=CLIENT)(upload.upload)
app.command(rich_help_panel=CLIENT)(batch.batch)
app.command(rich_help_panel=CLIENT)(documents.status)
app.command(rich_help_panel=CLIENT)(documents.retry)
app.command("verify-receipt", rich_help_panel=CLIENT)(receipts.verify_receipt)
app.command(rich_help_panel=SERVICE)(run.run)
app.command(rich_help_panel=SERVICE)(serve.serve)
app.command(rich_help_panel=SERVICE)(serve.worker)
app.command(rich_help_panel=SERVICE)(serve.beat)
app.command(rich_help_panel=SERVICE)(events.events)
app.command(rich_help_panel=CARE)(doctor.doctor)
app.command(rich_help_panel=CARE)(alive.alive)
app.command(rich_help_panel=CARE)(serve.migrate)
app.command(rich_help_panel=CARE)(serve.sweep)
app.add_typer(keys.app, name="keys", rich_help_panel=CARE)
app.add_typer(events.app, name="dead-letters", rich_help_panel=CARE)
app.add_typer(policy.app, name="policy", rich_help_panel=CARE)
app.add_typer(buckets.app, name="buckets", rich_help_panel=CARE)
