"""Marks: the rows of ORPHAN and REAP, all of them in memory, written late.

Few exist at a time, most for a moment: an unlink marks an orphan, and the kernel's forgetting it
takes the mark away. Every write asks whether its file is marked for the reaper. Reading answers
from here and is exact; the changes are written together with the inodes' and under the same rules
(`shmr.catalog.inodes`): before the tables are scanned or counted, before a batch is handed out,
before the epoch is committed. A mark that came and went meanwhile is written nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from shmr.format.rows import Table

TABLES = frozenset((int(Table.ORPHAN), int(Table.REAP)))
_ROW_BYTES = 48
"""What a mark takes in a batch, at most."""


class Marks:
    """All rows of the tables in `TABLES`."""

    __slots__ = ("_rows", "changed", "size_bytes")

    def __init__(self) -> None:
        self._rows: dict[int, dict[bytes, bytes]] = {table: {} for table in TABLES}
        self.changed: dict[tuple[int, bytes], bytes | None] = {}
        """Not written yet; None is one that goes."""
        self.size_bytes = 0
        """What the changes will take in a batch, at most."""

    def get(self, table: int, key: bytes) -> bytes | None:
        return self._rows[table].get(key)

    def read(self, table: int, key: bytes, value: bytes | None) -> None:
        """The table has this row, or None where it went."""
        if value is None:
            self._rows[table].pop(key, None)
        else:
            self._rows[table][key] = value

    def change(self, table: int, key: bytes, value: bytes | None) -> None:
        self.read(table, key, value)
        self.changed[table, key] = value
        self.size_bytes = _ROW_BYTES * len(self.changed)

    def rows(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """What is to be written: table, key, value."""
        for (table, key), value in self.changed.items():
            yield table, key, value

    def written(self) -> None:
        """All of `rows` is in the transaction and in the batch."""
        self.changed.clear()
        self.size_bytes = 0
