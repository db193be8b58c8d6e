"""What is asked about uploads that go to the bucket itself."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ingest_api.problems import InvalidParameters
from ingest_api.uploads.bodies import TEXT
from ingest_api.uploads.digests import sha256_in
from ingest_api.uploads.names import declared_type
from pipeline.documents import UploadMethod
from pipeline.errors import BadRequest
from pipeline.parts import MOST, ClaimedPart
from pipeline.presigned import Wanted

M = TypeVar("M", bound=BaseModel)

ASKABLE = (
    UploadMethod.PUT,
    UploadMethod.POST,
    UploadMethod.MULTIPART,
    UploadMethod.SESSION,
    UploadMethod.TUS,
)


def _digest(value: str) -> str:
    try:
        return sha256_in(value)
    except BadRequest as exc:
        raise ValueError(exc.detail) from None


def _askable(value: object) -> object:
    if value not in {way.value for way in ASKABLE}:
        raise ValueError(f"one of {', '.join(way.value for way in ASKABLE)}")
    return value


def _md5(value: str) -> str:
    if re.fullmatch(r"[0-9a-fA-F]{32}", value):
        return value.lower()
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 16:
        raise ValueError("an MD5 in hexadecimal or Base64")
    return raw.hex()


class UploadRequest(BaseModel):
    """What is to be sent."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "report.pdf", "size": 48213, "type": "application/pdf"}]},
    )

    name: str | None = Field(None, max_length=TEXT, description="The file's name; cleaned, and only ever shown.")
    size: int | None = Field(
        None, ge=0, le=2**63 - 1, strict=True, description="Bytes. Without it fewer ways are possible."
    )
    type: str | None = Field(None, max_length=TEXT, description="The media type: a signed request is for this type.")
    sha256: Annotated[str, AfterValidator(_digest)] | None = Field(
        None,
        max_length=200,
        validation_alias=AliasChoices("sha256", "checksum"),
        description="SHA-256 of the whole, in hexadecimal or Base64: compared before it is cleared.",
    )
    methods: list[Annotated[UploadMethod, BeforeValidator(_askable)]] = Field(
        default=[],
        max_length=20,
        description="The ways that the client can do, the best first: `put`, `post`, `multipart`, `session`, `tus`.",
    )

    def wanted(self) -> Wanted:
        """As the rules take it."""
        return Wanted(self.name, declared_type(self.type), self.size, self.sha256, tuple(self.methods))


class PartIn(BaseModel):
    """A part that was sent. S3's own names (`PartNumber`, `ETag`) are taken, too."""

    number: int = Field(
        ge=1, le=MOST, strict=True, validation_alias=AliasChoices("number", "PartNumber", "partNumber", "part_number")
    )
    etag: str | None = Field(None, max_length=200, validation_alias=AliasChoices("etag", "ETag", "eTag"))
    md5: Annotated[str, AfterValidator(_md5)] | None = Field(
        None, max_length=200, description="Of its bytes, in hexadecimal or Base64."
    )
    size: int | None = Field(None, ge=0, strict=True)

    def claimed(self) -> ClaimedPart:
        """As the rules take it."""
        tag = None if self.etag is None else self.etag.strip().removeprefix("W/").strip('"')
        return ClaimedPart(self.number, tag, self.md5, self.size)


class CompleteRequest(BaseModel):
    """The parts of a multipart upload; without them all that the bucket has are taken."""

    parts: list[PartIn] | None = Field(None, max_length=MOST, validation_alias=AliasChoices("parts", "Parts"))

    def claimed(self) -> list[ClaimedPart] | None:
        """As the rules take them."""
        return None if self.parts is None else [part.claimed() for part in self.parts]


def read_as(model: type[M], members: dict[str, Any]) -> M:
    """The body as this type. Raises InvalidParameters; what was sent is not repeated."""
    try:
        return model.model_validate(members)
    except ValidationError as exc:
        wrong = [
            {"in": "body", "name": ".".join(map(str, item["loc"])), "problem": item["msg"]}
            for item in exc.errors(include_input=False, include_url=False)[:20]
        ]
        detail = "; ".join(f"{item['name']}: {item['problem']}" for item in wrong)
        raise InvalidParameters(f"{detail}.", errors=wrong) from None
