"""The file system under a local bucket: names that cannot leave the root, names that outlive a power cut.

    root/{key}                        an object's bytes, mode 0400, never written again; or what another program put
                                      there, under a name of its own choice
    root/{folder}/.{name}.{version}   its headers, where they are not the default ones
    root/.incoming/{token}            bytes on their way in; {token}.headers: the key and the headers they will have
    root/.incoming/{token}-{n}        the same, of an upload that takes several requests (local_resumable.py)

The version is taken from the file itself, its modification time in nanoseconds and its size, so a foreign hand that
replaces or overwrites a file changes the version too, and nothing has to be written to keep it. Backups must keep
modification times (cp -a, rsync -a and tar all do); without them, pinned reads fail closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import ObjectNotFound, StoreError, StoreUnavailable
from pipeline.storage.base import ObjectRef
from pipeline.storage.streams import PIECE

INCOMING = ".incoming"
HEADERS = ".headers"
SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=@+-]{0,199}")  # no dot first: those names are ours; no "..", no NUL
# What other programs may call the files that they put here: anything but a control character, a slash, or bytes that
# are no text; and no dot first.
FOREIGN = re.compile(r"[^\x00-\x1f\x7f-\x9f/.\ud800-\udfff][^\x00-\x1f\x7f-\x9f/\ud800-\udfff]{0,254}")
VERSION = re.compile(r"[0-9a-f]{1,16}-[0-9a-f]{1,16}")
_OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EACCES}
_CANNOT_COPY = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ETXTBSY}
LOOK = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe that somebody put there holds nobody up
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_COPY = 64 << 20  # bytes a call: a large copy can be interrupted


def is_key(key: str) -> bool:
    """Whether an object may be made under this key: a path below the root and nowhere else, in plain letters."""
    return len(key) <= 1024 and all(SEGMENT.fullmatch(segment) for segment in key.split("/"))


def is_foreign_key(key: str) -> bool:
    """Whether an object may be found under this key: also one that another program has put there."""
    return len(key) <= 1024 and all(FOREIGN.fullmatch(segment) for segment in key.split("/"))


@contextlib.contextmanager
def folder_of(root: Path, key: str) -> Iterator[tuple[int, str]]:
    """The folder that a key lies in, open, and the name in it. No link below the root is followed: whoever may put
    files here may put links here too. Raises ObjectNotFound for what is no key, OSError where there is no such folder.
    """
    if not is_foreign_key(key):
        raise ObjectNotFound
    *folders, name = key.split("/")
    descriptor = os.open(root, _FOLDER)
    try:
        for each in folders:
            inner = os.open(each, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor, name
    finally:
        os.close(descriptor)


def version_of(found: os.stat_result) -> str:
    """The version of the bytes that this file holds now."""
    return version_at(found.st_mtime_ns, found.st_size)


def version_at(stamp: int, size: int) -> str:
    """The version of a file of that modification time, in nanoseconds, and size."""
    return f"{stamp & 0xFFFF_FFFF_FFFF_FFFF:x}-{size:x}"


def has_version(path: Path, version: str) -> bool:
    """Whether a file with that version lies there."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and version_of(found) == version


def modified(found: os.stat_result) -> datetime:
    """When the file was last written."""
    return datetime.fromtimestamp(found.st_mtime, UTC)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the operating system's errors into ours, without the path."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise ObjectNotFound from None
    except OSError as error:
        # A symbolic link where bytes should be (O_NOFOLLOW), or a name that no file can have.
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise ObjectNotFound from None
        kind = StoreUnavailable if error.errno in _OUTSIDE else StoreError
        raise kind(f"The local store: {os.strerror(error.errno or 0)}.") from None


def open_pinned(root: Path, ref: ObjectRef) -> tuple[int, os.stat_result]:
    """A descriptor of exactly this version's bytes. Raises ObjectNotFound, or OSError."""
    with folder_of(root, ref.key) as (folder, name):
        descriptor = os.open(name, LOOK, dir_fd=folder)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or version_of(found) != ref.version:
        os.close(descriptor)
        raise ObjectNotFound
    return descriptor, found


def write_all(descriptor: int, chunk: bytes | bytearray | memoryview) -> None:
    """write(2) until everything is written."""
    written = os.write(descriptor, chunk)
    if written < len(chunk):
        rest = memoryview(chunk)[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def copy_range(source: int, target: int, size: int) -> int:
    """Append up to `size` bytes of `source`, from its beginning, to `target`. Returns how many there were.

    The kernel copies (copy_file_range(2)), and shares the blocks where the file system can; where it cannot, pieces
    are read and written.
    """
    done = 0
    while done < size:
        try:
            count = os.copy_file_range(source, target, min(size - done, _COPY), offset_src=done)
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in _CANNOT_COPY:
                raise
            piece = os.pread(source, min(size - done, PIECE), done)
            write_all(target, piece)
            count = len(piece)
        if not count:
            break
        done += count
    return done


def write_file(path: Path, content: bytes) -> None:
    """A new read-only file, on disk when this returns. Raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, _FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_up(folder: Path, root: Path) -> None:
    """Make a name in `folder` durable, and every folder up to the root with it.

    All of them, always: another process may have made a folder a moment ago without having synced its parent yet.
    One that is clean costs microseconds.
    """
    sync_folder(folder)
    while folder != root:
        folder = folder.parent
        sync_folder(folder)


def link_new(source: Path, target: Path, root: Path) -> None:
    """Give a file its second name, making folders as needed. Raises FileExistsError.

    Folders that became empty are removed by `prune` at any moment, so one that was just made may be gone again.
    """
    for _ in range(50):
        try:
            os.link(source, target, follow_symlinks=False)
        except FileNotFoundError:
            if not source.exists():
                raise
            make_folders(target.parent, root)
        else:
            return
    raise StoreUnavailable("The local store: folders vanish as fast as they are made.")


def make_folders(folder: Path, root: Path) -> None:
    """mkdir -p below the root, which itself must be there."""
    try:
        folder.mkdir(0o700, exist_ok=True)
    except FileNotFoundError:
        if folder == root or root not in folder.parents:
            raise
        make_folders(folder.parent, root)
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(0o700, exist_ok=True)


def prune(folder: Path, root: Path) -> None:
    """Remove the folder and its parents as far as they are empty, and made by `make_folders`: one that somebody else
    made, for a partner to put files into, stays."""
    with contextlib.suppress(OSError):
        while folder != root:
            found = folder.lstat()
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o777 != 0o700:
                return
            folder.rmdir()
            folder = folder.parent
