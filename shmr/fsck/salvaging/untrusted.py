"""What is read from drives that nobody vouches for: drives that cannot be changed, rows that hold.

Checksums tell accidents from what was written; they do not tell who wrote it. So every row is
decoded before it is taken, and one that does not decode, or could not have been made by any
operation, is counted and left out. What each row says by itself is all that is asked here: that
names lead to inodes, and directories to the top, is the checker's business.
"""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

from shmr.drive.seam import Buffer, Capacity, Drive, DriveFile
from shmr.errors import DriveError, IntegrityError
from shmr.format.archived import decode_archived
from shmr.format.rows import (
    NAME_MAX,
    SIZE_MAX,
    Row,
    Table,
    decode_bytes,
    decode_dentry,
    decode_extent,
    decode_inode,
    decode_number,
    decode_reap,
    segment_of,
    split_key,
    split_pair,
)
from shmr.format.unpack import expect, unpack_list
from shmr.units import KIB

XATTR_MAX = 64 * KIB
COUNT_MAX = 1 << 62
"""Counts of an inode beyond are none that an operation came to."""
MARKS_MAX = 1 << 18
"""Rows of ORPHAN and REAP, which a catalog has in memory."""
SEGMENTS_MAX = 1 << 19
"""Segments that extents refer to, of which a catalog has a count each."""
_ROW_BYTES = 6
"""What a row takes in a frame besides key and value."""
_SNAPSHOT = re.compile(r"snapshot-\d{12}")


class Sifter:
    """Lets rows through that hold; `left_out` counts the others, by table, and `highest` is the
    highest number of an inode.

    `told` is given the bytes of all rows so far, for each frame of them.
    """

    def __init__(self, told: Callable[[int], None]) -> None:
        self.left_out: Counter[str] = Counter()
        self.highest = 0
        self._told = told
        self._bytes = 0
        self._marks: set[tuple[int, bytes]] = set()
        self._segments: set[int] = set()

    def __call__(self, rows: Iterable[Row]) -> Iterator[Row]:
        self._told(self._bytes)
        for row in rows:
            self._bytes += _ROW_BYTES + len(row.key) + len(row.value or b"")
            try:
                self._check(*row)
            except IntegrityError:
                self.left_out[Table(row.table).name.lower()] += 1
                continue
            yield row

    def _check(self, table: int, key: bytes, value: bytes | None) -> None:
        """Raises IntegrityError."""
        if table == Table.STATE:
            if value is not None:
                decode_number(value)
            return
        number = split_key(key)
        expect(0 < number <= SIZE_MAX, "key")
        if table in (Table.DENTRY, Table.XATTR):
            name = key[8:]
            expect(0 < len(name) <= NAME_MAX, "name")
            if table == Table.DENTRY:
                expect(name not in (b".", b"..") and not set(name) & {0, 0x2F}, "name")
        elif table != Table.EXTENT:
            expect(len(key) == 8, "key")
        if value is not None:
            self._check_value(table, key, number, value)
        elif table == Table.EXTENT:
            split_pair(key)
        elif table in (Table.ORPHAN, Table.REAP):
            self._marks.discard((table, key))

    def _check_value(self, table: int, key: bytes, number: int, value: bytes) -> None:
        if table == Table.INODE:
            inode = decode_inode(number, value)
            counts = inode.links, inode.entries, inode.next_cookie, inode.allocated
            expect(max(counts) < COUNT_MAX, "inode")
            self.highest = max(self.highest, number)
        elif table == Table.DENTRY:
            dentry = decode_dentry(value)
            expect(0 < dentry.inode <= SIZE_MAX and dentry.cookie <= SIZE_MAX, "dentry")
        elif table == Table.EXTENT:
            offset = split_pair(key)[1]
            expect(offset < SIZE_MAX, "extent")
            decode_extent(offset, value)
            data = segment_of(value)
            if data is not None:
                self._note_segment(data[0])
        elif table == Table.XATTR:
            expect(len(decode_bytes(value)) <= XATTR_MAX, "xattr")
        elif table == Table.ARCHIVE:
            decode_archived(value)
        else:
            if table == Table.ORPHAN:
                expect(unpack_list(value, "orphan") == [], "orphan")
            else:
                decode_reap(value)
            expect(len(self._marks) < MARKS_MAX, "marks")
            self._marks.add((table, key))

    def _note_segment(self, segment: int) -> None:
        if segment not in self._segments:
            expect(segment <= SIZE_MAX and len(self._segments) < SEGMENTS_MAX, "segments")
            self._segments.add(segment)


class OnlyRead:
    """A drive of which nothing can be changed."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive

    @property
    def label(self) -> str:
        return self._drive.label

    def device(self) -> int:
        return self._drive.device()

    def names(self) -> list[str]:
        return self._drive.names()

    def size(self, name: str) -> int:
        return self._drive.size(name)

    def begins(self, name: str) -> int | None:
        return self._drive.begins(name)

    def open(self, name: str, *, end: int = 0) -> DriveFile:
        return self._drive.open(name, end=end)

    def capacity(self) -> Capacity:
        return self._drive.capacity()

    def get(self, name: str) -> bytes:
        return self._drive.get(name)

    def close(self) -> None:
        """Who opened the drive closes it."""

    def claim(self, name: str, size_bytes: int) -> DriveFile:
        self._refuse("claim")

    def discard(self, name: str) -> None:
        self._refuse("discard")

    def put(self, name: str, content: bytes) -> None:
        self._refuse("put")

    def _refuse(self, operation: str) -> NoReturn:
        cause = OSError(errno.EROFS, os.strerror(errno.EROFS))
        raise DriveError(self.label, operation, cause)


class SnapshotCopies(OnlyRead):
    """The copies of snapshots on an archive drive; what cannot be read is as good as damaged."""

    def names(self) -> list[str]:
        try:
            return [name for name in self._drive.names() if _SNAPSHOT.fullmatch(name)]
        except DriveError:
            return []

    def size(self, name: str) -> int:
        try:
            return self._drive.size(name)
        except DriveError:
            return 0

    def open(self, name: str, *, end: int = 0) -> DriveFile:
        try:
            return _Forgiving(name, self._drive.open(name, end=end))
        except DriveError:
            return _Forgiving(name, None)


class _Forgiving:
    """A file of a copy: an error of the drive reads as nothing, which no checksum fits."""

    def __init__(self, name: str, file: DriveFile | None) -> None:
        self.name = name
        self._file = file

    @property
    def end(self) -> int:
        return 0 if self._file is None else self._file.end

    def read(self, offset: int, length: int) -> bytes:
        try:
            return b"" if self._file is None else self._file.read(offset, length)
        except DriveError:
            return b""

    def read_cached(self, offset: int, length: int) -> None:
        return None

    def prefetch(self, offset: int, length: int) -> None:
        """Read once, from front to back."""

    def sequential(self) -> None:
        """As `prefetch`."""

    def write_back(self, offset: int, length: int) -> None:
        """Nothing was written."""

    def evict(self, offset: int = 0, length: int = 0) -> None:
        """Nothing was written."""

    def append(self, buffers: Sequence[Buffer]) -> None:
        self.sync()

    def sync(self) -> None:
        raise DriveError(self.name, "write", OSError(errno.EROFS, os.strerror(errno.EROFS)))

    def seal(self) -> None:
        self.sync()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
