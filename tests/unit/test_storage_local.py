"""A local bucket that is killed at any point, attacked by key, or swept."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import Misconfigured, ObjectNotFound, StoreUnavailable
from pipeline.storage.base import LocalFiles, ObjectHeaders, ObjectRef, Provisionable, Sweepable
from pipeline.storage.local import LocalStore

KEY = "standard/acme/0/original"
HEADERS = ObjectHeaders("application/pdf", "attachment")

# Commits one object, and is gone at the n-th call that changes the disk.
KILLED = """
import os, sys
from pathlib import Path
from pipeline.storage.base import ObjectHeaders
from pipeline.storage.local import LocalStore
left = int(sys.argv[2])
def mortal(call):
    def killed(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return call(*args, **kwargs)
    return killed
headers = ObjectHeaders("application/pdf", "attachment")
writer = LocalStore(Path(sys.argv[1])).create("standard/acme/0/original", headers)
writer.write(b"whole")
for name in ("utime", "fsync", "link", "mkdir", "unlink", "open", "write"):
    setattr(os, name, mortal(getattr(os, name)))
writer.commit()
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "bucket")
    made.ensure_bucket()
    return made


def everything(store: LocalStore) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*"))


def test_killed_at_each_point_it_is_all_or_nothing_and_swept(tmp_path: Path) -> None:
    outcomes = set()
    for point in range(60):
        store = LocalStore(tmp_path / f"bucket{point}")
        store.ensure_bucket()
        code = subprocess.run([sys.executable, "-c", KILLED, str(store.root), str(point)], timeout=60).returncode
        try:
            seen = store.head(KEY)
        except ObjectNotFound:
            outcomes.add("nothing")
        else:
            outcomes.add("whole")
            assert seen.headers == HEADERS
            assert b"".join(store.get(seen.ref)) == b"whole"
        store.abort_stale_uploads(timedelta(0))
        assert list((store.root / ".incoming").iterdir()) == []
        hidden = [name for name in everything(store) if "/." in name]
        assert len(hidden) == len(list(store.list())), (point, hidden)
        if code == 0:
            break
        assert code == 9
    else:
        pytest.fail("it never got to its end")
    assert outcomes == {"nothing", "whole"}


@pytest.mark.asvs("5.3.2")
@pytest.mark.cwe(22)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["..", ".", "", "a", ".incoming", "\0", "a\n", "\\", "~", "-x", "%2e", "é", "a" * 300]))
    .map("/".join)
    .filter(lambda key: not all(part == "a" for part in key.split("/")))
)
def test_no_key_leads_out(store: LocalStore, key: str) -> None:
    before = everything(store)
    with pytest.raises(ValueError):
        store.create(key)
    for version in ("1-1", "../x"):
        with pytest.raises(ObjectNotFound):
            store.get(ObjectRef("bucket", key, version))
        assert store.delete(ObjectRef("bucket", KEY, version)) is False
    with pytest.raises(ObjectNotFound):
        store.head(key)
    assert everything(store) == before


@pytest.mark.cwe(59)
def test_a_link_or_a_pipe_is_no_object(store: LocalStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("outside")
    (store.root / "link").symlink_to(secret)
    os.mkfifo(store.root / "pipe")
    assert list(store.list()) == []
    for name in ("link", "pipe"):
        with pytest.raises(ObjectNotFound):
            store.head(name)
        found = (store.root / name).lstat()
        with pytest.raises(ObjectNotFound):
            store.get(ObjectRef("bucket", name, f"{found.st_mtime_ns:x}-{found.st_size:x}"))


def test_bytes_changed_under_a_reader_are_not_handed_out(store: LocalStore) -> None:
    with store.create(KEY) as writer:
        writer.write(bytes(3 << 20))
        made = writer.commit()
    body = store.get(made.ref)
    next(body)
    (store.root / KEY).chmod(0o600)
    with (store.root / KEY).open("r+b") as foreign:
        foreign.write(b"changed")
    with pytest.raises((ObjectNotFound, StoreUnavailable)):
        list(body)


def test_capabilities_and_a_bucket_that_is_not_there(store: LocalStore, tmp_path: Path) -> None:
    assert isinstance(store, LocalFiles)
    assert isinstance(store, Sweepable)
    assert isinstance(store, Provisionable)
    with pytest.raises(Misconfigured):
        LocalStore(tmp_path / "missing").create(KEY)
    with store.create(KEY, HEADERS) as writer:
        writer.write(b"kept")
        made = writer.commit()
    with store.open_local(made.ref) as file:
        assert file.read() == b"kept"
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o400
    assert store.abort_stale_uploads(timedelta(0)) == 0
    assert store.delete(made.ref)
    assert everything(store) == [".incoming"]
