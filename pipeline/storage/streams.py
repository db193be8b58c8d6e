"""What every backend needs around its bytes: a body that can be closed, a hash as it goes, a bound on signed URLs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from pipeline.errors import ChecksumMismatch, StoreUnavailable
from pipeline.storage.base import MAX_SIGNED

PIECE = 1 << 20  # the most that `get` hands out at once


class Body(Iterator[bytes]):
    """The pieces of one object. Ends by itself, or by `close` at any time, even before the first piece.

    A class and not a generator: a generator that was never started runs no `finally`, and would keep its socket or
    descriptor. `expected` is the number of bytes that must come: fewer raise StoreUnavailable.
    """

    def __init__(self, read: Callable[[int], bytes], close: Callable[[], object], expected: int) -> None:
        self._read = read
        self._close = close
        self._left = expected
        self._open = True

    def __next__(self) -> bytes:
        if not self._open or not self._left:
            self.close()
            raise StopIteration
        try:
            piece = self._read(min(PIECE, self._left))
        except BaseException:
            self.close()
            raise
        if not piece:
            self.close()
            raise StoreUnavailable(f"The object's bytes ended {self._left} early.")
        self._left -= len(piece)
        if not self._left:
            self.close()
        return piece

    def close(self) -> None:
        """Give the connection or the file back. Idempotent."""
        if self._open:
            self._open = False
            self._close()

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self.close()


def bound(expires: timedelta) -> timedelta:
    """The same duration. Raises ValueError unless it is more than nothing and at most MAX_SIGNED."""
    if not timedelta(0) < expires <= MAX_SIGNED:
        raise ValueError(f"a signed URL lives for more than nothing and at most {MAX_SIGNED}")
    return expires


def digest_of(pieces: Iterable[bytes]) -> str:
    """SHA-256 of a body, lower-case hex."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def compare(found: str, wanted: str) -> None:
    """Raises ChecksumMismatch unless both are the same SHA-256."""
    if found != wanted:
        raise ChecksumMismatch


def window(size: int, start: int, end: int | None) -> tuple[int, int]:
    """The range [start, end) cut to an object of `size` bytes. Raises ValueError where it makes no sense."""
    if start < 0 or (end is not None and end < start):
        raise ValueError("a range is [start, end) with 0 <= start <= end")
    end = size if end is None else min(end, size)
    return min(start, end), end
