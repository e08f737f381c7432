"""Bytes that only footers know are given back to their files.

A file that rows know gets them where its extents lead to what is gone, and nowhere else: whatever
rows lead to is what was there. A file that no row knows is made, of all that footers have of it;
where two have the same bytes, those that were archived later count. What it had between them is
not known: it stays a gap, which is an error to read, and never zeros.

Works on a catalog that is being made, by rows that are truth at once (`Catalog.replay`).
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from shmr.catalog.catalog import Catalog
from shmr.core.extent import replace
from shmr.errors import IntegrityError
from shmr.format.fragment import ArchivedExtent
from shmr.format.rows import Extent, Inode, Table, decode_reap, extent_removed, key_of
from shmr.fsck.footers import Footers, Told

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
        self.filled_bytes = 0
        self.newest_ns = 0
        self.unused_bytes = 0
        """Bytes that footers have of files that rows know, and that nothing is gone of."""

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
        """The parts of a known file that are gone, as far as these bytes are of them."""
        filled = 0
        if stat.S_ISREG(inode.mode):
            for start, end in self._wanted(inode, found):
                part = found.clip(start, end)
                if part is not None:
                    added = self._put(inode.number, part)
                    filled += part.length
                    if added:
                        now = self.catalog.inode(inode.number) or inode
                        now = now._replace(allocated=now.allocated + added)
                        self.catalog.replay([now.row()])
        self.filled_bytes += filled
        self.unused_bytes += found.length - filled
        return filled

    def _wanted(self, inode: Inode, found: Extent) -> Iterator[tuple[int, int]]:
        """Ranges of the file within `found` whose bytes are nowhere; the table may change between
        two of them."""
        at, end = found.offset, min(found.end, inode.size)
        for low, high in self._outside_mark(inode.number, at, end):
            at = low
            while at < high:
                some = list(islice(self.catalog.extents(inode.number, at, high), _STEP))
                until = high if len(some) < _STEP else min(high, some[-1].end)
                yield from self._gone_in(some, at, until)
                at = until

    def _gone_in(self, extents: Iterable[Extent], at: int, end: int) -> Iterator[tuple[int, int]]:
        for extent in extents:
            if extent.offset > at:
                yield at, extent.offset
            if extent.address is not None and self._is_gone(extent.address.segment):
                yield max(at, extent.offset), min(end, extent.end)
            at = max(at, extent.end)
        if at < end:
            yield at, end

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
