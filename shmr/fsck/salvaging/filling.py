"""Bytes that only footers know are given back to their files.

A file that rows know, and of which nothing is gone, stays as rows have it. One that has lost bytes
is not to be had as it was: of that the newest count that there are, and what is lost beside them is
an error to read. A file that no row knows is made, of all that footers have of it. Of two that have
the same bytes those count that were archived later. What a file had between them is not known: it
stays a gap, which is an error to read too, and never zeros.

Works on a catalog that is being made, by rows that are truth at once (`Catalog.replay`).
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Callable, Iterator
from itertools import islice

from shmr.catalog.catalog import Catalog
from shmr.core.extent import replace
from shmr.errors import IntegrityError
from shmr.format.fragment import ArchivedExtent
from shmr.format.rows import Extent, Inode, Table, decode_reap, extent_removed, key_of
from shmr.fsck.salvaging.footers import Footers, Told
from shmr.fsck.salvaging.tree import Numbers

INODE_MAX = 1 << 62
"""Numbers beyond are none that an operation gave."""
_STEP = 1000


class Filling:
    """`is_gone` says of a segment that its bytes are on no drive."""

    def __init__(self, catalog: Catalog, is_gone: Callable[[int], bool]) -> None:
        self.catalog = catalog
        self._is_gone = is_gone
        self.made = array("Q")
        """Inodes that no row knew."""
        self.newest_ns = 0
        self.unused_bytes = 0
        """Bytes that footers have of files that rows know, and that nothing is gone of."""
        self._hurt = Numbers()
        self._whole = 0
        """The file of which that was seen last; those of one stand together in a table."""

    def take(self, footers: Footers, told: Told) -> bool:
        """Use what a segment has; False where nothing of it was wanted.

        Raises DriveError, IntegrityError for a table that does not hold.
        """
        used = 0
        self.newest_ns = max(self.newest_ns, told.row.created_ns)
        for entry in footers.table(told):
            if entry.inode < INODE_MAX:
                used += self._take_one(entry, told)
        return bool(used)

    def _take_one(self, entry: ArchivedExtent, told: Told) -> int:
        address = told.row.address(told.segment, entry.address)
        found = Extent(entry.offset, entry.length, address)
        inode = self.catalog.inode(entry.inode)
        if inode is None:
            now = told.row.created_ns
            inode = Inode(entry.inode, stat.S_IFREG | 0o600, 0, 0, 0, 0, 0, 0, now, now, now)
            self.made.append(entry.inode)
        elif inode.links or not stat.S_ISREG(inode.mode) or self.catalog.is_orphan(inode.number):
            # Bytes that cannot be read are no better than those that are gone.
            if told.fragments < told.row.k:
                return 0
            return self._fill(inode, found)
        added = self._put(inode.number, found)
        self.catalog.replay(
            [
                inode._replace(
                    size=max(inode.size, found.end),
                    allocated=inode.allocated + added,
                    mtime_ns=told.row.created_ns,
                    ctime_ns=told.row.created_ns,
                ).row()
            ]
        )
        return found.length

    def _put(self, number: int, new: Extent) -> int:
        """An extent over whatever was there; how many more bytes are allocated by it."""
        freed = 0
        while some := list(islice(self.catalog.extents(number, new.offset, new.end), _STEP)):
            change = replace(some, new.offset, new.end)
            rows = [extent_removed(number, offset) for offset in change.removed]
            self.catalog.replay([*rows, *(extent.row(number) for extent in change.kept)])
            freed += change.freed
        self.catalog.replay([new.row(number)])
        return new.length - freed

    def _fill(self, inode: Inode, found: Extent) -> int:
        """Bytes of a file that rows know; how many of them were taken."""
        if not stat.S_ISREG(inode.mode) or not self._is_hurt(inode):
            self.unused_bytes += found.length
            return 0
        # Whether there is something between the end and bytes far behind it, nobody knows.
        end = found.end if found.offset <= inode.size else inode.size
        taken = added = 0
        for low, high in self._outside_mark(inode.number, found.offset, end):
            part = found.clip(low, high)
            if part is not None:
                added += self._put(inode.number, part)
                taken += part.length
        if taken:
            changed = inode._replace(size=max(inode.size, end), allocated=inode.allocated + added)
            self.catalog.replay([changed.row()])
        return taken

    def _is_hurt(self, inode: Inode) -> bool:
        """Are bytes of the file gone, or were they before some were found?"""
        number = inode.number
        if number in self._hurt:
            return True
        if self._whole != number:
            if not self._has_lost(inode):
                self._whole = number
                return False
            self._hurt.add(number)
            return True
        return False

    def _has_lost(self, inode: Inode) -> bool:
        at = 0
        for low, high in self._outside_mark(inode.number, 0, inode.size):
            at = low
            for extent in self.catalog.extents(inode.number, low, high):
                if extent.offset > at:
                    return True
                if extent.address is not None and self._is_gone(extent.address.segment):
                    return True
                at = extent.end
            if at < high:
                return True
        return False

    def _outside_mark(self, number: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The range without what a mark covers: that is dead."""
        value = self.catalog.get(Table.REAP, key_of(number))
        try:
            mark = None if value is None else decode_reap(value)
        except IntegrityError:
            mark = None
        if mark is None or mark.end <= start or end <= mark.start:
            yield start, end
            return
        if start < mark.start:
            yield start, mark.start
        if mark.end < end:
            yield mark.end, end
