"""The reaper: deletes the many extents of long files in steps, so that nobody waits for it.

Unlink and truncate leave a mark, the range of an inode whose extents are dead. A file cannot grow
into its marked range before the mark is gone (`finish`); everybody else goes on.
"""

from __future__ import annotations

from collections.abc import Iterator

from shmr.format.records import Drop
from shmr.format.rows import Reap, Row, Table, decode_reap, key_of
from shmr.volume.context import Context

STEP_ROWS = 512
"""Extents deleted in one step: a few milliseconds."""


class Reaper:
    """Works off the marks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._catalog = context.catalog

    def mark_of(self, number: int) -> Reap | None:
        value = self._catalog.get(Table.REAP, key_of(number))
        return None if value is None else decode_reap(value)

    def marked(self) -> Iterator[int]:
        """Inodes with a mark, as of now."""
        return iter([int.from_bytes(key, "big") for key, _ in self._catalog.scan(Table.REAP, b"")])

    def step(self) -> bool:
        """Delete some extents of one marked inode; False if there is nothing left to do."""
        if self._context.read_only:
            return False
        for key, _ in self._catalog.scan(Table.REAP, b""):
            number = int.from_bytes(key, "big")
            break
        else:
            return False
        self._reap(number)
        return True

    def finish(self, number: int, until: int) -> None:
        """Work off the mark of one inode as far as its extents begin before `until`.

        A file that grows to `until` needs no more of it gone, and who writes on waits each time
        for a little.
        """
        while self.advance(number, until):
            pass

    def advance(self, number: int, until: int) -> bool:
        """A step of `finish`; False if there is nothing left to do."""
        mark = self.mark_of(number)
        if mark is None or mark.start >= until:
            return False
        self._reap(number)
        return True

    def _reap(self, number: int) -> None:
        mark = self.mark_of(number)
        assert mark is not None
        try:
            reached, freed = self._catalog.drop_extents(
                Drop(number, mark.start, mark.end), STEP_ROWS
            )
        except Exception as error:
            self._context.poison(error)
            raise
        if reached < mark.end:
            rows = [Reap(reached, mark.end).row(number)]
        else:
            rows = [Row(Table.REAP, key_of(number), None)]
        inode = self._catalog.inode(number)
        if inode is not None:
            rows.append(inode._replace(allocated=max(0, inode.allocated - freed)).row())
        self._context.apply(rows)
