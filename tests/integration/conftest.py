"""An API that tests share; each is a tenant of its own, so none sees what another left."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.integration.api_server import Api, serving
from tests.integration.chunks import Chunks
from tests.integration.presigned import Uploads
from tests.integration.tus import Tus

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API for the session. Ask for `api` instead, unless it is about the whole service."""
    with serving(tmp_path_factory.mktemp("api")) as server:
        yield server


@pytest.fixture(scope="session")
def tus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Another one: open uploads leave things about that the others' tests look for."""
    with serving(tmp_path_factory.mktemp("tus")) as server:
        yield server


@pytest.fixture
def tus(tus_server: Api) -> Iterator[Tus]:
    """A new tenant's client, with nobody rung yet."""
    tus_server.bell.rung.clear()
    mine = tus_server.as_tenant(f"tenant-{next(_NUMBERS)}")
    try:
        yield Tus(mine)
    finally:
        mine.client.close()


@pytest.fixture
def chunks(tus_server: Api) -> Iterator[Chunks]:
    """A new tenant's client of chunk sessions."""
    tus_server.bell.rung.clear()
    mine = tus_server.as_tenant(f"tenant-{next(_NUMBERS)}")
    try:
        yield Chunks(mine)
    finally:
        mine.client.close()


@pytest.fixture
def uploads(tus_server: Api) -> Iterator[Uploads]:
    """A new tenant's client of uploads that go to the bucket: here, a local one."""
    tus_server.bell.rung.clear()
    mine = tus_server.as_tenant(f"tenant-{next(_NUMBERS)}")
    try:
        yield Uploads(mine)
    finally:
        mine.client.close()


@pytest.fixture
def api(api_server: Api) -> Iterator[Api]:
    """The API, as a new tenant sees it, with nobody rung yet."""
    api_server.bell.rung.clear()
    mine = api_server.as_tenant(f"tenant-{next(_NUMBERS)}")
    try:
        yield mine
    finally:
        mine.client.close()
