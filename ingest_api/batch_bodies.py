"""What a batch is made of, as it is sent: JSON, or a manifest that is read as it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest_api.uploads.bodies import wrong
from ingest_api.web import Threads
from pipeline.batches import NewItem, Source
from pipeline.errors import BadRequest
from pipeline.loading import Loader
from pipeline.manifest import KEY, Format, ManifestReader, item_of

if TYPE_CHECKING:
    from hashlib import _Hash

PIECE = 64 << 10  # of a manifest, for one hop into a thread
JSON = "application/json"

_MANIFEST = {"schema": {"type": "string"}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "JSON with one of `uploads`, `objects` and `prefix`; or a manifest, a line an item.",
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "description": "For people."},
                        "uploads": {
                            "type": "array",
                            "items": {"type": "string", "format": "uuid"},
                            "description": "Ids of uploads, open or complete, or of documents.",
                        },
                        "objects": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["key"],
                                "properties": {
                                    member: {"type": "string"}
                                    for member in ("key", "version", "name", "type", "sha256")
                                },
                            },
                            "description": "Objects below `drop/{tenant}/` in the quarantine bucket.",
                        },
                        "prefix": {"type": "string", "description": "All objects below it: `drop/{tenant}/...`."},
                    },
                },
                "examples": {
                    "objects": {"value": {"objects": [{"key": "drop/acme/may/1.pdf", "name": "Invoice 1.pdf"}]}},
                    "prefix": {"value": {"name": "May", "prefix": "drop/acme/may/"}},
                },
            },
            Format.CSV.value: {**_MANIFEST, "example": "key,name,sha256\ndrop/acme/may/1.pdf,Invoice 1.pdf,\n"},
            Format.NDJSON.value: {**_MANIFEST, "example": '{"key": "drop/acme/may/1.pdf", "name": "Invoice 1.pdf"}\n'},
        },
    },
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string", "maxLength": 255},
            "description": "Sent again with the same body, the first answer comes back and there is one batch.",
        },
    ],
}


@dataclass(frozen=True, slots=True)
class Given:
    """What a request says of its batch."""

    source: Source
    name: str | None = None
    prefix: str | None = None
    items: Sequence[NewItem] = ()


def of_json(body: bytes) -> Given:
    """A JSON body. Raises BadRequest, InvalidParameters."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(given, dict):
        raise BadRequest("The body is a JSON object.")
    sources = [source for source in (Source.UPLOADS, Source.OBJECTS, Source.PREFIX) if source.value in given]
    if len(sources) != 1:
        raise BadRequest("A batch is made of one of `uploads`, `objects` and `prefix`.")
    [source], name, prefix = sources, given.get("name"), given.get("prefix")
    if name is not None and not isinstance(name, str):
        wrong("name", "is a string")
    if source is not Source.PREFIX:
        return Given(source, name, None, _items(source, given[source.value]))
    if not isinstance(prefix, str) or not 0 < len(prefix.encode("utf-8", "replace")) <= KEY:
        wrong("prefix", f"is a string of at most {KEY} bytes")
    return Given(source, name, prefix)


def _items(source: Source, listed: object) -> list[NewItem]:
    if not isinstance(listed, list):
        wrong(source.value, "is a list")
    found: list[NewItem] = []
    for number, one in enumerate(listed):
        members = {"id" if source is Source.UPLOADS else "key": one} if isinstance(one, str) else one
        try:
            if not isinstance(members, dict) or ("key" in members) != (source is Source.OBJECTS):
                raise ValueError("It is not what belongs into this list.")  # noqa: TRY301
            found.append(item_of(members))
        except ValueError as exc:
            wrong(f"{source.value}.{number}", str(exc).rstrip("."))
    return found


async def read_manifest(
    threads: Threads,
    stream: AsyncIterator[bytes],
    format: Format,  # noqa: A002
    loader: Loader,
    digest: _Hash,
) -> None:
    """Pieces as they come, so that a manifest of any length takes the memory of one piece and one block of items."""
    reader, piece = ManifestReader(format), bytearray()
    async for chunk in stream:
        digest.update(chunk)
        piece += chunk
        if len(piece) >= PIECE:
            taken, piece = bytes(piece), bytearray()
            await threads.rows(lambda taken=taken: loader.add(reader.feed(taken)))  # type: ignore[misc]
    await threads.rows(lambda: loader.add([*reader.feed(bytes(piece)), *reader.close()]))
