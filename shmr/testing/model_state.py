"""What a model filesystem consists of, and which of its inodes are in use."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from shmr.errors import Refused
from shmr.format.rows import ROOT, Inode
from shmr.testing.content import Content
from shmr.testing.ranges import Ranges

Directory = dict[bytes, tuple[int, int]]
"""Name to (inode, cookie). Never changed in place."""


@dataclass(slots=True)
class State:
    """All of a model but its clock and its open files."""

    inodes: dict[int, Inode] = field(default_factory=dict)
    directories: dict[int, Directory] = field(default_factory=dict)
    xattrs: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    contents: dict[int, Content] = field(default_factory=dict)
    data: dict[int, Ranges] = field(default_factory=dict)
    """What of a file was written and is no hole."""
    next_inode: int = ROOT + 1

    def copy(self) -> State:
        return State(
            self.inodes.copy(),
            self.directories.copy(),
            self.xattrs.copy(),
            self.contents.copy(),
            self.data.copy(),
            self.next_inode,
        )

    def inode(self, number: int) -> Inode:
        if number not in self.inodes:
            raise Refused(errno.ENOENT)
        return self.inodes[number]

    def put(self, *inodes: Inode) -> None:
        for inode in inodes:
            self.inodes[inode.number] = inode


class ModelHandles:
    """Open files; an inode without a name lives until the last one is closed."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._open: dict[int, int] = {}
        self.keep_known = False
        """Orphans wait for `forgotten`, as under a kernel."""

    def copy(self, state: State) -> ModelHandles:
        """The same files open, in a copy of the state."""
        handles = ModelHandles(state)
        handles._open = self._open.copy()
        handles.keep_known = self.keep_known
        return handles

    def opened(self, number: int) -> None:
        self._open[number] = self._open.get(number, 0) + 1

    def closed(self, number: int) -> None:
        self._open[number] -= 1
        if not self._open[number]:
            del self._open[number]
            self.reclaim(number)

    def forgotten(self, number: int) -> None:
        if number not in self._open:
            self._free(number)

    def reclaim(self, number: int) -> None:
        if not self.keep_known:
            self.forgotten(number)

    def free_orphans(self) -> None:
        for number in list(self._state.inodes):
            self._free(number)

    def _free(self, number: int) -> None:
        inode = self._state.inodes.get(number)
        if inode is not None and inode.links == 0:
            for table in (
                self._state.inodes,
                self._state.directories,
                self._state.xattrs,
                self._state.contents,
                self._state.data,
            ):
                table.pop(number, None)
