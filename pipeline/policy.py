"""What is accepted, how far it is looked into, what is read and how long it is kept: one typed document."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from enum import StrEnum
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import Misconfigured
from pipeline.storage.keys import NAME, is_class

UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _size(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+) ?([KMGT]iB|B)", value)
        if match is None:
            raise ValueError("a size is a number of bytes or a string such as '256 MiB'")
        return int(match[1]) * UNITS[match[2]]
    return value


Size = Annotated[int, BeforeValidator(_size), Field(ge=1)]
MediaType = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Accept(_Section):
    """The media types that may become available, as detected."""

    types: frozenset[MediaType] = Field(min_length=1)


class Limits(_Section):
    """Bounds on one upload and on what is inside it. Past any of them a verdict is never CLEAN."""

    bytes: Size
    files: int = Field(100, ge=1, le=1000)
    unpacked_bytes: Size
    members: int = Field(ge=1)
    depth: int = Field(ge=1, le=32)
    pixels: int = Field(ge=1)


class Scan(_Section):
    """Which scanners must say CLEAN, and how old their signatures may be."""

    required: frozenset[Literal["mime", "structure", "clamav"]] = Field(min_length=1)
    max_signature_age_days: float = Field(gt=0)

    @field_validator("required")
    @classmethod
    def _has_an_engine(cls, names: frozenset[str]) -> frozenset[str]:
        # Type and structure checks can refuse; only an engine that knows malware can say clean.
        if "clamav" not in names:
            raise ValueError("an antivirus engine must be among them: add 'clamav'")
        return names


class OcrMode(StrEnum):
    """Whether a document without recognized text may become available."""

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Recognize(_Section):
    """What is read, in which languages, within which bounds."""

    mode: OcrMode
    languages: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{2,32}$")], ...] = Field(min_length=1)
    max_pages: int = Field(ge=1)
    page_seconds: float = Field(gt=0)
    document_seconds: float = Field(gt=0)
    searchable_pdf: bool = False


class Retention(_Section):
    """How long things are kept. The class's name is the first part of every key."""

    name: str = Field(alias="class", pattern=f"^{NAME.pattern}$")
    days: float = Field(gt=0)
    rejected_days: float = Field(ge=0)

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if not is_class(name):
            raise ValueError(f"{name} is where others put their files: a class needs another name")
        return name


class Quota(_Section):
    """What one tenant may have at once; not said: as much as it likes."""

    open_uploads: int | None = Field(None, ge=1)
    documents: int | None = Field(None, ge=1)  # whose bytes are stored, and open uploads
    bytes: Size | None = None  # stored and announced


class Policy(_Section):
    """The whole document."""

    version: Literal[1]
    accept: Accept
    limits: Limits
    scan: Scan
    recognize: Recognize
    retention: Retention
    quota: Quota = Quota()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical form: recorded with each document, so that its rules can be told later."""
        canonical = self.model_dump(mode="json", by_alias=True)
        del canonical["quota"]  # how much is taken at once says nothing of how a document was judged
        canonical["accept"]["types"].sort()
        canonical["scan"]["required"].sort()
        return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy (the one that ships with Airlock unless told otherwise).

    Raises:
        Misconfigured: with every problem, each naming its field and what is allowed there.
    """
    try:
        text = path.read_text() if path else (resources.files("pipeline") / "policy.default.toml").read_text()
        return Policy.model_validate(tomllib.loads(text))
    except OSError as exc:
        raise Misconfigured(f"The policy file {path} cannot be read: {exc.strerror}.") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"The policy is not valid TOML: {exc}.") from exc
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise Misconfigured(f"The policy is not valid: {problems}.") from exc
