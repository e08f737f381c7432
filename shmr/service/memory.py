"""glibc's allocator, told to keep what it has.

By default it gives large blocks back to the kernel and faults them in again at the next request;
measured, that made MiB-sized buffers three to ten times slower.
"""

from __future__ import annotations

import ctypes

from shmr.units import MIB

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep() -> None:
    """Raise the thresholds; does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 8 * MIB)
    mallopt(_M_TRIM_THRESHOLD, 32 * MIB)
    mallopt(_M_TOP_PAD, 4 * MIB)
    # One arena per worker thread would keep a copy of every buffer size.
    mallopt(_M_ARENA_MAX, 2)
