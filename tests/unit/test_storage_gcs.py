"""What only Cloud Storage can get wrong."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from pipeline.errors import ObjectNotFound
from pipeline.storage.gcs import open_gcs
from pipeline.storage.gcs_writer import PART
from tests.servers.gcs_double import gcs_double


def test_a_forgotten_writer_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gcs_double(tmp_path) as double:
        for name, value in double.environment().items():
            monkeypatch.setenv(name, value)
        store = open_gcs("store", endpoint=double.endpoint)
        store.ensure_bucket()
        writer = store.create("key")
        writer.write(bytes(PART + 1))
        assert len(double.sessions) == 1
        del writer
        gc.collect()
        with pytest.raises(ObjectNotFound):
            store.head("key")
        store.client.close()
