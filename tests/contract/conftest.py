"""The backends, one fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract import backends
from tests.contract.backends import Backend

FOLDERS = {"local": backends.local, "memory": backends.memory}
S3 = {"s3-versioned": backends.s3_versioned, "s3-plain": backends.s3_plain}


@pytest.fixture(scope="module", params=[*FOLDERS, *S3, "gcs"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Each backend in turn; its buckets live as long as the module, so every test uses keys of its own."""
    if request.param in S3:
        with S3[request.param](request.getfixturevalue("s3_server")) as made:
            yield made
    elif request.param == "gcs":
        with backends.gcs(request.getfixturevalue("gcs_server")) as made:
            yield made
    else:
        with FOLDERS[request.param](tmp_path_factory.mktemp(request.param)) as made:
            yield made
