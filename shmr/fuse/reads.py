"""atime: moved by reads that reach us, where the mount counts them (relatime)."""

from __future__ import annotations

import time

from shmr.errors import ShmrError
from shmr.format.rows import Inode
from shmr.fuse.guard import logger
from shmr.fuse.seam import Attributes
from shmr.volume.attributes import needs_atime


class ReadTimes:
    """Moves atime, unless the mount is `noatime`."""

    def __init__(self, attributes: Attributes, *, counts: bool) -> None:
        self._attributes = attributes
        self._counts = counts

    def due(self, inode: Inode) -> bool:
        """Whether the next read moves atime."""
        return self._counts and needs_atime(inode, time.time_ns())

    def note(self, number: int) -> None:
        """Move atime if it is due; a read does not fail for that."""
        if not self._counts:
            return
        try:
            self._attributes.accessed(number)
        except ShmrError as error:
            logger.debug("atime of inode %d stays: %s", number, error)
