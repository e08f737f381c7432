"""Attributes of inodes: mode, owner, times, size."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from shmr.format.rows import TIME_MAX_NS, TIME_MIN_NS, Inode, Row
from shmr.volume.context import Context, Need
from shmr.volume.data import Data
from shmr.volume.xattrs import Xattrs


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """What to set; None leaves it. Times are nanoseconds since 1970, size bytes."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


def clamp_time(time_ns: int) -> int:
    """The nearest time that an inode can hold (1677 to 2554), as ext4 clamps to its range."""
    if TIME_MIN_NS <= time_ns <= TIME_MAX_NS:
        return time_ns
    return TIME_MIN_NS if time_ns < 0 else TIME_MAX_NS


class Attributes:
    """Reads and changes inode rows. Who may is the kernel's business."""

    def __init__(self, context: Context, data: Data, xattrs: Xattrs) -> None:
        self._context = context
        self._data = data
        self._xattrs = xattrs

    def get(self, number: int) -> Inode:
        """Raises Refused(ENOENT)."""
        return self._context.get_inode(number)

    def set(self, number: int, change: AttributeChange) -> Inode:
        """Apply a change; ctime becomes now unless it is given.

        Raises Refused: ENOENT, EROFS; for a size EISDIR, EINVAL, EFBIG, NoSpace.
        """
        self._context.allow(Need.DELETE)
        inode = self._context.get_inode(number)
        now = self._context.clock()
        rows: list[Row] = []
        if change.size is not None:
            inode, rows = self._data.resized(inode, change.size)
            inode = inode._replace(mtime_ns=now)
        if change.mode is not None:
            mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(change.mode)
            inode = inode._replace(mode=mode)
            rows += self._xattrs.acl_rows(number, mode)
        ctime = now if change.ctime_ns is None else clamp_time(change.ctime_ns)
        # All in one: replacing a field costs as much as replacing many.
        inode = inode._replace(
            uid=inode.uid if change.uid is None else change.uid,
            gid=inode.gid if change.gid is None else change.gid,
            atime_ns=inode.atime_ns if change.atime_ns is None else clamp_time(change.atime_ns),
            mtime_ns=inode.mtime_ns if change.mtime_ns is None else clamp_time(change.mtime_ns),
            ctime_ns=ctime,
        )
        self._context.apply(rows, inode)
        return inode

    def makes_way(self, number: int, size: int) -> bool:
        """A step of what must be done before a file can grow to `size`: a long truncation may have
        left extents there. False if there is nothing (more) to do.

        Who grows a file need not call this; but others wait until all is done at once then.
        """
        inode = self._context.catalog.inode(number)
        if inode is None or size <= inode.size or self._context.read_only is not None:
            return False
        return self._data.makes_way(number, size)

    def accessed(self, number: int) -> None:
        """Note a read: relatime, so atime moves once after each change, and once a day."""
        if self._context.read_only:
            return
        inode = self._context.catalog.inode(number)
        now = self._context.clock()
        if inode is not None and needs_atime(inode, now):
            self._context.apply((), inode._replace(atime_ns=now))


DAY_NS = 24 * 3600 * 1_000_000_000


def needs_atime(inode: Inode, now_ns: int) -> bool:
    """The rule of mount(8)'s relatime."""
    atime = inode.atime_ns
    return atime <= inode.mtime_ns or atime <= inode.ctime_ns or now_ns - atime >= DAY_NS
