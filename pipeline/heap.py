"""What the C library keeps of memory that was freed."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # <malloc.h>
LARGE = 4 << 20  # below the parts of every store (8 MiB), above the pieces of a body (1 MiB)


def give_back_large_buffers() -> None:
    """Have freed buffers of LARGE bytes and more go back to the system at once. Does nothing without glibc.

    By default glibc raises that bound to 32 MiB once such a buffer was freed (mallopt(3), M_MMAP_THRESHOLD). The parts
    of an upload to S3 are then cut from the heaps of the threads that send them, and what is left between them stays:
    an upload of 2 GiB took 45 to 70 MiB more than one of 64 MiB, and takes 1 to 5 more with this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE)
