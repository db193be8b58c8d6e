"""The backends, one fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract import backends
from tests.contract.backends import Backend

KINDS = {"local": backends.local, "memory": backends.memory}


@pytest.fixture(scope="module", params=KINDS)
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Each backend in turn; its buckets live as long as the module, so every test uses keys of its own."""
    with KINDS[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made
