"""The pieces of an upload that come in any order, noted as they come."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import bindparam, delete, insert, select

from pipeline.documents import UploadPart, UploadState
from pipeline.errors import Conflict
from pipeline.ledger.models import upload_parts, uploads
from pipeline.ledger.queries.base import chunks
from pipeline.ledger.queries.uploads import END, UploadQueries
from pipeline.ledger.rows import upload_part_columns, upload_part_of

PARTS = select(upload_parts).where(upload_parts.c.upload_id == bindparam("upload_id")).order_by(upload_parts.c.number)
DROP_PART = delete(upload_parts).where(
    upload_parts.c.upload_id == bindparam("its_id"), upload_parts.c.number == bindparam("its_number")
)
DROP_PARTS = delete(upload_parts).where(upload_parts.c.upload_id == bindparam("its_id"))


class UploadPartQueries(UploadQueries):
    """A write takes the upload's row first: of two at once one waits, and neither adds to an upload that is over."""

    def put_upload_part(
        self, upload_id: UUID, part: UploadPart, *, expires_in: timedelta | None = None
    ) -> UploadPart | None:
        """Note a piece, in place of the one of this number that was there (returned, for its object to be removed). The
        upload's offset is then how many bytes all of its pieces have.

        Conflict: the upload is not open.
        """
        self._must_be_open(upload_id)
        if expires_in is not None:
            self.keep_upload(upload_id, expires_in=expires_in)
        before = self.upload_part(upload_id, part.number)
        self._write(DROP_PART, {"its_id": upload_id, "its_number": part.number})
        self._write(insert(upload_parts), upload_part_columns(upload_id, part))
        more = part.size - (before.size if before else 0)
        self._write(END.values(offset=uploads.c.offset + more), {"its_id": upload_id})
        return before

    def upload_part(self, upload_id: UUID, number: int) -> UploadPart | None:
        """The piece that is noted under this number."""
        row = self._read(PARTS.where(upload_parts.c.number == number), {"upload_id": upload_id}).one_or_none()
        return None if row is None else upload_part_of(row)

    def upload_parts(self, upload_id: UUID) -> list[UploadPart]:
        """The pieces that are noted, by number."""
        return [upload_part_of(row) for row in self._read(PARTS, {"upload_id": upload_id})]

    def set_upload_parts(self, upload_id: UUID, parts: list[UploadPart]) -> None:
        """Note exactly these pieces: what the store holds, as it was listed. Conflict: the upload is not open."""
        self._must_be_open(upload_id)
        self._write(DROP_PARTS, {"its_id": upload_id})
        for some in chunks(parts):
            self._write(insert(upload_parts), [upload_part_columns(upload_id, one) for one in some])

    def _must_be_open(self, upload_id: UUID) -> None:
        upload = self.hold_upload(upload_id)
        if upload.state is not UploadState.OPEN:
            raise Conflict(f"the upload is {upload.state}: nothing can be added to it", state=upload.state)
