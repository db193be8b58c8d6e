"""The backends, one fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract import backends
from tests.contract.backends import Backend
from tests.servers.seaweedfs import S3Server, seaweedfs


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One SeaweedFS for the whole run; its credentials are in the environment, where the SDK looks for them."""
    with seaweedfs(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment().items():
            environment.setenv(name, value)
        yield server


FOLDERS = {"local": backends.local, "memory": backends.memory}
S3 = {"s3-versioned": backends.s3_versioned, "s3-plain": backends.s3_plain}


@pytest.fixture(scope="module", params=[*FOLDERS, *S3])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Each backend in turn; its buckets live as long as the module, so every test uses keys of its own."""
    if request.param in S3:
        with S3[request.param](request.getfixturevalue("s3_server")) as made:
            yield made
    else:
        with FOLDERS[request.param](tmp_path_factory.mktemp(request.param)) as made:
            yield made
