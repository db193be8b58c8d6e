"""How far a document is looked into."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StructureLimits:
    """Bounds on what is inside one file; past any of them its verdict is not CLEAN. Sizes in bytes."""

    unpacked_bytes: int = 1 << 30  # everything inside, counted as it is unpacked
    members: int = 10_000
    depth: int = 8  # containers inside containers
    ratio: int = 200  # unpacked to packed, once there is enough of it to matter
    pixels: int = 250_000_000
    attachments: int = 100  # files in a PDF
    member_bytes: int | None = None  # clamd's MaxFileSize: a larger zip member is not scanned, and clamd says OK
    seconds: float = 60.0
