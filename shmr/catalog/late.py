"""What is written late: inodes and marks that changed, on their way to LMDB and to the batch.

Why, and what must hold, is said in `shmr.catalog.inodes`.
"""

from __future__ import annotations

from shmr.catalog import inodes, marks
from shmr.catalog.batch import Batch
from shmr.catalog.inodes import Inodes
from shmr.catalog.marks import Marks
from shmr.catalog.tables import Tables
from shmr.format.rows import Row, Table, decode_inode, split_key

TABLES = marks.TABLES | {int(Table.INODE)}


class Late:
    """The inodes and the marks of a catalog."""

    __slots__ = ("_tables", "inodes", "marks")

    def __init__(self, tables: Tables) -> None:
        self.inodes = Inodes()
        self.marks = Marks()
        self._tables = tables
        for table in marks.TABLES:
            for key, value in tables.scan(table, b""):
                self.marks.read(table, key, value)

    @property
    def size_bytes(self) -> int:
        """What is here will take in a batch, at most."""
        return self.inodes.size_bytes + self.marks.size_bytes

    def is_full(self) -> bool:
        return len(self.inodes.changed) >= inodes.CHANGED_MAX

    def put(self, row: Row) -> None:
        """A row of one of `TABLES` changes."""
        table, key, value = row
        if table in marks.TABLES:
            self.marks.change(table, key, value)
        elif value is None:
            self.inodes.remove(split_key(key))
        else:
            self.inodes.change(decode_inode(split_key(key), value))

    def replayed(self, row: Row) -> None:
        """A row of one of `TABLES` is written past this."""
        table, key, value = row
        if table in marks.TABLES:
            self.marks.read(table, key, value)
        else:
            self.inodes.replayed(split_key(key))

    def write(self, batch: Batch) -> None:
        """Write all that changed since the last call to the tables and into `batch`.

        Where this fails, all of it is still here to be written.
        """
        for part in (self.inodes, self.marks):
            if not part.changed:
                continue
            for table, key, value in part.rows():
                if value is None and not self._tables.has(table, key):
                    # It came and went meanwhile: the journal has not heard of it either.
                    continue
                batch.add(table, key, value)
                self._tables.put(table, key, value)
            part.written()
