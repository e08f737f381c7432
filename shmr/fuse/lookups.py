"""How often the kernel was told of each inode: its lookup counts, small.

The kernel keeps an inode until it forgets it, and says how many of our replies it forgets with
it; only when all are forgotten may an unlinked inode go. A dict of a million counts would cost
100 MB. Inode numbers are handed out in sequence, so counts stand in small pages of one byte each;
the rare count above a byte's range has its excess in a dict. A page without counts is dropped.

Invariant: a count is `page byte + excess`, and excess exists only where the byte is FULL.
"""

from __future__ import annotations

PAGE = 64
FULL = 255


class LookupCounts:
    """Counts by inode number; an inode that was never added has the count 0."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._excess: dict[int, int] = {}

    def __getitem__(self, inode: int) -> int:
        page = self._pages.get(inode // PAGE)
        return page[inode % PAGE] + self._excess.get(inode, 0) if page is not None else 0

    def add(self, inode: int) -> None:
        """One more reply told the kernel of `inode`."""
        number, index = divmod(inode, PAGE)
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = bytearray(PAGE)
        if page[index] < FULL:
            page[index] += 1
        else:
            self._excess[inode] = self._excess.get(inode, 0) + 1

    def drop(self, inode: int, count: int) -> bool:
        """The kernel forgets `count` replies; whether it knows nothing of `inode` any more."""
        number, index = divmod(inode, PAGE)
        page = self._pages.get(number)
        if page is None or not page[index]:
            return False
        left = max(0, page[index] + self._excess.pop(inode, 0) - count)
        page[index] = min(left, FULL)
        if left > FULL:
            self._excess[inode] = left - FULL
        if left == 0 and not any(page):
            del self._pages[number]
        return left == 0

    @property
    def page_count(self) -> int:
        """Pages in memory."""
        return len(self._pages)
