"""One object of Cloud Storage that grows over many requests: a piece for each checkpoint, composed in the end.

Cloud Storage has resumable uploads of its own, but such a session cannot be taken back to the last checkpoint; see
docs/decisions/0010-cloud-storage-by-pieces.md. A piece is an object under a name that nobody else will ever use, so
it never changes, and two writers cannot meet.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from google.cloud.storage import Blob

from pipeline.errors import AirlockError, ObjectNotFound, PreconditionFailed
from pipeline.storage.abilities import Progress
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat, ObjectWriter
from pipeline.storage.gcs_compose import WIDTH, GCSComposable, folder_of, joined
from pipeline.storage.gcs_errors import translated
from pipeline.storage.gcs_writer import CALL

_PLAIN = ObjectHeaders()
ENOUGH = 32 << 20  # bytes from which a piece is worth its own object, where nobody insists


@dataclass(frozen=True, slots=True)
class Piece:
    """An object that holds some of the upload. `level`: how many times it was joined out of others."""

    name: str
    generation: int
    size: int
    level: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """What a Progress of Cloud Storage holds, as `{mark}~{JSON}`. At most WIDTH pieces of each level."""

    mark: str
    pieces: tuple[Piece, ...] = ()

    @classmethod
    def of(cls, progress: Progress) -> State:
        """From a state that this store gave out."""
        mark, _, pieces = progress.state.partition("~")
        return cls(mark, tuple(Piece(*each) for each in json.loads(pieces)))

    @property
    def progress(self) -> Progress:
        """What the ledger keeps."""
        pieces = json.dumps([[piece.name, piece.generation, piece.size, piece.level] for piece in self.pieces])
        return Progress(sum(piece.size for piece in self.pieces), f"{self.mark}~{pieces}")


class GCSResumable(GCSComposable):
    """The part of GCSStore that is Resumable."""

    if TYPE_CHECKING:  # what GCSStore brings

        def create(self, key: str, headers: ObjectHeaders = ..., *, size: int | None = None) -> ObjectWriter: ...

        def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectStat]: ...

        def delete(self, ref: ObjectRef) -> bool: ...

    def begin(self, key: str, headers: ObjectHeaders = _PLAIN, *, size: int | None = None) -> Progress:
        """See Resumable. No request is made: nothing is in the store before the first checkpoint, so nothing of it can
        be gone. A taken key shows at `finish`."""
        return State(secrets.token_hex(8)).progress

    def resume(self, key: str, progress: Progress) -> GCSResumableWriter:
        """See Resumable. Of many pieces only the last one is looked for; another one that is gone shows at `finish`."""
        state = State.of(progress)
        if state.pieces:
            with translated():
                self.piece(key, state.mark, state.pieces[-1]).reload(**CALL)
        return GCSResumableWriter(self, key, state)

    def piece(self, key: str, mark: str, piece: Piece | None = None) -> Blob:
        """A piece of the upload as it is, or the name for a new one."""
        name = piece.name if piece else secrets.token_hex(6)
        return self._bucket.blob(_pieces(key, mark) + name, generation=piece.generation if piece else None)

    def finish(self, key: str, progress: Progress, headers: ObjectHeaders = _PLAIN) -> ObjectStat:
        """See Resumable."""
        state = State.of(progress)
        sources = [self.piece(key, state.mark, piece) for piece in state.pieces]
        try:
            made = self._compose(sources, key, headers, state.mark, lambda: self.piece(key, state.mark))
        except (ObjectNotFound, PreconditionFailed):
            done = self._made_before(key, state.mark, progress.offset)
            if done is None:
                raise
            made = done
        with contextlib.suppress(AirlockError):  # the object is there; what stays behind is swept
            self.drop(key, progress)
        return made

    def drop(self, key: str, progress: Progress) -> None:
        """See Resumable. By prefix: pieces were joined, and a writer that was killed may have left some."""
        for each in self.list(_pieces(key, State.of(progress).mark)):
            self.delete(each.ref)


class GCSResumableWriter:
    """See ResumableWriter. What comes between two checkpoints is one object, written as any other."""

    def __init__(self, store: GCSResumable, key: str, state: State) -> None:
        self._store, self._key, self._state = store, key, state
        self._piece: ObjectWriter | None = None
        self._size = 0
        self._open = True

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """See ResumableWriter."""
        self._check_open()
        if self._piece is None:
            self._piece = self._store.create(self._store.piece(self._key, self._state.mark).name)
        try:
            self._piece.write(chunk)
        except BaseException:
            self.close()
            raise
        self._size += len(chunk)

    def checkpoint(self, *, partial: bool = True) -> Progress:
        """See ResumableWriter."""
        self._check_open()
        if self._piece is not None and self._size and (partial or self._size >= ENOUGH):
            try:
                made = self._piece.commit()
            except BaseException:
                self.close()
                raise
            name = made.ref.key.removeprefix(_pieces(self._key, self._state.mark))
            piece = Piece(name, int(made.ref.version), made.size)
            self._state = State(self._state.mark, (*self._state.pieces, piece))
            self._piece, self._size = None, 0
            with contextlib.suppress(AirlockError):  # then they are joined with the next one
                self._join()
        return self._state.progress

    def _join(self) -> None:
        """Make one piece of the last ones, as soon as they are many, so that the list stays short."""
        while len(last := self._state.pieces[-WIDTH:]) == WIDTH and len({piece.level for piece in last}) == 1:
            mark = self._state.mark
            sources = [self._store.piece(self._key, mark, piece) for piece in last]
            made = joined(self._store.piece(self._key, mark), sources)
            name = made.name.removeprefix(_pieces(self._key, mark))
            one = Piece(name, made.generation, sum(piece.size for piece in last), last[0].level + 1)
            self._state = State(mark, (*self._state.pieces[:-WIDTH], one))

    def close(self) -> None:
        """See ResumableWriter."""
        self._open = False
        piece, self._piece = self._piece, None
        if piece is not None:
            piece.abort()

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("the writer is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pieces(key: str, mark: str) -> str:
    return f"{folder_of(key)}piece-{mark}"
