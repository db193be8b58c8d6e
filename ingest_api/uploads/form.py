"""multipart/form-data (RFC 7578) from the raw stream: file parts flow through, text fields are counted, and kept only
where somebody wants them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    content_disposition_unquote,
    parse_options_header,
)

from ingest_api.problems import UnsupportedContent
from ingest_api.uploads.digests import Checks, digests_in
from ingest_api.uploads.landing import Landing, too_large
from ingest_api.uploads.names import declared_type, name_in_disposition
from ingest_api.web import Threads
from pipeline.errors import BadRequest, EmptyFile, NoFile, TooLarge
from pipeline.names import clean_name

FIELDS = 100  # text fields in one form
FIELD_BYTES = 64 << 10  # of text fields in one form, all together
HEADER_BYTES = 64 << 10  # one header line of a part: room for any file name, which is cut later
HEADERS = 16  # header lines of a part
BOUNDARY = 70  # RFC 2046


def boundary_of(content_type: str | None) -> str | None:
    """The boundary if this is a form, else None. Raises BadRequest for a form without a usable one."""
    kind, options = parse_options_header(content_type or "", unquote=content_disposition_unquote)
    if kind != "multipart/form-data":
        if kind.startswith("multipart/"):
            raise BadRequest("Of the multipart types only multipart/form-data is taken; send other bodies raw.")
        return None
    boundary: str = options.get("boundary", "")
    if not 0 < len(boundary) <= BOUNDARY or not boundary.isascii() or not boundary.isprintable():
        raise BadRequest(f"The Content-Type names no boundary of 1 to {BOUNDARY} printable characters.")
    return boundary


class Files(Protocol):
    """Where the files of a form go."""

    threads: Threads
    max_bytes: int  # of one file
    max_files: int
    max_form_bytes: int

    async def open(
        self, *, field: str, name: str | None, declared: str | None, size: int | None, checks: Checks
    ) -> Landing:
        """A file begins; the one before has come to its end."""
        ...


async def read_form(
    stream: AsyncIterator[bytes],
    boundary: str,
    files: Files,
    whole: Checks,
    fields: dict[str, str] | None = None,
    *,
    least: int = 1,
) -> None:
    """Have every file part land. `whole` is shown every byte of the form; `fields` is given the text fields as they
    come (of several with one name the last). `least`: how many files there must be.

    An empty file part refuses the whole form: of several files, the sender could not tell from a 202 which one is
    missing, and half a form accepted would make a retry store the other half twice.

    Raises:
        BadRequest: not a form, or cut off. NoFile, EmptyFile, TooLarge: say which part and which limit.
    """
    form = _Parts(files, fields)
    parser = PushMultipartParser(
        boundary,
        max_header_size=HEADER_BYTES,
        max_header_count=HEADERS,
        max_segment_count=files.max_files + FIELDS + 1,
    )
    taken = 0
    try:
        async for chunk in stream:
            taken += len(chunk)
            if taken > files.max_form_bytes:
                raise too_large(files.max_form_bytes, "form_bytes")
            if whole.wanted and chunk:
                await files.threads.hashing(whole.update, chunk)
            if chunk:
                for event in parser.parse(chunk):
                    await form.take(event)
        parser.close()
    except ParserLimitReached as exc:
        raise TooLarge("A part of the form has too many or too long headers, or there are too many parts.") from exc
    except MultipartError as exc:
        raise BadRequest(f"The form cannot be read: {_plain(exc)}") from exc
    if form.files < least:
        raise NoFile('The form has no file. A part is a file if it has a filename: curl -F "file=@report.pdf".')


class _Parts:
    """Turns the parser's events into landings."""

    def __init__(self, files: Files, kept: dict[str, str] | None) -> None:
        self.files = 0
        self._to = files
        self._kept = kept
        self._text = bytearray()
        self._fields = 0
        self._field_bytes = 0
        self._part = -1  # index of the part that is being read, fields included
        self._segment: MultipartSegment | None = None
        self._landing: Landing | None = None

    async def take(self, event: MultipartSegment | bytes | None) -> None:
        """A part begins, goes on, or ends."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            self._end()
        elif self._segment is not None and self._segment.filename is not None:
            if self._landing is None:
                self._landing = await self._open(self._segment)
            await self._landing.feed(event)
        else:
            self._field_bytes += len(event)
            if self._field_bytes > FIELD_BYTES:
                raise too_large(FIELD_BYTES, "bytes in text fields")
            if self._kept is not None:
                self._text += event

    def _begin(self, segment: MultipartSegment) -> None:
        self._part += 1
        self._segment, self._landing = segment, None
        self._text.clear()
        disposition = segment.header("Content-Disposition", "")
        if segment.filename is None and "filename*" in disposition.lower():
            segment.filename = name_in_disposition(disposition)
        if segment.filename is None:
            self._fields += 1
            if self._fields > FIELDS:
                raise too_large(FIELDS, "text fields")

    async def _open(self, segment: MultipartSegment) -> Landing:
        self.files += 1
        if self.files > self._to.max_files:
            raise too_large(self._to.max_files, "files")
        headers = {name.lower(): value for name, value in segment.headerlist}
        if headers.get("content-transfer-encoding", "binary").strip().lower() not in {"binary", "8bit", "7bit"}:
            raise UnsupportedContent("A part is encoded by Content-Transfer-Encoding; send its bytes as they are.")
        # The parser made sure that it is a number, and will hold the part to it.
        announced = int(headers["content-length"]) if "content-length" in headers else None
        if announced is not None and announced > self._to.max_bytes:
            raise too_large(self._to.max_bytes)
        name = segment.filename
        if "filename*" in headers.get("content-disposition", "").lower():
            name = name_in_disposition(headers["content-disposition"])
        return await self._to.open(
            field=(segment.name or "")[:255],
            name=clean_name(name),
            declared=declared_type(headers.get("content-type")),
            size=announced,
            checks=Checks(digests_in(headers)),
        )

    def _end(self) -> None:
        segment, self._segment = self._segment, None
        # A browser sends filename="" and no bytes for a file input that was left alone: that is no file.
        if segment is not None and segment.filename and self._landing is None:
            raise EmptyFile(
                f"Part {self._part + 1} of the form is an empty file; nothing of this form was kept.",
                part_index=self._part,
            )
        if self._kept is not None and segment is not None and segment.filename is None:
            self._kept[segment.name or ""] = self._text.decode("utf-8", "replace")


def _plain(error: MultipartError) -> str:
    # Only the parser's own words: further arguments may quote what was sent.
    return f"{str(error.args[0]).rstrip('.')}." if error.args else "it breaks the rules of RFC 7578."
