"""What only Cloud Storage can get wrong."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from pipeline.errors import ObjectNotFound
from pipeline.storage.abilities import Progress
from pipeline.storage.gcs import open_gcs
from pipeline.storage.gcs_resumable import State
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


def test_many_pieces_are_joined_in_order_and_the_list_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gcs_double(tmp_path) as double:
        for name, value in double.environment().items():
            monkeypatch.setenv(name, value)
        store = open_gcs("store", endpoint=double.endpoint)
        store.ensure_bucket()
        progress = store.begin("a/key")
        bodies = [b"%d," % number for number in range(32 * 3 + 2)]
        for body in bodies:
            with store.resume("a/key", progress) as writer:
                writer.write(body)
                progress = writer.checkpoint()
        assert [piece.level for piece in State.of(progress).pieces] == [1, 1, 1, 0, 0]
        early = Progress(0, State(State.of(progress).mark).progress.state)
        made = store.finish("a/key", progress)
        assert b"".join(store.get(made.ref)) == b"".join(bodies)
        assert [each.ref for each in store.list()] == [made.ref]
        store.drop("a/key", early)
        assert store.head("a/key").ref == made.ref
        store.client.close()
