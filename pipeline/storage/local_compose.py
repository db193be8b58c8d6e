"""Files of one folder joined into one. See Composable."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import ObjectExists, ObjectNotFound, PreconditionFailed
from pipeline.storage import local_files as files
from pipeline.storage.abilities import mark_of
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat
from pipeline.storage.keys import parse
from pipeline.storage.local_writer import LocalWriter, Target, kept_with, note_path, publish

if TYPE_CHECKING:
    from pipeline.storage.local import LocalStore


def compose(store: LocalStore, sources: Sequence[ObjectRef], key: str, headers: ObjectHeaders) -> ObjectStat:
    """See Composable. Raises ValueError for a key that is no relative path, or a source of another bucket."""
    target = Target(store.root, store.bucket, key, headers, mark_of(sources, store.bucket))
    if not files.is_key(key):
        raise ValueError("not a key that this store can hold")
    if (done := _made(store, target)) is not None:
        return done
    try:
        if len(sources) == 1 and (done := _linked(store, sources[0], target)) is not None:
            return done
        with LocalWriter(store.root, store.bucket, key, headers, target.mark) as writer:
            for source in sources:
                _append(store, source, writer)
            return writer.commit()
    except (ObjectExists, ObjectNotFound):  # another run may have been faster, and its caller have cleared away
        if (done := _made(store, target)) is not None:
            return done
        raise


def _append(store: LocalStore, source: ObjectRef, writer: LocalWriter) -> None:
    with store.open_local(source) as body:
        writer.copy_in(body.fileno(), os.fstat(body.fileno()).st_size)
        if files.version_of(os.fstat(body.fileno())) != source.version:  # a foreign hand wrote into it
            raise PreconditionFailed


def _linked(store: LocalStore, source: ObjectRef, target: Target) -> ObjectStat | None:
    """Give the source's bytes a second name. None where that cannot be: the file system does not, or the file is one
    that somebody else put there, and may have open for writing. Its mode says nothing: whoever makes a file chooses it,
    and may set its time back, too; only under a key of ours nobody else puts any."""
    if parse(source.key) is None:
        return None
    temp = store.root / files.INCOMING / secrets.token_hex(16)
    try:
        try:
            with files.folder_of(store.root, source.key) as (folder, name):
                os.link(name, temp, src_dir_fd=folder, follow_symlinks=False)
            descriptor = os.open(temp, files.LOOK)
        except (OSError, ObjectNotFound):
            return None
        try:
            found = os.fstat(descriptor)
            if not files.has_version(temp, source.version) or found.st_mode & 0o777 != 0o400:
                return None
            try:
                with files.translated():
                    return publish(temp, descriptor, target, stamp=found.st_mtime_ns, again=True)
            except ObjectNotFound:  # it is as old as the source: a sweeper has taken it for left behind
                return None
        finally:
            os.close(descriptor)
    finally:
        for path in (temp, note_path(temp)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _made(store: LocalStore, target: Target) -> ObjectStat | None:
    """What an earlier run made. Raises ObjectExists where the key holds anything else."""
    try:
        there = store.head(target.key)
        with files.translated(), files.folder_of(store.root, target.key) as (folder, name):
            mark = kept_with(folder, name, there.ref.version).get("mark")
    except ObjectNotFound:
        return None
    if mark != target.mark:
        raise ObjectExists
    with files.translated():
        files.sync_up(target.path.parent, store.root)  # it may have been killed before it did
    return there
