"""Objects of one S3 bucket joined into one. See Composable.

What is large enough to be a part is copied by S3 itself; what is smaller is read, joined to a part and sent.
"""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import AirlockError, ObjectNotFound, PreconditionFailed, StoreUnavailable
from pipeline.storage.abilities import SentPart, mark_of
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat
from pipeline.storage.s3_answers import arguments_of
from pipeline.storage.s3_copy import source_of
from pipeline.storage.s3_errors import translated
from pipeline.storage.s3_parts import LEAST, MOST, completed, created, made_before
from pipeline.storage.s3_writer import IN_FLIGHT, Parts, put_part

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from pipeline.storage.streams import Body

_PLAIN = ObjectHeaders()
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Span:
    """Some bytes of one source."""

    source: ObjectStat
    start: int
    end: int


def plan(sources: Sequence[ObjectStat], most: int) -> Iterator[list[Span]]:
    """The parts, in order. A part of one span, LEAST or larger, can be copied; one of several must be read.

    Every part but the last has LEAST bytes or more, one that is copied at most `most`, one that is read less than twice
    LEAST. Where that would be too many parts, all three are as much larger as it takes.
    """
    least = max(LEAST, -(-sum(source.size for source in sources) // (MOST - 1)))
    most = max(most, least)
    waiting: list[Span] = []
    held = 0
    for source in sources:
        at = 0
        while at < source.size:
            left = source.size - at
            if not held and left >= least:
                size = min(left, most)
                yield [Span(source, at, at + size)]
                at += size
                continue
            size = min(left, least - held)
            if left - size < least:  # it would be too small for a part of its own
                size = left
            waiting.append(Span(source, at, at + size))
            at, held = at + size, held + size
            if held >= least:
                yield waiting
                waiting, held = [], 0
    if waiting:
        yield waiting


class S3Composable:
    """The part of S3Store that is Composable."""

    bucket: str
    client: S3Client
    _parts: Parts
    _copy_part: int

    if TYPE_CHECKING:  # what S3Store brings

        def get(self, ref: ObjectRef, start: int = 0, end: int | None = None) -> Body: ...

        def head(self, key: str, version: str | None = None) -> ObjectStat: ...

    def compose(self, sources: Sequence[ObjectRef], key: str, headers: ObjectHeaders = _PLAIN) -> ObjectStat:
        """See Composable. Raises ValueError for a source of another bucket."""
        mark, where = mark_of(sources, self.bucket), {"Bucket": self.bucket, "Key": key}
        if (done := made_before(self.client, where, mark)) is not None:
            return done
        try:
            stats: list[ObjectStat] = []
            self._in_flight((partial(self.head, ref.key, ref.version) for ref in sources), stats.append)
            if sum(stat.size for stat in stats) < LEAST:
                body = b"".join(piece for stat in stats for piece in self.get(stat.ref))
                return created(self.client, where, body, mark, headers)
            return self._joined(where, stats, mark, headers)
        except (ObjectNotFound, PreconditionFailed):  # another run may have been faster, and its caller cleared away
            if (done := made_before(self.client, where, mark)) is not None:
                return done
            raise

    def _joined(
        self, where: dict[str, Any], sources: Sequence[ObjectStat], mark: str, headers: ObjectHeaders
    ) -> ObjectStat:
        with translated():
            upload = self.client.create_multipart_upload(**where, **arguments_of(headers, mark))["UploadId"]
        parts = enumerate(plan(sources, self._copy_part), 1)
        sent: list[SentPart] = []
        try:
            self._in_flight((partial(self._part, where, upload, number, spans) for number, spans in parts), sent.append)
            return completed(self.client, where, upload, sent, mark, headers)
        finally:  # of one that was completed there is nothing left
            with contextlib.suppress(AirlockError), translated():
                self.client.abort_multipart_upload(**where, UploadId=upload)

    def _part(self, where: dict[str, Any], upload: str, number: int, spans: Sequence[Span]) -> SentPart:
        size = sum(span.end - span.start for span in spans)
        if len(spans) == 1 and size >= LEAST:
            tag = self._copied(where, upload, number, spans[0])
        else:
            body = io.BytesIO()
            for span in spans:
                for piece in self.get(span.source.ref, span.start, span.end):
                    body.write(piece)
            tag = put_part(self.client, where, upload, number, body)["ETag"]
        return SentPart(number, size, tag.strip('"'))

    def _copied(self, where: dict[str, Any], upload: str, number: int, span: Span) -> str:
        # S3 takes a range only of what is larger than a part.
        whole = span.end - span.start == span.source.size
        span_of: Any = {} if whole else {"CopySourceRange": f"bytes={span.start}-{span.end - 1}"}
        with translated():
            answer: Any = self.client.upload_part_copy(
                **where, **source_of(span.source), **span_of, UploadId=upload, PartNumber=number
            )
        if "ETag" not in answer.get("CopyPartResult", {}):  # S3 may answer 200 and say in the body that it failed
            raise StoreUnavailable("S3 did not say whether a part was copied.")
        tag: str = answer["CopyPartResult"]["ETag"]
        return tag

    def _in_flight(self, calls: Iterator[Callable[[], _T]], take: Callable[[_T], object]) -> None:
        """Run the calls, a few at once, and take their results in order."""
        pending: deque[Future[_T]] = deque()
        try:
            for call in calls:
                while len(pending) >= IN_FLIGHT:
                    take(pending.popleft().result())
                pending.append(self._parts.send(call))
            while pending:
                take(pending.popleft().result())
        finally:
            for future in pending:  # none may land after an abort
                with contextlib.suppress(AirlockError):
                    future.result()
