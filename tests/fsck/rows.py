"""Rows of a catalog at rest, changed straight in LMDB, with right checksums: damage to be found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shmr.catalog import store
from shmr.catalog.checksum import checked, sealed
from shmr.format.rows import (
    ROOT,
    Cookie,
    Dentry,
    Extent,
    Inode,
    Row,
    Table,
    decode_dentry,
    decode_extent,
    decode_inode,
    key_named,
    key_of,
    key_pair,
    split_pair,
)


class Rows:
    """All tables, for whoever breaks them. Derived rows change only where that is said."""

    def __init__(self, transaction: Any, handles: dict[int, Any]) -> None:
        self._transaction = transaction
        self._handles = handles

    def get(self, table: Table, key: bytes) -> bytes:
        stored = self._transaction.get(key, db=self._handles[table])
        assert stored is not None, f"no row {key!r} in {table.name}"
        return checked(table, key, stored)

    def has(self, table: Table, number: int) -> bool:
        return self._transaction.get(key_of(number), db=self._handles[table]) is not None

    def put(self, *rows: Row) -> None:
        for table, key, value in rows:
            if value is None:
                assert self._transaction.delete(key, db=self._handles[table])
            else:
                self.raw(table, key, sealed(table, key, value))

    def raw(self, table: int, key: bytes, stored: bytes) -> None:
        """Whatever bytes, checksum and all."""
        self._transaction.put(key, stored, db=self._handles[table])

    def inode(self, number: int) -> Inode:
        return decode_inode(number, self.get(Table.INODE, key_of(number)))

    def change(self, number: int, **fields: Any) -> None:
        """Set fields of an inode."""
        self.put(self.inode(number)._replace(**fields).row())

    def find(self, path: bytes) -> int:
        number = ROOT
        for name in path.split(b"/"):
            if name:
                number = self.dentry(number, name).inode
        return number

    def dentry(self, directory: int, name: bytes) -> Dentry:
        return decode_dentry(self.get(Table.DENTRY, key_named(directory, name)))

    def name(self, directory: int, name: bytes, dentry: Dentry | None) -> None:
        """Set a name, or remove it, and its place in the reading order."""
        key = key_named(directory, name)
        if self._transaction.get(key, db=self._handles[Table.DENTRY]) is not None:
            old = self.dentry(directory, name)
            self.put(Row(Table.COOKIE, key_pair(directory, old.cookie), None))
        if dentry is None:
            self.put(Row(Table.DENTRY, key, None))
            return
        cookie = Cookie(name, dentry.inode, dentry.kind)
        self.put(dentry.row(directory, name), cookie.row(directory, dentry.cookie))

    def extents(self, number: int) -> list[Extent]:
        cursor = self._transaction.cursor(db=self._handles[Table.EXTENT])
        cursor.set_range(key_of(number))
        found = []
        for key, stored in cursor:
            if key[:8] != key_of(number):
                break
            found.append(decode_extent(split_pair(key)[1], checked(Table.EXTENT, key, stored)))
        return found


@contextmanager
def rows_of(catalog: Path) -> Iterator[Rows]:
    """The catalog in a directory, to be broken. It has no digest afterwards."""
    (catalog / store.DIGEST).unlink(missing_ok=True)
    with store.open_environment(catalog) as environment:
        handles = store.open_tables(environment)
        with environment.begin(write=True) as transaction:
            yield Rows(transaction, handles)
