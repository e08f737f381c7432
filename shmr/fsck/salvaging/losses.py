"""Files of which bytes are on no drive: which, how much, and what they are called.

Nothing is kept of a file but its number and a count, and nothing of one that lost nothing.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Container, Iterator
from typing import NamedTuple

from shmr.catalog.reading import Reading
from shmr.errors import IntegrityError
from shmr.format.rows import ROOT, Table, segment_of, split_key
from shmr.fsck.findings import Finding
from shmr.fsck.salvaging.tree import Walk, What

_MOST = 2**64 - 1


class Loss(NamedTuple):
    """`length` bytes of a file, in `extents` pieces, are gone.

    `path` is the first that leads to it from the top, without a slash before it; None where none
    does.
    """

    inode: int
    path: bytes | None
    extents: int
    length: int


class Losses:
    """What refers to segments that are `gone`. Raises IntegrityError for a damaged catalog."""

    def __init__(self, reading: Reading, gone: Container[int]) -> None:
        self._reading = reading
        self._inodes = array("Q")
        self._extents = array("Q")
        self._bytes = array("Q")
        for key, value in reading.rows(Table.EXTENT):
            data = segment_of(value)
            if data is not None and data[0] in gone:
                self._add(split_key(key), data[1])

    def _add(self, inode: int, length: int) -> None:
        if not self._inodes or self._inodes[-1] != inode:
            self._inodes.append(inode)
            self._extents.append(0)
            self._bytes.append(0)
        self._extents[-1] += 1
        self._bytes[-1] = min(self._bytes[-1] + length, _MOST)

    @property
    def inodes(self) -> int:
        return len(self._inodes)

    @property
    def extents(self) -> int:
        return sum(self._extents)

    @property
    def length(self) -> int:
        """Bytes."""
        return sum(self._bytes)

    def all(self) -> Iterator[Loss]:
        """Each file once: those that a name leads to in the order of the tree, then the others."""
        told = bytearray(len(self._inodes))
        try:
            top = self._reading.inode(ROOT)
        except IntegrityError:
            top = None
        if top is not None:
            walk = Walk(self._reading, _ignore)
            for step in walk.steps(top, b""):
                at = bisect_left(self._inodes, step.inode.number)
                if step.what is What.LEAVE or at == len(told) or told[at]:
                    continue
                if self._inodes[at] == step.inode.number:
                    told[at] = 1
                    yield self._loss(at, walk.path.lstrip(b"/"))
        for at, one in enumerate(told):
            if not one:
                yield self._loss(at, None)

    def _loss(self, at: int, path: bytes | None) -> Loss:
        return Loss(self._inodes[at], path, self._extents[at], self._bytes[at])


def _ignore(finding: Finding) -> None:
    """What is wrong with the tree is told by the checker."""
