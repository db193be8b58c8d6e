"""The settings of the `airlock run` in this folder, if one runs: what it started lies where nobody else would look."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipeline.cli.console import load_settings

if TYPE_CHECKING:
    from pipeline.settings import Settings


def settings_of_running() -> Settings:
    """Settings from the environment; for what it does not name, what a running `airlock run` has."""
    from pipeline.local.places import is_held

    settings = load_settings()
    if not is_held(settings.var_dir):
        return settings
    try:
        found = json.loads((settings.var_dir / "run.json").read_text())
    except (OSError, ValueError):
        return settings
    return load_settings(**{name: value for name, value in found.items() if name not in settings.model_fields_set})
