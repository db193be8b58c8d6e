"""`airlock doctor`: asks every part, and says what to do about each that is not well."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipeline.cli.console import plain, say


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For a program to read.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every served object and every history: takes its time.")
    ] = False,
) -> None:
    """Check everything that Airlock needs: reachable, current, fit. The exit code is 0 only if nothing is wrong."""
    from pipeline.cli.checks import examine
    from pipeline.cli.running import settings_of_running

    settings = settings_of_running()
    findings = examine(settings, deep=deep)
    well = all(finding.ok for finding in findings)
    if as_json:
        say(json.dumps({"ok": well, "parts": [finding.shown() for finding in findings]}, indent=2))
    else:
        for finding in findings:
            say(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.part:<12} {plain(finding.summary)}")
            for problem in finding.problems:
                say(f"      -> {plain(problem)}")
            for warning in finding.warnings:
                say(f"      note: {plain(warning)}")
        say("Everything is well." if well else "Something is wrong: see the lines marked FAIL.")
    raise typer.Exit(0 if well else 1)
