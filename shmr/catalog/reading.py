"""The last checkpoint of a catalog, for a process that only looks: also while it is mounted.

    with open_reading(path) as reading:
        reading.extents(inode)

One LMDB read transaction, seen by the daemon through LMDB's own lock, which keeps the pages that
this one reads. So what is shown is of one moment, and nothing is disturbed; but the file grows
while somebody looks for long. Every value passes its checksum and is decoded. What was changed
after the checkpoint is not seen: it is in the daemon, and in the journal.

A table that the catalog of an older version lacks is empty.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import lmdb

from shmr.catalog import store
from shmr.catalog.checksum import KEEPER, checked
from shmr.errors import IntegrityError, SetupError
from shmr.format.archived import Archived, decode_archived
from shmr.format.rows import (
    ROOT,
    Dentry,
    Extent,
    Inode,
    Place,
    Table,
    decode_bytes,
    decode_dentry,
    decode_extent,
    decode_inode,
    decode_number,
    decode_place,
    key_named,
    key_of,
    split_key,
    split_pair,
)

_PAGE_BYTES = 4096
_PLACE = b"place"
_FILESYSTEM = b"filesystem"
_NEXT_SEGMENT = b"next_segment"


class Reading:
    """What the last checkpoint says. All methods raise IntegrityError for a damaged row."""

    def __init__(self, transaction: Any, handles: dict[int, Any], written_ns: int) -> None:
        self._transaction = transaction
        self._handles = handles
        self.written_ns = written_ns
        """When the checkpoint was made, about: nanoseconds since 1970."""

    def stored(self, table: Table) -> Iterator[tuple[bytes, bytes]]:
        """Every row as it lies there, by key: what `checked` takes. Not a keeper's."""
        handle = self._handles[table]
        if handle is None:
            return iter(())
        cursor = self._transaction.cursor(db=handle)
        if table in (Table.ORPHAN, Table.REAP):
            return takewhile(lambda row: row[0] != KEEPER, cursor)
        found: Iterator[tuple[bytes, bytes]] = iter(cursor)
        return found

    def value(self, table: Table, key: bytes) -> bytes | None:
        """The value of any row, if it is there."""
        return self._get(table, key)

    def has(self, table: Table, prefix: bytes) -> bool:
        """Does any key begin so?"""
        handle = self._handles[table]
        if handle is None:
            return False
        cursor = self._transaction.cursor(db=handle)
        return bool(cursor.set_range(prefix)) and bytes(cursor.key()).startswith(prefix)

    def count(self, table: Table) -> int:
        """Rows of a table; a keeper's counts."""
        return self._facts(table)["entries"]

    def size_bytes(self, table: Table) -> int:
        """Bytes of the pages that hold a table."""
        facts = self._facts(table)
        pages = facts["branch_pages"] + facts["leaf_pages"] + facts["overflow_pages"]
        return pages * facts["psize"]

    def _facts(self, table: Table) -> Counter[str]:
        """LMDB's counts; zeros where there is no such table."""
        handle = self._handles[table]
        return Counter() if handle is None else Counter(self._transaction.stat(handle))

    def place(self) -> Place:
        """Where in the journal the checkpoint stands."""
        value = self._get(Table.PLACE, _PLACE)
        if value is None:
            raise IntegrityError("catalog: no checkpoint was ever made")
        return decode_place(value)

    def filesystem(self) -> bytes:
        """The id of the filesystem that the catalog is of."""
        value = self._get(Table.PLACE, _FILESYSTEM)
        if value is None:
            raise IntegrityError("catalog: no checkpoint was ever made")
        return decode_bytes(value)

    def next_segment(self) -> int:
        """A number that no segment had at the checkpoint; 1 if none was made."""
        value = self._get(Table.PLACE, _NEXT_SEGMENT)
        return 1 if value is None else decode_number(value)

    def state(self, name: bytes, default: int = 0) -> int:
        value = self._get(Table.STATE, name)
        return default if value is None else decode_number(value)

    def inode(self, number: int) -> Inode | None:
        value = self._get(Table.INODE, key_of(number))
        return None if value is None else decode_inode(number, value)

    def dentry(self, directory: int, name: bytes) -> Dentry | None:
        value = self._get(Table.DENTRY, key_named(directory, name))
        return None if value is None else decode_dentry(value)

    def dentries(self) -> Iterator[tuple[int, bytes, int]]:
        """Every name: its directory, itself, and the inode that it is of."""
        for key, value in self._scan(Table.DENTRY):
            yield split_key(key), key[8:], decode_dentry(value).inode

    def entries(self, directory: int) -> Iterator[tuple[bytes, Dentry]]:
        """The names in a directory, in the order of their bytes."""
        for key, value in self._scan(Table.DENTRY, key_of(directory)):
            yield key[8:], decode_dentry(value)

    def rows(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys and values that begin so, not decoded: for who goes on behind one that cannot be."""
        return self._scan(table, prefix)

    def xattrs(self, inode: int) -> Iterator[tuple[bytes, bytes]]:
        """The extended attributes of an inode, POSIX ACLs among them, by name."""
        for key, value in self._scan(Table.XATTR, key_of(inode)):
            yield key[8:], decode_bytes(value)

    def states(self, prefix: bytes) -> Iterator[tuple[bytes, int]]:
        """The numbers of the state rows whose names begin so, by name."""
        for key, value in self._scan(Table.STATE, prefix):
            yield key, decode_number(value)

    def find(self, path: bytes) -> int | None:
        """The inode at `path`, from the root of the filesystem; symbolic links are not followed."""
        number = ROOT
        for name in path.split(b"/"):
            if not name or name == b".":
                continue
            dentry = self.dentry(number, name) if len(name) <= 255 else None
            if dentry is None:
                return None
            number = dentry.inode
        return number

    def inodes(self) -> Iterator[Inode]:
        """Every inode, by number."""
        for key, value in self._scan(Table.INODE):
            number = split_key(key)
            yield decode_inode(number, value)

    def extents(self, inode: int) -> Iterator[Extent]:
        """The extents of one inode, in order."""
        for key, value in self._scan(Table.EXTENT, key_of(inode)):
            yield decode_extent(split_pair(key)[1], value)

    def all_extents(self) -> Iterator[tuple[int, Extent]]:
        """Every extent with its inode, by inode and offset."""
        for key, value in self._scan(Table.EXTENT):
            inode, offset = split_pair(key)
            yield inode, decode_extent(offset, value)

    def archived(self, segment: int) -> Archived | None:
        """What is known of the segment, if it is archived."""
        value = self._get(Table.ARCHIVE, key_of(segment))
        return None if value is None else decode_archived(value)

    def archived_segments(self) -> Iterator[tuple[int, Archived]]:
        """Every archived segment, by number."""
        for key, value in self._scan(Table.ARCHIVE):
            yield split_key(key), decode_archived(value)

    def live(self) -> dict[int, int]:
        """Segment number -> bytes that extents refer to in it."""
        return {split_key(key): decode_number(value) for key, value in self._scan(Table.USAGE)}

    def _get(self, table: Table, key: bytes) -> bytes | None:
        handle = self._handles[table]
        stored = None if handle is None else self._transaction.get(key, db=handle)
        return None if stored is None else checked(table, key, stored)

    def _scan(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        handle = self._handles[table]
        if handle is None:
            return
        cursor = self._transaction.cursor(db=handle)
        if not cursor.set_range(prefix):
            return
        for key, stored in cursor:
            if not key.startswith(prefix) or key == KEEPER:
                return
            yield key, checked(table, key, stored)


@contextmanager
def open_reading(path: Path, *, live: bool = True) -> Iterator[Reading]:
    """The last checkpoint of the catalog in directory `path`.

    Unless it is `live`, nobody writes to it meanwhile, and LMDB's lock is left alone.
    Raises SetupError where there is none or it cannot be opened, IntegrityError for a damaged file.
    """
    with open_readings(path, live=live) as newest, newest() as reading:
        yield reading


@contextmanager
def open_readings(
    path: Path, *, live: bool = True
) -> Iterator[Callable[[], AbstractContextManager[Reading]]]:
    """What opens the last checkpoint, as of then, as often as it is called: also while another is
    still being read. (A process opens an LMDB file once.) As `open_reading` otherwise.
    """
    if not store.exists(path):
        raise SetupError(
            f"catalog: there is none at {path}; a mount makes it, or rebuilds a lost one"
        )
    _check_size(path, _PAGE_BYTES * 2)
    with _telling(path), _open(path, live) as environment:
        with environment.begin():
            _check_all(path, environment)
        handles = {int(table): _handle(environment, table) for table in Table}

        @contextmanager
        def newest() -> Iterator[Reading]:
            with _telling(path), environment.begin() as transaction:
                yield Reading(transaction, handles, _check_all(path, environment).st_mtime_ns)

        yield newest


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except lmdb.Error as error:
        raise IntegrityError(f"catalog: {path} cannot be read: {error}") from error


def _check_all(path: Path, environment: lmdb.Environment) -> os.stat_result:
    """LMDB maps what its header claims; a shorter file would be SIGBUS. To be asked inside a
    transaction: the daemon may lengthen the file, and never shortens it."""
    pages = int(environment.info()["last_pgno"]) + 1
    return _check_size(path, pages * int(environment.stat()["psize"]))


def _check_size(path: Path, least_bytes: int) -> os.stat_result:
    facts = (path / store.DATA).stat()
    if facts.st_size < least_bytes or facts.st_size % _PAGE_BYTES:
        raise IntegrityError(
            f"catalog: {path / store.DATA} has {facts.st_size} bytes and should have "
            f"{least_bytes} at least: it was cut; the next mount rebuilds it from the log"
        )
    return facts


def _open(path: Path, live: bool) -> lmdb.Environment:
    try:
        return store.open_environment(path, read_only=True, live=live)
    except lmdb.Error:
        if os.access(path, os.W_OK):
            raise
        # The lock cannot be written, and neither can the catalog: nobody changes it.
        return store.open_environment(path, read_only=True)


def _handle(environment: lmdb.Environment, table: Table) -> Any:
    """A handle for all transactions: one opened within a transaction would be that one's own."""
    try:
        return environment.open_db(table.name.lower().encode(), create=False)
    except lmdb.NotFoundError:
        return None
