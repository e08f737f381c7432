"""The tree that a catalog tells of, walked without believing any of it.

    for step in Walk(reading, report.find).steps(top, b""):
        ENTER a directory -> its files, then its directories' steps, then its symlinks -> LEAVE it

Names lead wherever whoever wrote them wanted. So every directory is entered once, under the first
name that leads to it; names that no file may have are not passed on; nothing is deeper than a
limit; and a row that cannot be decoded costs that row alone. What is wrong is told as findings.

Symlinks come last in their directory: by then nothing is opened in it any more.

Pure but for reading the catalog. Memory is flat: a few bytes for each directory, and the names on
the way to the current one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import NamedTuple

from shmr.catalog.reading import Reading
from shmr.core.shown import SHOWN_MAX, shown
from shmr.errors import IntegrityError
from shmr.format.rows import (
    NAME_MAX,
    ROOT,
    Dentry,
    Inode,
    Table,
    decode_bytes,
    decode_dentry,
    key_of,
)
from shmr.fsck.findings import Finding, Kind, Where

DEPTH_MAX = 1000
"""Deeper directories are left out: each on the way holds a cursor and a descriptor."""
_BLOCK_NUMBERS = 4096
_BLOCKS_MAX = 1 << 16

Find = Callable[[Finding], None]


class What(Enum):
    """What a step is."""

    ENTER = auto()
    LEAVE = auto()
    PUT = auto()
    """Anything but a directory."""


class Step(NamedTuple):
    what: What
    name: bytes
    inode: Inode


class _Level:
    """A directory that is being walked."""

    __slots__ = ("entries", "inode", "links", "name")

    def __init__(self, name: bytes, inode: Inode, entries: Iterator[tuple[bytes, Dentry]]) -> None:
        self.name = name
        self.inode = inode
        self.entries = entries
        self.links: bool | None = False
        """Are there symlinks to be given at the end? None: they are being given."""


class Walk:
    """One walk through the tree. Findings are given to `find`."""

    def __init__(self, reading: Reading, find: Find, *, depth_max: int = DEPTH_MAX) -> None:
        self._reading = reading
        self._find = find
        self._depth_max = depth_max
        self._stack: list[_Level] = []
        self._seen = Numbers()
        self._name: bytes | None = None
        self._prefix = b""

    @property
    def path(self) -> bytes:
        """Where the step that was given last is, from the top of the filesystem on."""
        return self._below(self._name) or b"/"

    def _below(self, name: bytes | None) -> bytes:
        names = [self._prefix, *[level.name for level in self._stack[1:]]]
        return b"/".join(names if name is None else [*names, name])

    def skip(self) -> None:
        """The directory that was entered last is not walked; no LEAVE comes for it."""
        self._stack.pop()

    def steps(self, top: Inode, name: bytes, prefix: bytes = b"") -> Iterator[Step]:
        """What is at `top` and below: `name` is what it is called, `prefix` the path to it.

        Raises IntegrityError for a damaged catalog.
        """
        self._prefix = prefix
        if not stat.S_ISDIR(top.mode):
            self._name = None
            yield Step(What.PUT, name, top)
            return
        self._seen.add(ROOT)
        self._seen.add(top.number)
        self._push(name, top)
        yield Step(What.ENTER, name, top)
        while self._stack:
            level = self._stack[-1]
            found = self._next(level)
            if found is not None:
                yield found
            elif level.links:
                level.links, level.entries = None, self._entries(level.inode.number)
            else:
                self._name = None
                yield Step(What.LEAVE, level.name, level.inode)
                self._stack.pop()

    def _push(self, name: bytes, inode: Inode) -> None:
        self._stack.append(_Level(name, inode, self._entries(inode.number)))
        self._name = None

    def _next(self, level: _Level) -> Step | None:
        """The next step in this directory; None when there is no further one."""
        for name, dentry in level.entries:
            again = level.links is None
            inode = self._inode(name, dentry, quiet=again)
            if inode is None:
                continue
            self._name = name
            if stat.S_ISLNK(inode.mode):
                if again:
                    return Step(What.PUT, name, inode)
                level.links = True
            elif again:
                continue
            elif not stat.S_ISDIR(inode.mode):
                return Step(What.PUT, name, inode)
            elif self._may_enter(name, inode):
                self._push(name, inode)
                return Step(What.ENTER, name, inode)
        return None

    def _entries(self, directory: int) -> Iterator[tuple[bytes, Dentry]]:
        """The names in a directory, but for those that cannot be."""
        for key, value in self._reading.rows(Table.DENTRY, key_of(directory)):
            name = key[8:]
            try:
                dentry = decode_dentry(value)
            except IntegrityError as error:
                if self._stack[-1].links is not None:
                    self._tell(Kind.TREE_TWISTED, name, str(error))
                continue
            yield name, dentry

    def _inode(self, name: bytes, dentry: Dentry, *, quiet: bool) -> Inode | None:
        """The inode that a name may lead to; what is wrong with it is told unless `quiet`."""
        number = dentry.inode
        if not is_allowed(name):
            if not quiet:
                why = f"no file may be called so; it is inode {number}: --inode {number} gets it"
                self._tell(Kind.NAME_REFUSED, name, why, number)
            return None
        try:
            inode = inode_of(self._reading, number)
            why = f"inode {number} is not known"
        except IntegrityError as error:
            inode, why = None, str(error)
        if inode is not None and stat.S_IFMT(inode.mode) not in _TYPES:
            inode, why = None, f"inode {number} is of no type that is known"
        if inode is None and not quiet:
            self._tell(Kind.TREE_TWISTED, name, why, number)
        return inode

    def _may_enter(self, name: bytes, inode: Inode) -> bool:
        number = inode.number
        if len(self._stack) >= self._depth_max:
            why = f"nested deeper than {self._depth_max}; --inode {number} gets what is in it"
        elif number in self._seen:
            why = f"directory {number} has another name, or is above itself"
        elif not self._seen.add(number):
            why = f"the number {number} is too far from others; --inode {number} gets what is in it"
        else:
            return True
        self._tell(Kind.TREE_TWISTED, name, why, number)
        return False

    def _tell(self, kind: Kind, name: bytes, why: str, inode: int | None = None) -> None:
        path = self._below(name)
        where = Where(inode=inode, path=os.fsdecode(path[:SHOWN_MAX]))
        self._find(Finding(kind, f"{shown(path)}: {why}", where))


_TYPES = frozenset(
    (
        stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR,
        stat.S_IFBLK,
    )
)  # fmt: skip


def is_allowed(name: bytes) -> bool:
    """Whether a file in a directory can have this name."""
    return (
        0 < len(name) <= NAME_MAX
        and name not in (b".", b"..")
        and b"/" not in name
        and b"\0" not in name
    )


def inode_of(reading: Reading, number: int) -> Inode | None:
    """The inode of this number, if it can be one. Raises IntegrityError for a damaged row."""
    return reading.inode(number) if 0 < number < 2**63 else None


def xattrs_of(reading: Reading, number: int) -> Iterator[tuple[bytes, bytes | None]]:
    """Extended attributes by name; None for one that cannot be decoded."""
    for key, value in reading.rows(Table.XATTR, key_of(number)):
        try:
            yield key[8:], decode_bytes(value)
        except IntegrityError:
            yield key[8:], None


class Numbers:
    """A set of numbers that lie near to each other, as those of inodes do: a bit for each.

    Forged ones may lie anywhere, so there is a limit: some 40 MiB.
    """

    def __init__(self, blocks_max: int = _BLOCKS_MAX) -> None:
        self._blocks: dict[int, bytearray] = {}
        self._blocks_max = blocks_max

    def __contains__(self, number: int) -> bool:
        block = self._blocks.get(number // _BLOCK_NUMBERS)
        at = number % _BLOCK_NUMBERS
        return block is not None and bool(block[at // 8] >> at % 8 & 1)

    def add(self, number: int) -> bool:
        """False where no room is left for it."""
        block = self._blocks.get(number // _BLOCK_NUMBERS)
        if block is None:
            if len(self._blocks) >= self._blocks_max:
                return False
            block = self._blocks[number // _BLOCK_NUMBERS] = bytearray(_BLOCK_NUMBERS // 8)
        at = number % _BLOCK_NUMBERS
        block[at // 8] |= 1 << at % 8
        return True
