"""An open file of a drive that is a directory: appended to, read, synced, sealed.

A file takes no append past its claimed size (EFBIG), as a zone takes none. After a failed append,
sync or seal it refuses to be changed again: on Linux a second fdatasync can succeed although the
first dropped the pages; here it cannot be tried. Every OSError leaves as a DriveError.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

from shmr.drive.calls import Pwritev, allocated_bytes, begin_writing, write_all
from shmr.drive.seam import Buffer
from shmr.errors import DriveError

_CANNOT_READ_NOWAIT = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class Owner(Protocol):
    """What a file needs of its drive."""

    pwritev: Pwritev
    reads_nowait: bool

    @property
    def label(self) -> str: ...

    def telling(self, operation: str) -> AbstractContextManager[None]:
        """Turns an OSError into a DriveError of this drive."""

    def account(self, name: str, allocated_bytes: int) -> None:
        """Note what a file takes on the disk."""


class DirectoryFile:
    """An open file of a `DirectoryDrive`. Made by the drive only."""

    def __init__(self, drive: Owner, name: str, fd: int, size: int, end: int) -> None:
        self._drive = drive
        self._name = name
        self._fd = fd
        self._size = size  # as a reader sees it: what was claimed, until the seal
        self._end = end
        self._failed = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def end(self) -> int:
        return self._end

    def append(self, buffers: Sequence[Buffer]) -> None:
        views = [view for buffer in buffers if (view := memoryview(buffer).cast("B")).nbytes]
        total = 0
        for view in views:
            total += view.nbytes
        if not total:
            return
        # What `_changing` does, written out: entering it took longer than what it guards.
        try:
            if self._failed:
                raise unchanged(self._name)
            if self._end + total > self._size:
                raise OSError(errno.EFBIG, f"{self._name}: append past the claimed size")
            write_all(self._drive.pwritev, self._fd, views, self._end)
        except OSError as error:
            self._failed = True
            raise DriveError(self._drive.label, "append", error) from error
        self._end += total

    def read(self, offset: int, length: int) -> bytes:
        with self._drive.telling("read"):
            content = os.pread(self._fd, length, offset)
            if len(content) == length or not content:
                return content
            parts = [content]
            position = offset + len(content)
            while position < offset + length:
                content = os.pread(self._fd, offset + length - position, position)
                if not content:
                    break
                parts.append(content)
                position += len(content)
            return b"".join(parts)

    def read_cached(self, offset: int, length: int) -> bytes | bytearray | None:
        if offset + length > self._size:
            length = max(0, self._size - offset)
        if not length:
            return b""
        if not self._drive.reads_nowait:
            return None
        content = bytearray(length)
        try:
            got = os.preadv(self._fd, [content], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in _CANNOT_READ_NOWAIT:
                self._drive.reads_nowait = False
            # Nothing else is decided here either: `read` meets a real error again and names it.
            return None
        return content if got == length else None

    def prefetch(self, offset: int, length: int) -> None:
        with suppress(OSError):
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def sequential(self) -> None:
        with suppress(OSError):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def write_back(self, offset: int, length: int) -> None:
        begin_writing(self._fd, offset, length)

    def evict(self, offset: int = 0, length: int = 0) -> None:
        with suppress(OSError):
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        with self._changing("sync"):
            os.fdatasync(self._fd)

    def seal(self) -> None:
        with self._changing("seal"):
            # Sync before truncating: a short file is trusted to hold all of its bytes.
            os.fdatasync(self._fd)
            if self._end != self._size:
                os.ftruncate(self._fd, self._end)
                os.fsync(self._fd)
                self._size = self._end
                self._drive.account(self._name, allocated_bytes(os.fstat(self._fd)))

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        self.close()  # a forgotten handle keeps the disk busy

    @contextmanager
    def _changing(self, operation: str) -> Iterator[None]:
        with self._drive.telling(operation):
            if self._failed:
                raise unchanged(self._name)
            try:
                yield
            except OSError:
                self._failed = True
                raise


def unchanged(name: str) -> OSError:
    return OSError(errno.EIO, f"{name}: not changed again after an error")
