"""Holes: ranges of a file that read as zeros and take no space; made, and found.

A hole is an extent like any other, so that extents tile the file before and after. However long
the range, an operation is a few rows: one DROP stands for all extents that begin inside it, and
the hole takes their place in the same batch. What the catalog has to delete is as much as there
was, though; who must not wait for that takes a long range in parts (`reach`), or seeks in steps
(`look`).

A log cannot set blocks aside for a file: `allocate` looks whether there is room now, makes the
file as long as asked for, and a later write may find the workspace full all the same. Nor does it
take space: what is allocated stays a hole until it is written.
"""

from __future__ import annotations

import errno
import stat
from itertools import chain, islice

from shmr.core.extent import dig, tiles
from shmr.errors import NoSpace, Refused
from shmr.format.records import Drop
from shmr.format.rows import SIZE_MAX, Extent, Inode
from shmr.volume.context import ROWS_MAX, Context, Need
from shmr.volume.reaper import Reaper
from shmr.volume.space import Space

LOOK_MAX = ROWS_MAX
"""Extents that one step looks at, or that `reach` lets one operation delete."""


class Holes:
    """fallocate(2), and lseek(2) with SEEK_DATA and SEEK_HOLE."""

    def __init__(self, context: Context, reaper: Reaper, space: Space) -> None:
        self._context = context
        self._catalog = context.catalog
        self._reaper = reaper
        self._space = space

    # -- making -----------------------------------------------------------------------------

    def punch(self, number: int, offset: int, length: int) -> None:
        """FALLOC_FL_PUNCH_HOLE: a hole in [offset, offset + length) as far as the file goes.

        Raises Refused: EINVAL, ENOENT, EISDIR, ESPIPE, ENODEV, EFBIG, EROFS.
        """
        self._context.allow(Need.DELETE)
        inode = self._target(number, offset, length)
        self._dig(inode, offset, min(offset + length, inode.size), inode.size)

    def zero(self, number: int, offset: int, length: int, *, keep_size: bool) -> None:
        """FALLOC_FL_ZERO_RANGE: a hole in the range; the file grows to its end, or keeps its size.

        Raises Refused as `punch` does.
        """
        self._context.allow(Need.DELETE)
        inode = self._target(number, offset, length)
        end = offset + length
        size = inode.size if keep_size else max(inode.size, end)
        self._dig(inode, min(offset, inode.size), min(end, size), size)

    def allocate(self, number: int, offset: int, length: int, *, keep_size: bool) -> None:
        """fallocate(2) of mode 0 or FALLOC_FL_KEEP_SIZE: data stays, the file grows by a hole.

        Raises Refused as `punch` does; NoSpace when what is no data yet has no room now, though
        the cleaner won all that it can.
        """
        self._context.allow(Need.DATA)
        inode = self._target(number, offset, length)
        end = offset + length
        usage = self._space.usage()
        room = usage.blocks_free * usage.block_size
        # What the whole file has says enough, mostly: a long one has a million extents to look at.
        if length - inode.allocated > room or (
            length > room and length - self._data_bytes(inode, offset, end) > room
        ):
            raise NoSpace()
        size = inode.size if keep_size else max(inode.size, end)
        self._dig(inode, inode.size, size, size)

    def reach(self, number: int, offset: int, length: int) -> int:
        """How many of `length` bytes one `punch` or `zero` should be given: 4,096 extents' worth.

        Each part is an operation of its own; Linux promises no more of a range than that either.
        """
        inode = self._context.get_inode(number)
        end = min(offset + length, inode.size)
        extents = islice(self._catalog.extents(number, max(offset, 0), end), LOOK_MAX, None)
        beyond = next(extents, None)
        return length if beyond is None else beyond.offset - offset

    def _target(self, number: int, offset: int, length: int) -> Inode:
        """The regular file that is meant. Refused in the order of vfs_fallocate (fs/open.c)."""
        if offset < 0 or length <= 0:
            raise Refused(errno.EINVAL)
        inode = self._context.get_inode(number)
        if not stat.S_ISREG(inode.mode):
            if stat.S_ISFIFO(inode.mode):
                raise Refused(errno.ESPIPE)
            raise Refused(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.ENODEV)
        if offset + length > SIZE_MAX:
            raise Refused(errno.EFBIG)
        return inode

    def _dig(self, inode: Inode, start: int, end: int, size: int) -> None:
        """Make [start, end) a hole. `size`, if the file grows, is `end`, and `start` inside it."""
        number = inode.number
        grows = size > inode.size
        if grows:
            self._reaper.finish(number, size)
            inode = self._context.get_inode(number)
        now = self._context.clock()
        changed = inode._replace(size=size, mtime_ns=now, ctime_ns=now)
        rows = []
        if start < end:
            touching = self._catalog.extents(number, max(start - 1, 0), min(end + 1, inode.size))
            beyond = [Extent(inode.size, size - inode.size, None)] if grows else []
            dug = dig(chain(touching, beyond), start, end)
            if dug.freed or grows:
                if start < inode.size:
                    self._drop(Drop(number, start, dug.hole.end))
                rows = [extent.row(number) for extent in (dug.hole, *dug.edges)]
                changed = changed._replace(allocated=changed.allocated - dug.freed)
        self._context.apply(rows, changed)

    def _drop(self, drop: Drop) -> None:
        """Delete the extents that begin in the range; the batch is not cut behind it."""
        try:
            # No range holds more extents than bytes.
            self._catalog.drop_extents(drop, drop.end - drop.start)
        except Exception as error:
            self._context.poison(error)
            raise

    def _data_bytes(self, inode: Inode, start: int, end: int) -> int:
        """Bytes of [start, end) that are data."""
        parts = (
            extent.clip(start, end)
            for extent in self._catalog.extents(inode.number, start, min(end, inode.size))
            if extent.address is not None
        )
        return sum(part.length for part in parts if part is not None)

    # -- finding ----------------------------------------------------------------------------

    def seek(self, number: int, offset: int, *, hole: bool) -> int:
        """Where the next data, or the next hole, is from `offset` on. Behind the end is a hole.

        Raises Refused: EISDIR, EINVAL, ENOENT; ENXIO at the end and behind it, and where only
        holes follow and data is wanted. IntegrityError where the catalog has no extent.
        """
        found = False
        while not found:
            offset, found = self.look(number, offset, hole=hole)
        return offset

    def look(self, number: int, offset: int, *, hole: bool) -> tuple[int, bool]:
        """One step of `seek`: its answer and True, or from where to go on and False."""
        inode = self._context.get_inode(number)
        if not stat.S_ISREG(inode.mode):
            raise Refused(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL)
        if not 0 <= offset < inode.size:
            raise Refused(errno.ENXIO)
        extents = self._catalog.extents(number, offset, inode.size)
        for extent in islice(tiles(extents, offset, inode.size), LOOK_MAX):
            if (extent.address is None) == hole:
                return offset, True
            offset = extent.end
        if offset < inode.size:
            return offset, False
        if not hole:
            raise Refused(errno.ENXIO)
        return offset, True
