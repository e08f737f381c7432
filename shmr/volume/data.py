"""File bytes: writes, truncations, and reads planned for the log reader.

A write appends its bytes to the log and points extents at them; nothing is overwritten. Times
are not touched here: with the kernel's writeback cache a WRITE says nothing about when the
program wrote (SETATTR does).
"""

from __future__ import annotations

import errno
import stat
from itertools import islice

from shmr.core.extent import replace, tiles
from shmr.drive.seam import Buffer
from shmr.errors import Refused
from shmr.format.rows import SIZE_MAX, Extent, Inode, Reap, Row, extent_removed
from shmr.log.reader import ReadPlan
from shmr.volume.context import ROWS_MAX, Context, Need
from shmr.volume.reaper import Reaper

TOUCHED_MAX = ROWS_MAX // 2
"""Extents that one step of a write or truncation changes."""


class Data:
    """The contents of regular files."""

    def __init__(self, context: Context, reaper: Reaper) -> None:
        self._context = context
        self._catalog = context.catalog
        self._reaper = reaper

    # -- reading ----------------------------------------------------------------------------

    def plan_read(self, number: int, offset: int, size: int) -> ReadPlan:
        """A plan for the bytes [offset, offset + size) as far as the file goes.

        Touches no drive. Raises Refused: EISDIR, EINVAL, ENOENT; IntegrityError where the catalog
        has no extent.
        """
        inode = self._regular(number)
        end = min(offset + size, inode.size)
        pieces: list[Extent] = []
        if offset < end:
            pieces = list(tiles(self._catalog.extents(number, offset, end), offset, end))
        return self._context.reader.plan(number, pieces)

    def read_cached(self, number: int, offset: int, size: int) -> Buffer | None:
        """The bytes that `plan_read` would plan, if they lie in one extent and need no waiting.

        None says nothing but: plan it. Raises Refused as `plan_read` does.
        """
        inode = self._regular(number)
        end = min(offset + size, inode.size)
        if offset >= end:
            return b""
        extent = self._catalog.extent_at(number, offset)
        if extent is None or extent.offset + extent.length < end:
            return None
        return self._context.reader.read_cached(number, extent, offset, end - offset)

    def _regular(self, number: int) -> Inode:
        inode = self._context.get_inode(number)
        if not stat.S_ISREG(inode.mode):
            raise Refused(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL)
        return inode

    # -- writing ----------------------------------------------------------------------------

    def write(self, number: int, offset: int, payload: bytes | memoryview) -> None:
        """Put `payload` at `offset`, extending the file if need be.

        Raises Refused: EFBIG, EISDIR, EROFS; NoSpace (the file is as it was); DriveError.
        """
        self._context.allow(Need.DATA)
        inode = self._regular(number)
        if offset + len(payload) > SIZE_MAX:
            raise Refused(errno.EFBIG)
        if not payload:
            return
        if offset + len(payload) > inode.size:
            self._reaper.finish(number, offset + len(payload))
        new = self._context.append_data(
            number, offset, payload, reserve_bytes=self._context.reserves.data_bytes
        )
        end = offset + len(payload)
        while offset < end:
            offset = self._point(number, offset, end, new)

    def _point(self, number: int, offset: int, end: int, new: list[Extent]) -> int:
        """Point the file from `offset` on at `new`, as far as changes few enough rows.

        Returns how far; the batch is not cut before it is all of the write.
        """
        catalog = self._catalog
        inode = self._regular(number)
        touched = []
        step = end
        if offset < inode.size:
            touched = list(islice(catalog.extents(number, offset, end), TOUCHED_MAX + 1))
            if len(touched) > TOUCHED_MAX:
                step = touched.pop().offset
        gone = replace(touched, offset, step)
        rows = [extent_removed(number, at) for at in gone.removed if at != offset]
        rows += (extent.row(number) for extent in gone.kept)
        if offset > inode.size:
            rows.append(Extent(inode.size, offset - inode.size, None).row(number))
        for extent in new:
            part = extent.clip(offset, step)
            if part is not None:
                rows.append(part.row(number))
        inode = inode._replace(
            size=max(inode.size, step), allocated=inode.allocated + (step - offset) - gone.freed
        )
        self._context.apply(rows, inode, whole=step == end)
        return step

    def makes_way(self, number: int, size: int) -> bool:
        """See `Attributes.makes_way`."""
        return self._reaper.advance(number, size)

    # -- truncating -------------------------------------------------------------------------

    def check_size(self, inode: Inode, size: int) -> None:
        """Raises Refused: EISDIR, EINVAL, EFBIG."""
        if not stat.S_ISREG(inode.mode):
            raise Refused(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL)
        if size < 0:
            raise Refused(errno.EINVAL)
        if size > SIZE_MAX:
            raise Refused(errno.EFBIG)

    def truncate(self, number: int, size: int) -> Inode:
        """Set the size: cut, or grow by a hole. Returns the new inode.

        Raises Refused: EISDIR, EINVAL, EFBIG, EROFS.
        """
        self._context.allow(Need.DELETE)
        inode, rows = self.resized(self._context.get_inode(number), size)
        self._context.apply(rows, inode)
        return inode

    def resized(self, inode: Inode, size: int) -> tuple[Inode, list[Row]]:
        """The inode with another size, and the extent rows that go with it; applies nothing.

        Raises Refused: EISDIR, EINVAL, EFBIG.
        """
        self.check_size(inode, size)
        rows: list[Row] = []
        freed = 0
        if size > inode.size:
            self._reaper.finish(inode.number, size)
            inode = self._context.get_inode(inode.number)
            rows = [self._hole_at_end(inode, size).row(inode.number)]
        elif size < inode.size:
            rows, freed = self._cut(inode, size)
        return inode._replace(size=size, allocated=inode.allocated - freed), rows

    def _hole_at_end(self, inode: Inode, size: int) -> Extent:
        """The hole that grows the file to `size`, one with the hole before it if there is one."""
        if inode.size:
            for last in self._catalog.extents(inode.number, inode.size - 1, inode.size):
                if last.address is None:
                    return Extent(last.offset, size - last.offset, None)
        return Extent(inode.size, size - inode.size, None)

    def _cut(self, inode: Inode, size: int) -> tuple[list[Row], int]:
        """Rows that end the file at `size`, and the data bytes they free.

        Of a long tail only the extent at the cut is changed; the reaper does the rest.
        """
        number = inode.number
        touched = list(islice(self._catalog.extents(number, size, inode.size), TOUCHED_MAX + 1))
        if len(touched) <= TOUCHED_MAX and self._reaper.mark_of(number) is None:
            gone = replace(touched, size, inode.size)
            rows = [extent_removed(number, at) for at in gone.removed]
            return rows + [extent.row(number) for extent in gone.kept], gone.freed
        gone = replace(touched[:1], size, inode.size)
        rows = [extent_removed(number, at) for at in gone.removed]
        rows += (extent.row(number) for extent in gone.kept)
        mark = self._reaper.mark_of(number)
        end = inode.size if mark is None else max(inode.size, mark.end)
        return [*rows, Reap(size, end).row(number)], gone.freed
