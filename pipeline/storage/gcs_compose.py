"""Objects of one Cloud Storage bucket joined into one: `compose`, up to 32 at once. See Composable."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from google.cloud.storage import Blob, Bucket

from pipeline.errors import AirlockError, ObjectExists, ObjectNotFound, PreconditionFailed
from pipeline.storage.abilities import mark_of
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat
from pipeline.storage.gcs_errors import translated
from pipeline.storage.gcs_writer import CALL, MARK, dress

_PLAIN = ObjectHeaders()
WIDTH = 32  # the most that one call joins


class GCSComposable:
    """The part of GCSStore that is Composable."""

    bucket: str
    _bucket: Bucket

    if TYPE_CHECKING:  # what GCSStore brings

        def _pinned(self, ref: ObjectRef) -> Blob: ...

        def _stat(self, blob: Blob) -> ObjectStat: ...

    def compose(self, sources: Sequence[ObjectRef], key: str, headers: ObjectHeaders = _PLAIN) -> ObjectStat:
        """See Composable. The store checks each source's generation. Raises ValueError for a source of another
        bucket."""
        mark = mark_of(sources, self.bucket)
        if (done := self._made_before(key, mark)) is not None:
            return done
        temporary: list[Blob] = []

        def between() -> Blob:
            temporary.append(self._bucket.blob(f"{folder_of(key)}piece-{secrets.token_hex(12)}"))
            return temporary[-1]

        try:
            return self._compose([self._pinned(ref) for ref in sources], key, headers, mark, between)
        except (ObjectNotFound, PreconditionFailed):  # another run may have been faster, and its caller cleared away
            if (done := self._made_before(key, mark)) is not None:
                return done
            raise
        finally:
            for blob in temporary:
                with contextlib.suppress(AirlockError), translated():
                    blob.delete(**CALL)

    def _compose(
        self, sources: Sequence[Blob], key: str, headers: ObjectHeaders, mark: str, between: Callable[[], Blob]
    ) -> ObjectStat:
        """Join these generations, create-only. `between` names an object for what is joined on the way, where there
        are many; the caller removes it. Raises ObjectNotFound, PreconditionFailed."""
        while len(sources) > WIDTH:
            sources = [joined(between(), sources[at : at + WIDTH]) for at in range(0, len(sources), WIDTH)]
        target = self._bucket.blob(key)
        dress(target, headers, mark)
        with translated():
            if sources:
                _join(target, sources)
            else:
                target.upload_from_string(b"", content_type=headers.content_type, if_generation_match=0, **CALL)
        return self._stat(target)

    def _made_before(self, key: str, mark: str, size: int | None = None) -> ObjectStat | None:
        """The object under the key, if an earlier run of the same made it; None where there is none. Raises
        ObjectExists where something else made it."""
        found = self._bucket.blob(key)
        try:
            with translated():
                found.reload(**CALL)
        except ObjectNotFound:
            return None
        if (found.metadata or {}).get(MARK) != mark or size not in (None, found.size):
            raise ObjectExists
        return self._stat(found)


def joined(target: Blob, sources: Sequence[Blob]) -> Blob:
    """An object under a name that nobody else will ever use."""
    try:
        with translated():
            _join(target, sources)
    except PreconditionFailed:  # a source is another one by now; or the first reply was lost, and the SDK asked again
        try:
            with translated():
                target.reload(**CALL)
        except ObjectNotFound:
            raise PreconditionFailed from None
    return target


def _join(target: Blob, sources: Sequence[Blob]) -> None:
    generations = [source.generation for source in sources]
    call: dict[str, Any] = {**CALL, "if_generation_match": 0, "if_source_generation_match": generations}
    target.compose(list(sources), **call)


def folder_of(key: str) -> str:
    """What comes before the last name of a key, with its slash."""
    folder, slash, _ = key.rpartition("/")
    return folder + slash
