"""The catalog as the volume sees it: rows read and applied in one long write transaction.

One transaction is an epoch: it begins at a checkpoint and is committed by the next, only on the
volume's thread, and only when the journal durably has every row in it. Readers use the same
transaction and so see their own writes. Applied truth rows are also collected in `batch`, for
the journal. Inodes and marks reach both a little later (`shmr.catalog.inodes`), unseen.

An LMDB error means the catalog can no longer be trusted: it is let through to end the daemon,
and recovery is the only repair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import lmdb

from shmr.catalog import late, marks, store
from shmr.catalog.archive import ArchiveRows
from shmr.catalog.bare import BareInodes
from shmr.catalog.batch import Batch
from shmr.catalog.derived import cookies, count_live
from shmr.catalog.late import Late
from shmr.catalog.names import RecentNames
from shmr.catalog.reading import Reading
from shmr.catalog.recent import RecentExtents
from shmr.catalog.tables import Committed, Tables, committed
from shmr.errors import IntegrityError, ShmrError
from shmr.format.archived import Archived
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
    split_key,
    split_pair,
)

_INODE = int(Table.INODE)
_DENTRY = int(Table.DENTRY)
_EXTENT = int(Table.EXTENT)
_XATTR = int(Table.XATTR)
_ORPHAN = int(Table.ORPHAN)
_ARCHIVE = int(Table.ARCHIVE)
_PLACE = b"place"
_FILESYSTEM = b"filesystem"
_NEXT_SEGMENT = b"next_segment"
_REBUILD_ROWS = 100_000
_DROP_ROWS = 10_000
Naming = tuple[int, bytes, Dentry | None]
"""A change of a directory: its number, the name, and what the name now is."""


class Gone(NamedTuple):
    """An inode that goes, its orphan mark, and these extents of it: keys and values of the rows."""

    number: int
    extents: Sequence[tuple[bytes, bytes]]


class CatalogFailed(ShmrError):
    """LMDB could not commit: what it shows is older than what was acknowledged.

    Only a new mount, whose recovery brings the catalog up to the journal, goes on from here.
    """


class Catalog:
    """All tables of one filesystem, and the batch of rows not yet in the journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tables = Tables(path)
        self._batch = Batch()
        self._late = Late(self._tables)
        self._inodes, self._marks = self._late.inodes, self._late.marks
        self._names = RecentNames()
        self._bare = BareInodes()
        self._recent = RecentExtents()
        self._archive = ArchiveRows(self._tables)
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
        self.short = not self._tables.reserve(self.leave_bytes)
        self._rebuilding = self.place() is None

    # -- reading ----------------------------------------------------------------------------

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value of `key`, or None. Raises IntegrityError if it fails its checksum."""
        if table in marks.TABLES:
            return self._marks.get(table, key)
        if table == _INODE:
            self._late.write(self._batch)
        return self._tables.get(table, key)

    def scan(self, table: int, start: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows from `start` on in key order, while the key begins with `prefix`.

        The table must not change while the iterator is in use.
        """
        if table in late.TABLES:
            self._late.write(self._batch)
        return self._tables.scan(table, start, prefix)

    def inode(self, number: int) -> Inode | None:
        inode = self._inodes.known.get(number)
        if inode is not None:
            return inode
        if number in self._inodes.changed:
            return self._inodes.changed[number]
        value = self._tables.get(_INODE, key_of(number))
        if value is None:
            return None
        inode = decode_inode(number, value)
        self._inodes.read(inode)
        return inode

    def dentry(self, directory: int, name: bytes) -> Dentry | None:
        return self._dentry_at(key_named(directory, name))

    def _dentry_at(self, key: bytes) -> Dentry | None:
        known = self._names.known
        if key in known:
            return known[key]
        value = self._tables.get(_DENTRY, key)
        dentry = None if value is None else decode_dentry(value)
        self._names.keep(key, dentry)
        return dentry

    def is_orphan(self, number: int) -> bool:
        return self._marks.get(_ORPHAN, key_of(number)) is not None

    def xattr(self, number: int, name: bytes) -> bytes | None:
        """The row of an extended attribute; None, and soon found, where there is none."""
        if number in self._bare:
            return None
        value = self.get(_XATTR, key_named(number, name))
        if value is None:
            # Is there another one? If not, the next question needs no looking.
            self.has_xattrs(number)
        return value

    def fresh(self, number: int) -> None:
        """No inode ever had this number: nothing belongs to it yet."""
        self._bare.add(number)

    def has_xattrs(self, number: int) -> bool:
        if number in self._bare:
            return False
        if self._tables.has_prefix(_XATTR, key_of(number)):
            return True
        self._bare.add(number)
        return False

    def archived(self, segment: int) -> Archived | None:
        """What is known of a segment, if it is archived."""
        return self._archive.find(segment)

    def archived_segments(self) -> Iterator[tuple[int, Archived]]:
        """Every archived segment, by number. The table must not change meanwhile."""
        return self._archive.all()

    def archived_end(self) -> int:
        """A number above that of every archived segment."""
        return self._archive.end()

    def extent_at(self, inode: int, offset: int) -> Extent | None:
        """The extent of `inode` that holds `offset`, if there is one."""
        recent = self._recent.find(inode, offset)
        if recent is not None:
            return recent
        row = self._tables.last_at(_EXTENT, key_pair(inode, offset))
        if row is None:
            return None
        owner, start = split_pair(row[0])
        if owner != inode:
            return None
        extent = decode_extent(start, row[1])
        if extent.end <= offset:
            return None
        self._recent.add(inode, extent)
        return extent

    def extents(self, inode: int, start: int, end: int) -> Iterator[Extent]:
        """Extents of `inode` that overlap [start, end), in order."""
        # The extent that holds `start` begins at or before it.
        rows = self._tables.scan_before(_EXTENT, key_pair(inode, start), key_of(inode))
        for key, value in rows:
            offset = split_pair(key)[1]
            if offset >= end:
                return
            extent = decode_extent(offset, value)
            if extent.end > start:
                yield extent

    def state(self, name: bytes, default: int = 0) -> int:
        value = self.get(Table.STATE, name)
        return default if value is None else decode_number(value)

    def count(self, table: Table) -> int:
        """Rows in `table`."""
        if table in late.TABLES:
            self._late.write(self._batch)
        return self._tables.facts(table)["entries"]

    def truth_bytes(self) -> int:
        """Bytes of the pages that hold truth rows: what a snapshot takes, at most."""
        self._late.write(self._batch)
        total = 0
        for table in TRUTH:
            facts = self._tables.facts(table)
            total += (facts["leaf_pages"] + facts["overflow_pages"]) * facts["psize"]
        return total

    def device(self) -> int:
        """The number of the disk that the file is on."""
        return self.path.stat().st_dev

    def size_bytes(self) -> int:
        """Bytes of the catalog's pages."""
        return self._tables.size_bytes()

    # -- changing ---------------------------------------------------------------------------

    @property
    def batch(self) -> Batch:
        """The rows since the last `take_batch`."""
        self._late.write(self._batch)
        return self._batch

    @property
    def batch_bytes(self) -> int:
        """Bytes of the batch, at most."""
        return self._batch.size_bytes + self._late.size_bytes

    def apply(
        self,
        rows: Iterable[Row],
        inodes: Iterable[Inode] = (),
        names: Iterable[Naming] = (),
        gone: Gone | None = None,
    ) -> None:
        """Make `rows` true, with what derives from them, and add them to the batch.

        `inodes`, `names` and `gone` are changes whose rows are made here.
        """
        add = self._batch.add
        for row in rows:
            if row[0] in late.TABLES:
                self.epoch_rows += 1
                self._late.put(row)
            else:
                self._put(row)
                add(*row)
        for directory, name, dentry in names:
            key = key_named(directory, name)
            value = None if dentry is None else dentry.encode()
            self._put_name(key, dentry, value)
            add(_DENTRY, key, value)
        for inode in inodes:
            self.epoch_rows += 1
            self._inodes.change(inode)
        if gone is not None:
            self._remove(gone)
        if self._late.is_full():
            self._late.write(self._batch)

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
        """Into the transaction now, with what derives from it."""
        table, key, value = row
        if table == _DENTRY:
            self._put_name(key, None if value is None else decode_dentry(value), value)
            return
        self.epoch_rows += 1
        if table == _EXTENT:
            self._recent.forget(split_key(key))
            count_live(self._tables.get(_EXTENT, key), value, self.live)
        elif table == _XATTR:
            if value is not None:
                self._bare.discard(split_key(key))
        elif table == _ARCHIVE:
            self._archive.forget(split_key(key))
        elif table in late.TABLES:
            self._late.replayed(row)
        self._tables.put(table, key, value)

    def _put_name(self, key: bytes, dentry: Dentry | None, value: bytes | None) -> None:
        self.epoch_rows += 1
        for row in cookies(key, self._dentry_at(key), dentry):
            self._tables.put(*row)
        self._tables.put(_DENTRY, key, value)
        self._names.keep(key, dentry)

    def _remove(self, gone: Gone) -> None:
        number, extents = gone
        self.epoch_rows += 2
        for key, value in extents:
            self._remove_extent(key, value)
            self._batch.add(_EXTENT, key, None)
        self._inodes.remove(number)
        self._marks.change(_ORPHAN, key_of(number), None)

    def _remove_extent(self, key: bytes, value: bytes) -> None:
        """Delete an extent row that was just read."""
        self.epoch_rows += 1
        self._recent.forget(split_key(key))
        count_live(value, None, self.live)
        self._tables.put(_EXTENT, key, None)

    def drop_extents(self, drop: Drop, limit: int) -> tuple[int, int]:
        """Delete the first `limit` extents in the drop's range.

        Returns where to go on (`drop.end` when nothing is left) and the data bytes freed. One
        Drop in the batch stands for what was deleted.
        """
        rows: list[tuple[bytes, bytes]] = []
        reached, freed = drop.end, 0
        for key, value in self._in_drop(drop):
            if len(rows) == limit:
                reached = split_pair(key)[1]
                break
            rows.append((key, value))
            data = segment_of(value)
            freed += data[1] if data else 0
        for key, value in rows:
            self._remove_extent(key, value)
            self._batch.forget(_EXTENT, key)
        self._batch.drop(Drop(drop.inode, drop.start, reached))
        return reached, freed

    def replay_drop(self, drop: Drop) -> None:
        """Delete all extents in the range, as the journal says."""
        while some := list(islice(self._in_drop(drop), _DROP_ROWS)):
            for key, value in some:
                self._remove_extent(key, value)

    def _in_drop(self, drop: Drop) -> Iterator[tuple[bytes, bytes]]:
        """The extent rows that a drop deletes."""
        for key, value in self._tables.scan(
            _EXTENT, key_pair(drop.inode, drop.start), key_of(drop.inode)
        ):
            if split_pair(key)[1] >= drop.end:
                return
            yield key, value

    def take_batch(self) -> Batch:
        """The rows since the last call; a new batch begins."""
        batch = self.batch
        self._batch = Batch()
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
        self._late.write(self._batch)
        self._write_usage()
        self._tables.put(Table.PLACE, _FILESYSTEM, encode_bytes(filesystem))
        self._tables.put(Table.PLACE, _NEXT_SEGMENT, encode_number(next_segment))
        self._tables.put(Table.PLACE, _PLACE, place.encode())
        self._rebuilding = False
        self._commit()

    def _write_usage(self) -> None:
        for segment, live in self.live.items():
            if live != self._live_stored.get(segment):
                self._tables.put(Table.USAGE, key_of(segment), encode_number(max(live, 0)))
        for segment in self._live_stored.keys() - self.live.keys():
            self._tables.put(Table.USAGE, key_of(segment), None)
        self._live_stored = dict(self.live)

    def reading(self) -> Reading:
        """All rows as they are now, with what is not committed yet.

        Nothing may change while it is in use. It holds only until the next checkpoint.
        """
        self._late.write(self._batch)
        self._write_usage()
        return self._tables.reading()

    def _commit(self) -> None:
        try:
            self._tables.commit()
        except lmdb.Error as error:
            raise CatalogFailed(f"the catalog at {self.path} cannot be written: {error}") from error
        self.epoch_rows = 0
        self.short = not self._tables.reserve(self.leave_bytes)

    @contextmanager
    def last_checkpoint(self) -> Iterator[tuple[Place, Iterator[Row]]]:
        """The place of the last checkpoint and every truth row of it.

        Through a read transaction of its own, so that the open epoch is neither seen nor
        disturbed. Raises IntegrityError while the rows are read.
        """
        with self._tables.committed() as tables:
            yield _place_of(tables), tables.truth()

    def probe(self) -> None:
        """Raises CatalogFailed if LMDB refuses the open epoch: after a failed put, for good."""
        try:
            self._tables.get(Table.PLACE, _PLACE)
        except lmdb.Error as error:
            raise CatalogFailed(f"the catalog at {self.path} cannot be used: {error}") from error
        except IntegrityError:
            pass  # of no concern here: LMDB answers

    def close(self, *, clean: bool = False) -> None:
        """Throw the open epoch away and close; `clean` leaves the digest of the file behind."""
        self._tables.close()
        if clean:
            store.leave_digest(self.path)


@contextmanager
def checkpoint_of(path: Path) -> Iterator[tuple[Place, Iterator[Row]]]:
    """See `Catalog.last_checkpoint`: for the catalog that another process has mounted."""
    with committed(path) as tables:
        yield _place_of(tables), tables.truth()


def _place_of(tables: Committed) -> Place:
    value = tables.get(Table.PLACE, _PLACE)
    if value is None:
        raise IntegrityError("catalog: no checkpoint was ever made")
    return decode_place(value)
