"""Rows in the order of their keys: verified, counted, and several tables in step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shmr.catalog.checksum import checked
from shmr.catalog.reading import Reading
from shmr.errors import IntegrityError
from shmr.format.rows import Row as Change
from shmr.format.rows import Table
from shmr.fsck.checking.tables.flaw import Flaw, Mend, doubt, flaw
from shmr.fsck.findings import Kind, Where

Row = tuple[bytes, bytes]
Told = Callable[[Table, int], None]
"""Told the table and how many more of its rows were read; may raise to end it."""
TOLD_ROWS = 4096
FAILS = "fails its checksum"
_KEY_MIN, _KEY_MAX = 8, 8 + 255
_NAMED = {Table.DENTRY, Table.XATTR}
_EXACT = {
    Table.INODE: 8,
    Table.EXTENT: 16,
    Table.ORPHAN: 8,
    Table.REAP: 8,
    Table.ARCHIVE: 8,
    Table.COOKIE: 16,
    Table.USAGE: 8,
}
_CAREFREE = {Table.INODE, Table.XATTR, Table.ORPHAN, Table.STATE, Table.ARCHIVE}
"""Tables of which recovery takes any row, so that a wrong one may be in the log too."""


def untold(table: Table, rows: int) -> None:
    """Nobody wants to know."""


class Walk:
    """One check of one catalog. `rebuilt`: nothing knows better than this catalog."""

    def __init__(self, reading: Reading, told: Told = untold, *, rebuilt: bool = False) -> None:
        self.reading = reading
        self.rebuilt = rebuilt
        self._told = told
        self.flaws: list[Flaw] = []
        """Of rows that cannot be read: whoever walks gives them out."""

    def rows(self, table: Table, *, broken: bool = False) -> Iterator[Row]:
        """Key and value of every row that verifies; the others are `flaws`.

        With `broken` those that fail their checksum come too, without a value, and are no flaws.
        """
        exact = _EXACT.get(table)
        count = 0
        for key, stored in self.reading.stored(table):
            count += 1
            if count == TOLD_ROWS:
                self._told(table, count)
                count = 0
            try:
                value = checked(table, key, stored)
            except IntegrityError:
                if not broken:
                    self.wrong(table, key, FAILS)
                    continue
                value = b""
            size = len(key)
            if size != exact if exact else table in _NAMED and not _named(key):
                self.wrong(table, key, f"has a key of {size} bytes")
                continue
            yield key, value
        self._told(table, count)

    def wrong(self, table: Table, key: bytes, why: str) -> None:
        """A row that cannot be used."""
        message = f"a row of table {table.name}, key {key.hex()}, {why}"
        inode = int.from_bytes(key[:8], "big") if _owned(table, key) else None
        # What is done to a row of these is done by the number that its key begins with.
        meant = table not in (Table.INODE, Table.ARCHIVE) or len(key) == _EXACT[table]
        if table in _CAREFREE and meant:
            remove = Mend((Change(table, key, None),))
            self.flaws.append(flaw(Kind.ROW_UNREADABLE, inode, message, "remove it", remove))
        else:
            where = Where(inode=inode)
            self.flaws.append(doubt(Kind.ROW_UNREADABLE, message, where, rebuilt=self.rebuilt))

    def taken(self) -> Iterator[Flaw]:
        """The flaws since the last call."""
        flaws, self.flaws = self.flaws, []
        return iter(flaws)


def _named(key: bytes) -> bool:
    """Is it a number with a name behind it?"""
    return _KEY_MIN < len(key) <= _KEY_MAX


def _owned(table: Table, key: bytes) -> bool:
    """Does the key begin with the number of an inode?"""
    return len(key) >= 8 and table in (
        Table.INODE,
        Table.DENTRY,
        Table.EXTENT,
        Table.XATTR,
        Table.ORPHAN,
        Table.REAP,
        Table.COOKIE,
    )


class Beside:
    """A table whose keys begin with a number, read in step with one of such numbers."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def of(self, prefix: bytes) -> Iterator[Row]:
        """The rows of this number. The numbers are asked for in their order, each once.

        All that is before them must have been taken with `before`, and all of these have to be.
        """
        row = self._next
        while row is not None and row[0][:8] == prefix:
            yield row
            row = self._next = next(self._rows, None)

    def before(self, prefix: bytes | None) -> Iterator[tuple[bytes, Iterator[Row]]]:
        """The numbers below this one that nobody asked for, each with its rows; None: all."""
        while self._next is not None and (prefix is None or self._next[0][:8] < prefix):
            stray = self._next[0][:8]
            rows = self.of(stray)
            yield stray, rows
            for _ in rows:
                pass
