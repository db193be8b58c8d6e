"""Parts that a sender sends to the bucket itself: signed, listed, and held to what was said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pipeline.documents import Upload, UploadMethod
from pipeline.errors import BadRequest, NotFound, ObjectNotFound, TooLarge, UploadGone, UploadIncomplete
from pipeline.services import Services
from pipeline.storage.abilities import SentPart, SignsParts
from pipeline.storage.base import SignedPut
from pipeline.uploads import must_be_open

PART = 16 << 20  # bytes of a part, unless there would be too many
MIB = 1 << 20
MOST = 10_000  # parts of one upload, on any store
NAMED = 1000  # missing parts that are named at once


@dataclass(frozen=True, slots=True)
class ClaimedPart:
    """A part that a client says it has sent."""

    number: int
    tag: str | None = None  # its ETag, without quotes
    md5: str | None = None  # of its bytes, lower-case hex
    size: int | None = None


@dataclass(frozen=True, slots=True)
class PartUrl:
    """Where one part goes. `size` where it is known, and signed."""

    number: int
    size: int | None
    put: SignedPut


def lifetime(services: Services) -> timedelta:
    """How long a URL lives."""
    return timedelta(seconds=services.settings.presign_seconds)


def part_bytes(size: int, store: SignsParts) -> int:
    """How large parts are: all alike but the last."""
    least = -(-size // store.most_parts)
    return max(PART, store.least_part, -(-least // MIB) * MIB)


def count_of(upload: Upload) -> int | None:
    """How many parts there will be, where the size is known."""
    return None if upload.size is None else -(-upload.size // _part(upload))


def _part(upload: Upload) -> int:
    size = upload.details.get("part_bytes")
    return size if isinstance(size, int) else PART


def part_urls(upload: Upload, services: Services, *, first: int, limit: int, sized: bool = True) -> list[PartUrl]:
    """URLs for parts `first`, `first + 1` and so on: `limit` of them, or as many as there can be. Unless `sized` the
    parts may have any size.

    Raises:
        NotFound: it is no multipart upload. BadRequest: there is no such part. UploadGone, Conflict: it is not open.
    """
    store = _parts_store(upload, services)
    must_be_open(upload)
    last = min(store.most_parts, count_of(upload) or store.most_parts) if sized else store.most_parts
    if not 1 <= first <= last:
        raise BadRequest(f"Parts are numbered from 1 to {last} here.")
    found = []
    for number in range(first, min(first + limit, last + 1)):
        size = _size_of(upload, number) if sized else None
        put = store.sign_part(upload.key, upload.progress, number, lifetime(services), size=size)
        found.append(PartUrl(number, size, put))
    return found


def _size_of(upload: Upload, number: int) -> int | None:
    if upload.size is None:
        return None
    part = _part(upload)
    return min(part, upload.size - (number - 1) * part)


def _parts_store(upload: Upload, services: Services) -> SignsParts:
    store = services.quarantine
    if upload.method is not UploadMethod.MULTIPART or not isinstance(store, SignsParts):
        raise NotFound("This upload has no parts.")
    return store


def sent_parts(upload: Upload, services: Services) -> list[SentPart]:
    """What the store has of an open upload. Raises NotFound for one without parts, UploadGone, Conflict."""
    store = _parts_store(upload, services)
    must_be_open(upload)
    if not upload.progress:
        return []
    try:
        return list(store.sent_parts(upload.key, upload.progress))
    except ObjectNotFound:
        raise UploadGone("The store knows nothing of this upload any more. Begin a new one.") from None


def matched(sent: Sequence[SentPart], claimed: Sequence[ClaimedPart] | None) -> list[SentPart]:
    """The parts to be put together: those that are claimed, or all. Raises UploadIncomplete, BadRequest."""
    here = {part.number: part for part in sent}
    if claimed is None:
        numbers = sorted(here)
    else:
        numbers = sorted(part.number for part in claimed)
        if len(set(numbers)) != len(numbers) or (numbers and not 1 <= numbers[0] <= numbers[-1] <= MOST):
            raise BadRequest(f"Name each part once, by numbers from 1 to {MOST}.")
    last = numbers[-1] if numbers else 1
    # A gap would close up when the parts are joined: what the client left out would be missing from the middle.
    there = here.keys() & set(numbers)
    missing = [number for number in range(1, last + 1) if number not in there]
    if missing:
        raise UploadIncomplete(
            f"{len(missing)} part{'s are' if len(missing) > 1 else ' is'} missing.",
            missing=missing[:NAMED],
            missing_count=len(missing),
        )
    different = [part.number for part in claimed or () if not _is(here[part.number], part)]
    if different:
        raise UploadIncomplete(
            "Parts are others than those that were named: send them again.",
            missing=different[:NAMED],
            missing_count=len(different),
        )
    return [here[number] for number in numbers]


def _is(sent: SentPart, claimed: ClaimedPart) -> bool:
    return (
        claimed.tag in (None, sent.tag)
        and claimed.md5 in (None, sent.tag.lower())  # an ETag of a part is its MD5, wherever S3 holds the keys
        and claimed.size in (None, sent.size)
    )


def must_fit(upload: Upload, parts: Sequence[SentPart], services: Services) -> None:
    """Raises BadRequest for a part that is too small to be one, TooLarge or UploadIncomplete unless all together have
    the size that was announced."""
    store = _parts_store(upload, services)
    for part in parts[:-1]:
        if part.size < store.least_part:
            raise BadRequest(
                f"Part {part.number} has {part.size} bytes; all but the last have {store.least_part} or more.",
                part=part.number,
            )
    size = sum(part.size for part in parts)
    if upload.size is not None and size > upload.size:
        raise TooLarge(
            f"The parts have {size} bytes together, and {upload.size} were announced.",
            limit={"name": "upload_length", "value": upload.size},
        )
    if upload.size is not None and size < upload.size:
        raise UploadIncomplete(
            f"The parts have {size} bytes together, and {upload.size} were announced.",
            missing=[],
            expected_bytes=upload.size,
            received_bytes=size,
        )
