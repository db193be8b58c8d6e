"""A local bucket that is killed at any point, attacked by key, or swept."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import Misconfigured, ObjectNotFound, StoreUnavailable
from pipeline.storage import local_compose, local_resumable
from pipeline.storage.abilities import Progress, token_of
from pipeline.storage.base import LocalFiles, ObjectHeaders, ObjectRef, Provisionable, Sweepable
from pipeline.storage.local import LocalStore
from pipeline.storage.local_writer import publish

KEY = "standard/acme/0/original"
HEADERS = ObjectHeaders("application/pdf", "attachment")

# Commits one object, and is gone at the n-th call that changes the disk.
KILLED = """
import os, sys
from pathlib import Path
from pipeline.storage.abilities import Progress, token_of
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
for name in ("utime", "fsync", "link", "mkdir", "unlink", "open", "write", "truncate", "fchmod"):
    setattr(os, name, mortal(getattr(os, name)))
writer.commit()
"""

# The same for an upload that came in several requests.
FINISHED = KILLED.replace(
    """writer = LocalStore(Path(sys.argv[1])).create("standard/acme/0/original", headers)
writer.write(b"whole")
""",
    """from pipeline.storage.abilities import Progress
store, progress = LocalStore(Path(sys.argv[1])), Progress(5, sys.argv[3])
""",
).replace("writer.commit()", 'store.finish("standard/acme/0/original", progress, headers)')


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


def test_killed_at_each_point_of_a_finish_the_next_one_gives_the_same(tmp_path: Path) -> None:
    outcomes = set()
    for point in range(60):
        store = LocalStore(tmp_path / f"bucket{point}")
        store.ensure_bucket()
        progress = store.begin(KEY, HEADERS)
        with store.resume(KEY, progress) as writer:
            writer.write(b"whole")
            progress = writer.checkpoint()
            writer.write(b" and more that nobody acknowledged")
        script = [sys.executable, "-c", FINISHED, str(store.root), str(point), progress.state]
        code = subprocess.run(script, timeout=60).returncode
        try:
            seen = store.head(KEY)
        except ObjectNotFound:
            outcomes.add("nothing")
        else:
            outcomes.add("whole")
            assert seen.headers == HEADERS
            assert b"".join(store.get(seen.ref)) == b"whole"
        made = store.finish(KEY, progress, HEADERS)
        assert store.head(KEY) == made
        assert made.ref == store.finish(KEY, progress, HEADERS).ref
        assert b"".join(store.get(made.ref)) == b"whole"
        assert (store.root / KEY).stat().st_mode & 0o777 == 0o400
        assert list((store.root / ".incoming").iterdir()) == []
        assert len([name for name in everything(store) if "/." in name]) == 1
        if code == 0:
            break
        assert code == 9
    else:
        pytest.fail("it never got to its end")
    assert outcomes == {"nothing", "whole"}


def test_a_finished_file_is_written_into_by_nobody(store: LocalStore) -> None:
    progress = store.begin(KEY)
    late = store.resume(KEY, progress)
    late.write(b"before")
    progress = late.checkpoint()
    made = store.finish(KEY, progress)  # `late` still has its file open
    late.write(b"behind")
    late.checkpoint()
    late.close()
    assert b"".join(store.get(made.ref)) == b"before"
    assert store.finish(KEY, progress).ref == made.ref
    with pytest.raises(ObjectNotFound):
        store.resume(KEY, progress)
    assert list((store.root / ".incoming").iterdir()) == []


def test_a_file_that_has_become_an_object_is_not_written_into(store: LocalStore) -> None:
    progress = store.begin(KEY)
    with store.resume(KEY, progress) as writer:
        writer.write(b"whole")
        progress = writer.checkpoint()
    [file] = (store.root / ".incoming").iterdir()
    (store.root / KEY).parent.mkdir(parents=True)
    (store.root / KEY).hardlink_to(file)  # a finish that was killed before it took the first name away
    with pytest.raises(ObjectNotFound):
        store.resume(KEY, progress)


def test_a_file_that_becomes_an_object_before_it_is_locked_is_not_written_into(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever resumes is held up between opening the file and locking it, for longer than its lease."""
    progress = store.begin(KEY)
    with store.resume(KEY, progress) as writer:
        writer.write(b"half")
        before = writer.checkpoint()
        writer.write(b"whole")
        progress = writer.checkpoint()
    lock = local_resumable._locked

    def held_up(descriptor: int) -> bool:
        monkeypatch.setattr(local_resumable, "_locked", lock)
        store.finish(KEY, progress)
        return lock(descriptor)

    monkeypatch.setattr(local_resumable, "_locked", held_up)
    with pytest.raises(ObjectNotFound):
        store.resume(KEY, before)
    assert b"".join(store.get(store.head(KEY).ref)) == b"halfwhole"


def test_a_piece_that_waited_for_long_is_joined_although_somebody_sweeps(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "standard/acme/0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55/"
    with store.create(f"{key}piece-0") as writer:
        writer.write(b"whole")
        piece = writer.commit()
    swept = []

    def in_between(*args: object, **more: object) -> object:
        swept.append(store.abort_stale_uploads(timedelta(0)))
        return publish(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(local_compose, "publish", in_between)
    made = store.compose([piece.ref], f"{key}original")
    assert swept == [1]
    assert b"".join(store.get(made.ref)) == b"whole"
    assert list((store.root / ".incoming").iterdir()) == []


@pytest.mark.parametrize("state", ["", "~", "../../x~0~1", "0" * 32, "0" * 32 + "~0~1", "0" * 32 + "~0~x"])
def test_a_state_that_never_was(store: LocalStore, state: str) -> None:
    before = everything(store)
    for call in (store.resume, store.finish):
        with pytest.raises(ObjectNotFound):
            call(KEY, Progress(0, state))
    assert everything(store) == before


def test_the_sweeper_spares_what_somebody_goes_on_with(store: LocalStore) -> None:
    mine, theirs = store.begin(KEY), store.begin("standard/acme/1/original")
    with store.resume(KEY, mine) as one, store.resume(KEY, mine) as two:  # a second file of the same upload
        one.write(b"one")
        two.write(b"two")
        mine = two.checkpoint()
    assert store.abort_stale_uploads(timedelta(hours=1)) == 0
    assert store.abort_stale_uploads(timedelta(0), spare={token_of(mine.state)}) == 1
    with pytest.raises(ObjectNotFound):
        store.resume(KEY, theirs)
    assert b"".join(store.get(store.finish(KEY, mine).ref)) == b"two"
    assert list((store.root / ".incoming").iterdir()) == []


NAMES = [
    "Invoice No. 7 [final] (2).pdf", "報價單.pdf", "a'b\"c`d$e;f&g|h<i>j.txt", "-rf", "~", "100%.csv", "%2e%2e",
    "a\\b", "cafe\u0301.txt", "\u202etxt.exe", "#?x=1&y", "\U0001f4c4.txt", " ", "x" * 255,
]  # fmt: skip


@pytest.mark.asvs("5.3.2")
@pytest.mark.parametrize("name", NAMES)
def test_what_another_program_put_there_can_be_used(store: LocalStore, name: str) -> None:
    folder = store.root / "drop" / "acme" / "to us [2026]"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"dropped")
    [seen] = store.list("drop/acme/")
    assert seen.ref.key == f"drop/acme/to us [2026]/{name}"
    assert store.head(seen.ref.key) == seen
    assert b"".join(store.get(seen.ref)) == b"dropped"
    with store.open_local(seen.ref) as file:
        assert file.read() == b"dropped"
    made = store.compose([seen.ref], KEY)
    with (folder / name).open("r+b") as foreign:  # it is still theirs
        foreign.write(b"changed")
    assert b"".join(store.get(made.ref)) == b"dropped"
    assert store.delete(seen.ref) is False
    assert store.delete(store.head(seen.ref.key).ref) is True
    assert list(store.list("drop/")) == []
    assert folder.is_dir()  # they will want to put the next one there


@pytest.mark.cwe(59)
@pytest.mark.cwe(22)
def test_what_another_program_put_there_leads_nowhere_else(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deeper").mkdir(parents=True, mode=0o700)
    (outside / "secret").write_text("outside")
    found = (outside / "secret").stat()
    version = f"{found.st_mtime_ns:x}-{found.st_size:x}"
    folder = store.root / "drop" / "acme"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(outside, target_is_directory=True)
    (folder / "file").symlink_to(outside / "secret")
    (folder / ".hidden").write_text("hidden")
    (folder / "a\nb").write_text("a name with a line break")
    (folder / os.fsdecode(b"\xff.txt")).write_text("a name that is no text")
    assert list(store.list()) == []
    keys = ["link/secret", "link", "file", ".hidden", "a\nb", "../../../outside/secret", "./x", "x/../link/secret"]
    for key in [f"drop/acme/{each}" for each in [*keys, "x" * 256, "\u5831" * 255, "link/deeper/x"]]:
        ref = ObjectRef("bucket", key, version)
        with pytest.raises(ObjectNotFound):
            store.head(key)
        with pytest.raises(ObjectNotFound):
            store.get(ref)
        with pytest.raises(ObjectNotFound):
            store.open_local(ref)
        with pytest.raises(ObjectNotFound):
            store.compose([ref], KEY)
        assert store.delete(ref) is False
    assert (outside / "secret").read_text() == "outside"
    assert (outside / "deeper").is_dir()


@pytest.mark.parametrize(
    "forged",
    [b"", b"[]", b"{", b"\xff", b'{"content_type": 7}', b"[" * 60_000, b'{"content_type": "' + b"x" * (1 << 20), None],
    ids=["empty", "list", "cut", "binary", "number", "deep", "long", "pipe"],
)
@pytest.mark.cwe(400)
def test_headers_that_another_program_put_there_do_no_harm(store: LocalStore, forged: bytes | None) -> None:
    folder = store.root / "drop"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"dropped")
    beside = folder / f".a.txt.{store.head('drop/a.txt').ref.version}"
    if forged is None:
        os.mkfifo(beside)
    else:
        beside.write_bytes(forged)
    assert store.head("drop/a.txt").headers == ObjectHeaders()


@pytest.mark.cwe(400)
@pytest.mark.parametrize("kind", ["closed", "socket"])
def test_headers_that_cannot_be_opened_hide_no_file(
    store: LocalStore, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.root / "drop"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"dropped")
    version = store.head("drop/a.txt").ref.version
    beside, opened = folder / f".a.txt.{version}", os.open
    os.mknod(beside, stat.S_IFREG if kind == "closed" else stat.S_IFSOCK | 0o600)

    def refused(path: str, *args: object, **more: object) -> int:
        if path == beside.name and kind == "closed":  # root may open it anyway
            raise PermissionError(errno.EACCES, "closed")
        return opened(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    assert store.head("drop/a.txt").headers == ObjectHeaders()


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
