"""One object of S3 that grows over many requests: a multipart upload, and a small object for what is no part yet.

Every part but the last has 5 MiB or more. What a request leaves below that lies beside the object, under a key of its
own (`piece-{mark}{...}`), until more comes. Such a rest is never changed: each checkpoint writes another one, and the
old one goes once the ledger has shown, by going on from the newer, that it needs it no more.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import secrets
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice, product, takewhile
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from pipeline.errors import AirlockError, ObjectNotFound, PreconditionFailed
from pipeline.storage.abilities import Progress, ResumableWriter, SentPart
from pipeline.storage.base import ObjectHeaders, ObjectRef, ObjectStat
from pipeline.storage.s3_answers import arguments_of, pin_arguments, pin_of
from pipeline.storage.s3_errors import translated
from pipeline.storage.s3_parts import LEAST, completed, created, listed, made_before
from pipeline.storage.s3_writer import Parts, put_part

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from pipeline.storage.streams import Body

_PLAIN = ObjectHeaders()
_SPENT = 16  # old rests that a state names; if there are more, they are found by their prefix in the end
_CHOICES = 256  # combinations that are tried, where a store keeps more than one part of a number


@dataclass(frozen=True, slots=True)
class Rest:
    """An object with the bytes behind the last part."""

    key: str
    version: str
    size: int


@dataclass(frozen=True, slots=True)
class State:
    """What a Progress of S3 holds, as `{upload id}~{JSON}`."""

    mark: str
    upload: str | None = None  # none yet: the object was announced as smaller than a part
    headers: dict[str, Any] | None = None  # for that upload, should it be needed after all
    parts: int = 0
    sent: int = 0  # bytes in parts
    chain: str = ""  # over the parts' ETags: a part that somebody sent again, with other bytes, shows
    rest: Rest | None = None
    spent: tuple[tuple[str, str], ...] = ()  # key and version of the rests before this one

    @classmethod
    def of(cls, progress: Progress) -> State:
        """From a state that this store gave out."""
        kept = json.loads(progress.state.partition("~")[2])
        rest, spent = kept.pop("rest", None), kept.pop("spent", ())
        return cls(**kept, rest=Rest(**rest) if rest else None, spent=tuple((key, version) for key, version in spent))

    @property
    def progress(self) -> Progress:
        """What the ledger keeps."""
        kept = {name: value for name, value in asdict(self).items() if value}
        offset = self.sent + (self.rest.size if self.rest else 0)
        return Progress(offset, f"{self.upload or self.mark}~{json.dumps(kept)}")

    def with_part(self, part: SentPart) -> State:
        """One part more, which holds the rest, if there was one."""
        chain = hashlib.sha256(f"{self.chain} {part.tag}".encode()).hexdigest()[:32]
        return replace(self.with_rest(None), parts=part.number, sent=self.sent + part.size, chain=chain)

    def has_parts(self, parts: Sequence[SentPart]) -> bool:
        """Whether these are the parts that were acknowledged."""
        found = State(self.mark)
        for part in parts:
            found = found.with_part(part)
        return (len(parts), found.parts, found.sent, found.chain) == (self.parts, self.parts, self.sent, self.chain)

    def with_rest(self, rest: Rest | None) -> State:
        """Another rest; the one before is not deleted yet."""
        spent = (*self.spent, (self.rest.key, self.rest.version)) if self.rest else self.spent
        return replace(self, rest=rest, spent=spent[-_SPENT:])


class S3Resumable:
    """The part of S3Store that is Resumable and Sweepable."""

    bucket: str
    client: S3Client
    _parts: Parts
    _part_size: int

    if TYPE_CHECKING:  # what S3Store brings

        def get(self, ref: ObjectRef, start: int = 0, end: int | None = None) -> Body: ...

        def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectStat]: ...

        def _delete(self, key: str, pin: dict[str, str]) -> None: ...

    def begin(self, key: str, headers: ObjectHeaders = _PLAIN, *, size: int | None = None) -> Progress:
        """See Resumable. A multipart upload, but where one PUT will do in the end. A taken key shows at `finish`."""
        mark = secrets.token_hex(8)
        if size is not None and size < LEAST:
            return State(mark, headers=arguments_of(headers, mark)).progress
        return State(mark, self.begin_upload(key, arguments_of(headers, mark))).progress

    def begin_upload(self, key: str, headers: dict[str, Any]) -> str:
        """A new multipart upload; returns S3's id of it."""
        with translated():
            return self.client.create_multipart_upload(Bucket=self.bucket, Key=key, **headers)["UploadId"]

    def resume(self, key: str, progress: Progress) -> ResumableWriter:
        """See Resumable. An upload that is gone may show as late as with its next part.

        S3 cannot keep two writers apart: who sends a part's number last decides what it holds. But nothing of it is
        ever seen: `finish` refuses with PreconditionFailed.
        """
        from pipeline.storage.s3_stretch import S3ResumableWriter

        state = State.of(progress)
        return S3ResumableWriter(self, key, state, self._read(state))

    def _read(self, state: State) -> bytes:
        rest = state.rest
        return b"" if rest is None else b"".join(self.get(ObjectRef(self.bucket, rest.key, rest.version)))

    def put_rest(self, key: str, mark: str, body: bytes) -> Rest:
        """Lay down what is no part yet."""
        place = f"{_rests(key, mark)}{secrets.token_hex(4)}"
        with translated():
            answer = self.client.put_object(Bucket=self.bucket, Key=place, Body=body)
        return Rest(place, pin_of(answer), len(body))

    def forget(self, spent: tuple[tuple[str, str], ...]) -> None:
        """Delete rests that nobody needs. One that stays behind is found again in the end."""
        for key, version in spent:
            with contextlib.suppress(AirlockError), translated():
                self._delete(key, pin_arguments(version))

    def finish(self, key: str, progress: Progress, headers: ObjectHeaders = _PLAIN) -> ObjectStat:
        """See Resumable. Raises PreconditionFailed where a part is not the one that was acknowledged."""
        state, where = State.of(progress), {"Bucket": self.bucket, "Key": key}
        try:
            if state.upload is None:
                made = created(self.client, where, self._read(state), state.mark, headers)
            else:
                parts = self._all_parts(where, state.upload, state)
                made = completed(self.client, where, state.upload, parts, state.mark, headers)
        except ObjectNotFound:  # the parts or the rest are gone: into the object, it may be
            done = made_before(self.client, where, state.mark, progress.offset)
            if done is None:
                raise
            made = done
        with contextlib.suppress(AirlockError):  # the object is there; what stays behind is swept
            self._clear(key, state)
        return made

    def _all_parts(self, where: dict[str, Any], upload: str, state: State) -> Sequence[SentPart]:
        """The acknowledged parts, and the rest as one more."""
        there = listed(self.client, where, upload)
        sent = list(takewhile(lambda each: each[0].number <= state.parts, there))
        for choice in islice(product(*sent), _CHOICES):
            if state.has_parts(choice):
                parts = list(choice)
                break
        else:
            raise PreconditionFailed("A part of the upload is not the one that was acknowledged.")
        if state.rest is not None or not parts:  # S3 completes no upload that has no part
            body, number = self._read(state), state.parts + 1
            last = put_part(self.client, where, upload, number, io.BytesIO(body))
            parts.append(SentPart(number, len(body), last["ETag"].strip('"')))
        return parts

    def drop(self, key: str, progress: Progress) -> None:
        """See Resumable."""
        self._clear(key, State.of(progress))

    def _clear(self, key: str, state: State) -> None:
        if state.upload is not None:
            with contextlib.suppress(ObjectNotFound), translated():
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=state.upload)
        # By prefix: a writer that was killed may have left some that no state names.
        self.forget(tuple((each.ref.key, each.ref.version) for each in self.list(_rests(key, state.mark))))

    def abort_stale_uploads(self, older_than: timedelta, *, spare: Container[str] = ()) -> int:
        """See Sweepable."""
        limit = datetime.now(UTC) - older_than
        count = 0
        with translated():
            for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket):
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] <= limit and upload["UploadId"] not in spare:
                        with contextlib.suppress(ClientError):  # it was finished a moment ago
                            self.client.abort_multipart_upload(
                                Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                            )
                            count += 1
        return count


def _rests(key: str, mark: str) -> str:
    folder, slash, _ = key.rpartition("/")
    return f"{folder}{slash}piece-{mark}"
