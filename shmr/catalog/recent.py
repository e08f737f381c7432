"""Extents that were lately looked up, decoded and found by bisection.

A random read spent most of its time finding and decoding one extent row. What is kept for an
inode is forgotten as soon as any of its extents changes, so this never disagrees with the table.
"""

from __future__ import annotations

from bisect import bisect_right

from shmr.format.rows import Extent

EXTENTS_MAX = 65_536
"""Extents kept over all inodes: some 15 MiB."""


class RecentExtents:
    """Inode -> the extents of it that were asked for since its last change."""

    __slots__ = ("_count", "_inodes")

    def __init__(self) -> None:
        self._inodes: dict[int, tuple[list[int], list[Extent]]] = {}
        self._count = 0

    def find(self, inode: int, offset: int) -> Extent | None:
        """The extent that holds `offset`, if it is remembered."""
        known = self._inodes.get(inode)
        if known is None:
            return None
        index = bisect_right(known[0], offset) - 1
        if index < 0:
            return None
        extent = known[1][index]
        return extent if offset < extent.offset + extent.length else None

    def add(self, inode: int, extent: Extent) -> None:
        """Remember an extent as the table has it now."""
        if self._count >= EXTENTS_MAX:
            self._inodes.clear()
            self._count = 0
        offsets, extents = self._inodes.setdefault(inode, ([], []))
        index = bisect_right(offsets, extent.offset)
        if index and offsets[index - 1] == extent.offset:
            return
        offsets.insert(index, extent.offset)
        extents.insert(index, extent)
        self._count += 1

    def forget(self, inode: int) -> None:
        """An extent of this inode changes."""
        known = self._inodes.pop(inode, None)
        if known is not None:
            self._count -= len(known[0])
