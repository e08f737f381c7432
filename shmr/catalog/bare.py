"""Inodes of which it is known that they have no extended attribute at all.

Most inodes have none, and the kernel asks for some (capabilities, ACLs) of nearly all. An inode is
noted when none was found, and no longer so as soon as one is set.
"""

from __future__ import annotations

BARE_MAX = 32_768
"""Numbers kept: some 3 MiB."""


class BareInodes:
    """Numbers of inodes without a row in XATTR."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def add(self, number: int) -> None:
        if len(self._numbers) >= BARE_MAX:
            self._numbers.clear()
        self._numbers.add(number)

    def discard(self, number: int) -> None:
        self._numbers.discard(number)
