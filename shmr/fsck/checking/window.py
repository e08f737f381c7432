"""Many small reads of a file, in rising order, by few larger ones where they are close together."""

from __future__ import annotations

from shmr.drive.seam import DriveFile
from shmr.units import KIB

NEAR_BYTES = 16 * KIB
"""Places closer than this are read together."""
WINDOW_BYTES = 256 * KIB
_LEAST_BYTES = 1 * KIB


class Window:
    """An open file of a drive, of which some bytes are kept."""

    def __init__(self, file: DriveFile) -> None:
        self._file = file
        self._start = 0
        self._content = b""
        self._last = -NEAR_BYTES

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; shorter only at the file's end. Raises DriveError."""
        at = offset - self._start
        if at >= 0 and at + length <= len(self._content):
            self._last = offset
            return self._content[at : at + length]
        near = 0 <= offset - self._last < NEAR_BYTES
        self._last = offset
        size = max(length, WINDOW_BYTES if near else _LEAST_BYTES)
        self._content = self._file.read(offset, size)
        self._start = offset
        return self._content[:length]
