"""Holes of the model filesystem: fallocate(2), and lseek(2) with SEEK_DATA and SEEK_HOLE."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable

from shmr.errors import Refused
from shmr.format.rows import SIZE_MAX, Inode
from shmr.testing.content import Content
from shmr.testing.model_state import State
from shmr.testing.ranges import Ranges

_WRONG_KIND = {stat.S_IFDIR: errno.EISDIR, stat.S_IFIFO: errno.ESPIPE}


class ModelHoles:
    """Made and found."""

    def __init__(self, state: State, clock: Callable[[], int]) -> None:
        self._state = state
        self._clock = clock

    def punch(self, number: int, offset: int, length: int) -> None:
        inode = self._target(number, offset, length)
        self._clear(number, offset, offset + length)
        self._change(inode, inode.size)

    def zero(self, number: int, offset: int, length: int, *, keep_size: bool) -> None:
        inode = self._target(number, offset, length)
        self._clear(number, offset, offset + length)
        self._change(inode, inode.size if keep_size else max(inode.size, offset + length))

    def allocate(self, number: int, offset: int, length: int, *, keep_size: bool) -> None:
        inode = self._target(number, offset, length)
        self._change(inode, inode.size if keep_size else max(inode.size, offset + length))

    def seek(self, number: int, offset: int, *, hole: bool) -> int:
        inode = self._state.inode(number)
        if not stat.S_ISREG(inode.mode):
            raise Refused(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL)
        if not 0 <= offset < inode.size:
            raise Refused(errno.ENXIO)
        for low, high in self._data(number).pairs:
            if offset < high and not hole:
                return max(offset, low)
            if low <= offset < high:
                return high
        if not hole:
            raise Refused(errno.ENXIO)
        return offset

    def _data(self, number: int) -> Ranges:
        return self._state.data.get(number, Ranges())

    def _target(self, number: int, offset: int, length: int) -> Inode:
        if offset < 0 or length <= 0:
            raise Refused(errno.EINVAL)
        inode = self._state.inode(number)
        if not stat.S_ISREG(inode.mode):
            raise Refused(_WRONG_KIND.get(stat.S_IFMT(inode.mode), errno.ENODEV))
        if offset + length > SIZE_MAX:
            raise Refused(errno.EFBIG)
        return inode

    def _clear(self, number: int, start: int, end: int) -> None:
        data = self._data(number)
        for low, high in data.within(start, end).pairs:
            content = self._state.contents[number]
            self._state.contents[number] = content.write(low, bytes(high - low))
        self._state.data[number] = data.without(start, end)

    def _change(self, inode: Inode, size: int) -> None:
        now = self._clock()
        content = self._state.contents.get(inode.number, Content())
        self._state.contents[inode.number] = content.truncate(size)
        self._state.put(inode._replace(size=size, mtime_ns=now, ctime_ns=now))
