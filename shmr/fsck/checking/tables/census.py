"""What is remembered of each inode while the other tables are read: numbers in arrays.

An inode has a *rank*, its place in the order of the numbers; a directory has another, among the
directories.
"""

from __future__ import annotations

import stat
from array import array
from bisect import bisect_left

from shmr.format.rows import Inode

ABSENT = -1
_LINKS_MAX = 2**32 - 1


class Census:
    """Every inode, and more of every directory."""

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.kinds = array("H")
        """The type bits of the mode; 0 where the row cannot be read."""
        self.links = array("I")
        """As the row has them, or the most that fits."""
        self.named = array("I")
        """Names that were seen."""
        self.orphans = bytearray()
        """1: a row says that it has no name any more and is to go."""
        self.directories = array("Q")
        self.parents = array("Q")
        """As the row has it."""
        self.entries = array("Q")
        self.next_cookies = array("Q")
        self.entries_seen = array("Q")
        self.below_seen = array("Q")
        """Names of directories in it."""
        self.above = array("Q")
        """The directory in which it is named; 0: in none."""
        self.headless: set[int] = set()
        """Numbers without a row of which there are extents or attributes."""

    def add(self, number: int, inode: Inode | None, *, orphan: bool) -> None:
        """The next inode; None if its row cannot be read."""
        kind = 0 if inode is None else stat.S_IFMT(inode.mode)
        self.numbers.append(number)
        self.kinds.append(kind)
        self.links.append(0 if inode is None else min(inode.links, _LINKS_MAX))
        self.named.append(0)
        self.orphans.append(orphan)
        if inode is not None and kind == stat.S_IFDIR:
            self.directories.append(number)
            self.parents.append(inode.parent)
            self.entries.append(inode.entries)
            self.next_cookies.append(inode.next_cookie)
            for seen in (self.entries_seen, self.below_seen, self.above):
                seen.append(0)

    def rank(self, number: int) -> int:
        """Of an inode; ABSENT if there is no row of it."""
        at = bisect_left(self.numbers, number)
        return at if at < len(self.numbers) and self.numbers[at] == number else ABSENT

    def directory(self, number: int) -> int:
        """The rank among directories; ABSENT if it is none."""
        at = bisect_left(self.directories, number)
        return at if at < len(self.directories) and self.directories[at] == number else ABSENT
