"""`airlock policy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import kib, load_settings, say

app = typer.Typer(help="The policy: what is accepted, read and kept.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The policy: what is accepted, read and kept."""


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="Default: AIRLOCK_POLICY_FILE, or the one that ships.")] = None,
) -> None:
    """Read a policy and say what it means, or what is wrong with it."""
    from pipeline.policy import load_policy

    path = file or load_settings().policy_file
    policy = load_policy(path)
    limits, reading = policy.limits, policy.recognize
    say(f"{path or 'the policy that ships with Airlock'} is valid (digest {policy.digest[:16]}).")
    say(f"  accepts    {len(policy.accept.types)} media types, {kib(limits.bytes)} a file, {limits.files} files a form")
    say(f"  unpacks    {kib(limits.unpacked_bytes)}, {limits.members} members, {limits.depth} deep")
    say(f"  requires   {', '.join(sorted(policy.scan.required))}")
    say(f"  reads      {reading.mode.value}: {', '.join(reading.languages)}, {reading.max_pages} pages")
    say(f"  keeps      {policy.retention.days:g} days, rejected bytes {policy.retention.rejected_days:g} days")
