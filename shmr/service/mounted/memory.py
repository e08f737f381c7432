"""How much memory the daemon keeps: buffers that come again, and not the whole catalog.

glibc by default gives large blocks back to the kernel and faults them in again at the next request;
measured, that made MiB-sized buffers three to ten times slower.

LMDB reads its file through a map, and each page that was looked at counts as the daemon's resident
memory until the kernel wants it: after a walk over 1,000,000 files that was 213 MiB, beside 41 MiB
of its own. They are the page cache's pages, which stay there when the map lets go of them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

from shmr.units import MIB

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MADV_DONTNEED = 4

_libc = ctypes.CDLL(None, use_errno=True)

MAPPED_MAX_BYTES = 64 * MIB
"""Resident pages of files, beyond which those of the catalog are let go."""


def keep() -> None:
    """Raise glibc's thresholds; does nothing where the C library is not glibc."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 8 * MIB)
    mallopt(_M_TRIM_THRESHOLD, 32 * MIB)
    mallopt(_M_TOP_PAD, 4 * MIB)
    # One arena per worker thread would keep a copy of every buffer size.
    mallopt(_M_ARENA_MAX, 2)


def let_go(path: Path) -> bool:
    """Unmap the resident pages of the file at `path` if files take much memory; whether it did.

    Its maps stay valid: what is needed again comes from the page cache.
    """
    if _resident_of_files() <= MAPPED_MAX_BYTES:
        return False
    wanted = os.fsencode(os.path.realpath(path))
    with open("/proc/self/maps", "rb") as maps:
        ranges = [line.split(b" ", 1)[0] for line in maps if line.rstrip().endswith(wanted)]
    for addresses in ranges:
        start, end = (int(word, 16) for word in addresses.split(b"-"))
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)
    return True


def _resident_of_files() -> int:
    """Bytes of files that this process has resident (proc_pid_statm(5))."""
    with open("/proc/self/statm", "rb") as counts:
        return int(counts.read().split()[2]) * mmap.PAGESIZE
