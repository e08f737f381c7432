"""The catalog as the volume sees it: rows read and applied in one long write transaction.

One transaction is an epoch: it begins at a checkpoint and is committed by the next, only on the
volume's thread, and only when the journal durably has every row in it. Readers use the same
transaction and so see their own writes. Applied truth rows are also collected in `batch`, for
the journal.

An LMDB error means the catalog can no longer be trusted: it is let through to end the daemon,
and recovery is the only repair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from shmr.catalog import store
from shmr.catalog.batch import Batch
from shmr.catalog.checksum import checked, sealed
from shmr.catalog.derived import HAS_DERIVED, derive
from shmr.catalog.recent import RecentExtents
from shmr.errors import IntegrityError, ShmrError
from shmr.format.records import Drop
from shmr.format.rows import (
    TRUTH,
    Dentry,
    Extent,
    Inode,
    Place,
    Row,
    Table,
    decode_bytes,
    decode_dentry,
    decode_extent,
    decode_inode,
    decode_number,
    decode_place,
    encode_bytes,
    encode_number,
    key_named,
    key_of,
    key_pair,
    segment_of,
    split_pair,
)
from shmr.units import KIB, MIB

_INODE = int(Table.INODE)
_EXTENT = int(Table.EXTENT)
_PLACE = b"place"
_FILESYSTEM = b"filesystem"
_NEXT_SEGMENT = b"next_segment"
_REBUILD_ROWS = 100_000
_KEEPER = b"\xff" * 9
"""A key behind all others in tables that would often be empty. LMDB uses the page of a table that
becomes empty not again in the same transaction: each unlink would cost a page (measured: an epoch
of 2,500 grew a catalog of 1.2 MB to 11 MB)."""
_PAGE_BYTES = 4096
_EPOCH_MAX_BYTES = 100 * MIB
"""Pages that the rows of one epoch can lie on (`shmr.volume.checkpoint.ROWS`, one page each, and
the pages above them)."""
_STEP_BYTES = 512 * KIB
_INODES_KEPT = 8192
"""Decoded inode rows kept in memory: a parent directory is needed by every request in it."""


class CatalogFailed(ShmrError):
    """LMDB could not commit: what it shows is older than what was acknowledged.

    Only a new mount, whose recovery brings the catalog up to the journal, goes on from here.
    """


class Catalog:
    """All tables of one filesystem, and the batch of rows not yet in the journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._environment = store.open_environment(path)
        self._tables = store.open_tables(self._environment)
        self._transaction = self._environment.begin(write=True)
        for table in (Table.ORPHAN, Table.REAP):
            value = sealed(table, _KEEPER, b"")
            self._transaction.put(_KEEPER, value, db=self._tables[table], overwrite=False)
        self.batch = Batch()
        self.epoch_rows = 0
        """Rows changed since the last checkpoint."""
        self.live = {
            int.from_bytes(key, "big"): decode_number(value)
            for key, value in self.scan(Table.USAGE, b"")
        }
        """Segment number -> bytes that extents refer to in it."""
        self._live_stored = dict(self.live)
        self.leave_bytes = 0
        """Bytes of the disk that are not to be taken ahead: those that the log reserves."""
        self.short = False
        """The disk has no room for what the next epochs may take: nothing should be added."""
        self._reserve()
        self._rebuilding = self.place() is None
        self._inodes: dict[int, Inode] = {}
        self._recent = RecentExtents()

    # -- reading ----------------------------------------------------------------------------

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value of `key`, or None. Raises IntegrityError if it fails its checksum."""
        stored = self._transaction.get(key, db=self._tables[table])
        return None if stored is None else checked(table, key, stored)

    def scan(self, table: int, start: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows from `start` on in key order, while the key begins with `prefix`.

        The table must not change while the iterator is in use.
        """
        cursor = self._transaction.cursor(db=self._tables[table])
        if not cursor.set_range(start):
            return
        for key, stored in cursor:
            if not key.startswith(prefix) or key == _KEEPER:
                return
            yield key, checked(table, key, stored)

    def inode(self, number: int) -> Inode | None:
        inode = self._inodes.get(number)
        if inode is not None:
            return inode
        value = self.get(Table.INODE, key_of(number))
        if value is None:
            return None
        if len(self._inodes) >= _INODES_KEPT:
            self._inodes.clear()
        inode = self._inodes[number] = decode_inode(number, value)
        return inode

    def dentry(self, directory: int, name: bytes) -> Dentry | None:
        value = self.get(Table.DENTRY, key_named(directory, name))
        return None if value is None else decode_dentry(value)

    def extent_at(self, inode: int, offset: int) -> Extent | None:
        """The extent of `inode` that holds `offset`, if there is one."""
        recent = self._recent.find(inode, offset)
        if recent is not None:
            return recent
        cursor = self._transaction.cursor(db=self._tables[_EXTENT])
        target = key_pair(inode, offset)
        found = cursor.set_range(target)
        if not (found and cursor.key() == target) and not (
            cursor.prev() if found else cursor.last()
        ):
            return None
        key, stored = cursor.item()
        if key[:8] != target[:8]:
            return None
        extent = decode_extent(split_pair(key)[1], checked(_EXTENT, key, stored))
        if extent.end <= offset:
            return None
        self._recent.add(inode, extent)
        return extent

    def extents(self, inode: int, start: int, end: int) -> Iterator[Extent]:
        """Extents of `inode` that overlap [start, end), in order."""
        cursor = self._transaction.cursor(db=self._tables[Table.EXTENT])
        prefix = key_of(inode)
        target = key_pair(inode, start)
        # The extent that holds `start` begins at or before it.
        if cursor.set_range(target):
            if cursor.key() != target and not (cursor.prev() and cursor.key()[:8] == prefix):
                cursor.set_range(target)
        elif not cursor.last():
            return
        for key, stored in cursor:
            if key[:8] != prefix:
                return
            offset = split_pair(key)[1]
            if offset >= end:
                return
            extent = decode_extent(offset, checked(Table.EXTENT, key, stored))
            if extent.end > start:
                yield extent

    def state(self, name: bytes, default: int = 0) -> int:
        value = self.get(Table.STATE, name)
        return default if value is None else decode_number(value)

    def count(self, table: Table) -> int:
        """Rows in `table`."""
        return int(self._transaction.stat(self._tables[table])["entries"])

    def truth_bytes(self) -> int:
        """Bytes of the pages that hold truth rows: what a snapshot takes, at most."""
        total = 0
        for table in TRUTH:
            facts = self._transaction.stat(self._tables[table])
            total += (facts["leaf_pages"] + facts["overflow_pages"]) * facts["psize"]
        return total

    def device(self) -> int:
        """The number of the disk that the file is on."""
        return self.path.stat().st_dev

    def size_bytes(self) -> int:
        """Bytes of the catalog's pages."""
        info = self._environment.info()
        return int(info["last_pgno"] + 1) * int(self._environment.stat()["psize"])

    # -- changing ---------------------------------------------------------------------------

    def apply(self, rows: Iterable[Row], inodes: Iterable[Inode] = ()) -> None:
        """Make `rows` true, with what derives from them, and add them to the batch.

        `inodes` are changed inodes, whose rows are added; they stay decoded.
        """
        add = self.batch.add
        for row in rows:
            self._put(row)
            add(*row)
        if len(self._inodes) >= _INODES_KEPT:
            self._inodes.clear()
        for inode in inodes:
            row = inode.row()
            self._put(row)
            add(*row)
            self._inodes[inode.number] = inode

    def replay(self, rows: Iterable[Row]) -> None:
        """Like `apply`, for rows that the journal already has."""
        for row in rows:
            self._put(row)
        if self._rebuilding and self.epoch_rows >= _REBUILD_ROWS:
            # A catalog without a place is never used: it may be committed in pieces, so that
            # rebuilding millions of rows takes no memory.
            self._commit()

    def set_state(self, name: bytes, number: int) -> None:
        self.apply([Row(Table.STATE, name, encode_number(number))])

    def _put(self, row: Row) -> None:
        table, key, value = row
        handle = self._tables[table]
        transaction = self._transaction
        self.epoch_rows += 1
        if table == _INODE:
            self._inodes.pop(int.from_bytes(key, "big"), None)
        elif table in HAS_DERIVED:
            old = transaction.get(key, db=handle)
            old = None if old is None else checked(table, key, old)
            if table == _EXTENT:
                self._recent.forget(int.from_bytes(key[:8], "big"))
            for derived in derive(table, key, old, value, self.live):
                self._put(derived)
        if value is None:
            transaction.delete(key, db=handle)
        else:
            transaction.put(key, sealed(table, key, value), db=handle)

    def drop_extents(self, drop: Drop, limit: int) -> tuple[int, int]:
        """Delete the first `limit` extents in the drop's range.

        Returns where to go on (`drop.end` when nothing is left) and the data bytes freed. One
        Drop in the batch stands for what was deleted.
        """
        keys: list[bytes] = []
        reached, freed = drop.end, 0
        for key, value in self.scan(
            Table.EXTENT, key_pair(drop.inode, drop.start), key_of(drop.inode)
        ):
            offset = split_pair(key)[1]
            if offset >= drop.end:
                break
            if len(keys) == limit:
                reached = offset
                break
            keys.append(key)
            data = segment_of(value)
            freed += data[1] if data else 0
        for key in keys:
            self._put(Row(Table.EXTENT, key, None))
            self.batch.forget(Table.EXTENT, key)
        self.batch.drop(Drop(drop.inode, drop.start, reached))
        return reached, freed

    def replay_drop(self, drop: Drop) -> None:
        """Delete all extents in the range, as the journal says."""
        start, prefix = key_pair(drop.inode, drop.start), key_of(drop.inode)
        keys = []
        for key, _ in self.scan(Table.EXTENT, start, prefix):
            if split_pair(key)[1] >= drop.end:
                break
            keys.append(key)
        for key in keys:
            self._put(Row(Table.EXTENT, key, None))

    def take_batch(self) -> Batch:
        """The rows since the last call; a new batch begins."""
        batch, self.batch = self.batch, Batch()
        return batch

    # -- epochs -----------------------------------------------------------------------------

    def place(self) -> Place | None:
        """Where in the journal the last checkpoint stands; None in a new catalog."""
        value = self.get(Table.PLACE, _PLACE)
        return None if value is None else decode_place(value)

    def filesystem(self) -> bytes | None:
        """The id of the filesystem this catalog is of."""
        value = self.get(Table.PLACE, _FILESYSTEM)
        return None if value is None else decode_bytes(value)

    def next_segment(self) -> int:
        """A number that no segment had when the last checkpoint was made, nor any above it."""
        value = self.get(Table.PLACE, _NEXT_SEGMENT)
        return 1 if value is None else decode_number(value)

    def checkpoint(self, filesystem: bytes, place: Place, next_segment: int) -> None:
        """Commit the epoch: the journal durably has everything up to `place`."""
        for segment, live in self.live.items():
            if live != self._live_stored.get(segment):
                self._put(Row(Table.USAGE, key_of(segment), encode_number(max(live, 0))))
        for segment in self._live_stored.keys() - self.live.keys():
            self._put(Row(Table.USAGE, key_of(segment), None))
        self._live_stored = dict(self.live)
        self._put(Row(Table.PLACE, _FILESYSTEM, encode_bytes(filesystem)))
        self._put(Row(Table.PLACE, _NEXT_SEGMENT, encode_number(next_segment)))
        self._put(Row(Table.PLACE, _PLACE, place.encode()))
        self._rebuilding = False
        self._commit()

    def _commit(self) -> None:
        try:
            self._transaction.commit()
            self._transaction = self._environment.begin(write=True)
        except lmdb.Error as error:
            raise CatalogFailed(f"the catalog at {self.path} cannot be written: {error}") from error
        self.epoch_rows = 0
        self._reserve()

    def _reserve(self) -> None:
        """Take the disk space of the next epochs ahead, so that no commit ever lacks it.

        An epoch copies each page that it changes, and those it leaves are free only for the one
        after the next; a third time for a snapshot, for which they are kept meanwhile.
        """
        pages = 0
        for table in self._tables.values():
            facts = self._transaction.stat(table)
            pages += facts["branch_pages"] + facts["leaf_pages"] + facts["overflow_pages"]
        live = pages * _PAGE_BYTES
        wanted = live + 3 * min(live, _EPOCH_MAX_BYTES) + _STEP_BYTES
        # In steps, so that it is seldom.
        wanted = -(-wanted // _STEP_BYTES) * _STEP_BYTES
        self.short = not store.allocate(self.path, wanted, self.leave_bytes)

    @contextmanager
    def last_checkpoint(self) -> Iterator[tuple[Place, Iterator[Row]]]:
        """The place of the last checkpoint and every truth row of it.

        Through a read transaction of its own, so that the open epoch is neither seen nor
        disturbed. Raises IntegrityError while the rows are read.
        """
        with _checkpoint_of(self._environment, self._tables) as found:
            yield found

    def close(self, *, clean: bool = False) -> None:
        """Throw the open epoch away and close; `clean` leaves the digest of the file behind."""
        self._transaction.abort()
        self._environment.close()
        if clean:
            store.leave_digest(self.path)


@contextmanager
def checkpoint_of(path: Path) -> Iterator[tuple[Place, Iterator[Row]]]:
    """See `Catalog.last_checkpoint`: for the catalog that another process has mounted."""
    with store.open_environment(path, read_only=True, live=True) as environment:
        tables = store.open_tables(environment, create=False)
        with _checkpoint_of(environment, tables) as found:
            yield found


@contextmanager
def _checkpoint_of(
    environment: lmdb.Environment, tables: dict[int, Any]
) -> Iterator[tuple[Place, Iterator[Row]]]:
    with environment.begin() as transaction:
        place = transaction.get(_PLACE, db=tables[Table.PLACE])
        if place is None:
            raise IntegrityError("catalog: no checkpoint was ever made")

        def rows() -> Iterator[Row]:
            for table in TRUTH:
                for key, stored in transaction.cursor(db=tables[table]):
                    if key == _KEEPER:
                        continue
                    yield Row(table, key, checked(table, key, stored))

        yield decode_place(checked(Table.PLACE, _PLACE, place)), rows()
