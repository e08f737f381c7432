"""System calls as drives need them: repeated until all is done, or such as Python does not have."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable

_SYNC_FILE_RANGE_WRITE = 2
_IOV_MAX = os.sysconf("SC_IOV_MAX")
_ZEROS = bytes(1024 * 1024)
_FIEMAP = struct.Struct("=QQIIII")
"""fm_start, fm_length, fm_flags, fm_mapped_extents, fm_extent_count, fm_reserved."""
_FIEMAP_EXTENT = struct.Struct("=QQQQQIIII")
"""fe_logical, fe_physical, fe_length, two reserved, fe_flags, three reserved."""
_FS_IOC_FIEMAP = 0xC020660B
_EXTENT_UNKNOWN = 2
"""FIEMAP_EXTENT_UNKNOWN: not on the device yet."""
_CANNOT_MAP = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EINVAL, errno.EBADR}
_CANNOT_ALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

Pwritev = Callable[[int, list[memoryview], int], int]
"""The one system call that writes; tests replace it to make writes short or fail."""


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """sync_file_range(2), which Python does not have; None where the C library lacks it."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _find_sync_file_range()


def begin_writing(fd: int, offset: int, length: int) -> None:
    """Have the device begin to write these bytes; nothing where the C library has no way to it."""
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


def write_all(pwritev: Pwritev, fd: int, views: list[memoryview], offset: int) -> None:
    """Write all of `views` (none empty) at `offset`, however short the single writes are."""
    first = 0
    while first < len(views):
        written = pwritev(fd, views[first : first + _IOV_MAX], offset)
        if written <= 0:
            raise OSError(errno.EIO, "a write made no progress")
        offset += written
        while first < len(views) and written >= (size := views[first].nbytes):
            written -= size
            first += 1
        if written:
            views[first] = views[first][written:]


def allocate(pwritev: Pwritev, fd: int, size_bytes: int) -> None:
    """Make the file `size_bytes` long with all of its space taken."""
    if not size_bytes:
        return
    try:
        os.posix_fallocate(fd, 0, size_bytes)
        return
    except OSError as error:
        if error.errno not in _CANNOT_ALLOCATE:
            raise
    zeros = memoryview(_ZEROS)
    for offset in range(0, size_bytes, len(zeros)):
        write_all(pwritev, fd, [zeros[: size_bytes - offset]], offset)


def allocated_bytes(facts: os.stat_result) -> int:
    """What a file takes on the disk."""
    return facts.st_blocks * 512


def first_byte(fd: int) -> int | None:
    """Where on its device the file begins, in bytes; None where the filesystem does not tell.

    FS_IOC_FIEMAP of linux/fiemap.h, for one extent.
    """
    asked = bytearray(_FIEMAP.size + _FIEMAP_EXTENT.size)
    _FIEMAP.pack_into(asked, 0, 0, 2**64 - 1, 0, 0, 1, 0)
    try:
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, asked)
    except OSError as error:
        if error.errno in _CANNOT_MAP:
            return None
        raise
    if not _FIEMAP.unpack_from(asked)[3]:
        return None
    fields = _FIEMAP_EXTENT.unpack_from(asked, _FIEMAP.size)
    physical, flags = int(fields[1]), int(fields[5])
    return None if flags & _EXTENT_UNKNOWN else physical


def mount_id(fd: int) -> int:
    """The kernel's id of the mount that `fd` was opened through (proc(5), fdinfo)."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key == "mnt_id":
                return int(value)
    return 0


def sync_filesystem(fd: int) -> None:
    """Have all that was written to the filesystem of this descriptor arrive (syncfs(2)).

    Raises OSError; also for what failed before, on Linux from 5.8 on.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if function is None:
        os.sync()
    elif function(ctypes.c_int(fd)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
