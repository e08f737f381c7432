"""Archived segments that no row knows, and what the footers of their fragments tell of them.

A footer repeats the header of its fragment, so a row in ARCHIVE can be made from one; and the table
before it says of which files the bytes are. Which fragments there are is told by their names, and
that they are complete by their footers: where a run was cut off, some were only claimed.

Left to others: what the bytes are taken for (`filling`).
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from hashlib import sha256
from heapq import merge
from itertools import groupby
from typing import NamedTuple

from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format.archived import Archived, Placed
from shmr.format.fragment import ArchivedExtent, Footer, FragmentHeader, table_entries
from shmr.fsck.salvaging.foreign import footer_of
from shmr.log.fragments import FragmentName, parse_name
from shmr.volume.membership import read_superblock

logger = logging.getLogger(__name__)

NAMES_MAX = 1 << 19
"""Fragments of one drive that are looked at: 20 TB in zones of 64 MiB are 300,000."""
SEGMENT_MAX = 1 << 62
_FRAGMENT_BITS, _GENERATION_BITS = 8, 32
_LOW_BITS = _FRAGMENT_BITS + _GENERATION_BITS


class Told(NamedTuple):
    """An archived segment as a footer tells of it: `row` is what ARCHIVE would hold.

    `fragments` is how many of its k+m are there, and complete.
    """

    segment: int
    row: Archived
    fragments: int
    drive: bytes
    name: FragmentName
    footer: Footer

    @property
    def order(self) -> tuple[int, int]:
        """Later ones are newer."""
        return self.row.created_ns, self.segment


class Footers:
    """The fragments on archive drives, by their names, and what they tell."""

    def __init__(self, filesystem: bytes, drives: Mapping[bytes, Drive]) -> None:
        self._filesystem = filesystem
        self._drives = drives
        self._pools: dict[bytes, bytes] = {}
        # One number for each name, in order: a million names are small so.
        self._names = {key: _names_on(drive) for key, drive in drives.items() if any(key)}

    def __bool__(self) -> bool:
        return any(self._names.values())

    def segments(self) -> Iterator[int]:
        """Every segment of which a fragment is there, rising."""
        everything = merge(*self._names.values())
        for segment, _ in groupby(everything, key=lambda number: number >> _LOW_BITS):
            yield segment

    def highest(self) -> int:
        """The highest number of a segment; 0 where there is none."""
        return max((names[-1] >> _LOW_BITS for names in self._names.values() if names), default=0)

    def of(self, segment: int) -> list[tuple[bytes, FragmentName]]:
        """The fragments of a segment and the drives they are on."""
        found = []
        for key, names in self._names.items():
            at = bisect_left(names, segment << _LOW_BITS)
            while at < len(names) and names[at] >> _LOW_BITS == segment:
                found.append((key, _name(names[at])))
                at += 1
        return found

    def has(self, drive: bytes, name: FragmentName) -> bool:
        names = self._names.get(drive, [])
        number = _number(name)
        at = bisect_left(names, number)
        return at < len(names) and names[at] == number

    def there(self, segment: int, row: Archived) -> int:
        """How many of the fragments that the row names are there, by their names."""
        return sum(
            self.has(placed.drive, FragmentName(segment, index, placed.generation))
            for index, placed in enumerate(row.fragments)
        )

    def tell(self, segment: int) -> Told | None:
        """What the footers tell of a segment; None where no footer verifies."""
        named = sorted(self.of(segment), key=lambda one: (one[1].fragment, -one[1].generation))
        for drive, name in named:
            footer = self._footer(drive, name)
            if footer is not None and self._table_verifies(drive, name, footer):
                row, count = self._row(footer.header, drive, named)
                return Told(segment, row, count, drive, name, footer)
        return None

    def table(self, told: Told) -> Iterator[ArchivedExtent]:
        """The extents of the segment, by address. Raises DriveError, IntegrityError."""
        return table_entries(told.footer, self._table(told.drive, told.name, told.footer))

    def written_anew(self, segment: int, row: Archived) -> Archived:
        """The row, with fragments that were written anew instead of those that are not there."""
        fragments = list(row.fragments)
        for index, placed in enumerate(row.fragments):
            if self.has(placed.drive, FragmentName(segment, index, placed.generation)):
                continue
            newer = [
                (name.generation, drive)
                for drive, name in self.of(segment)
                if name.fragment == index and name.generation > placed.generation
            ]
            for generation, drive in sorted(newer, reverse=True):
                if any(drive == other.drive for other in fragments if other is not placed):
                    continue
                changed = row._replace(
                    fragments=(
                        *fragments[:index],
                        Placed(drive, generation),
                        *fragments[index + 1 :],
                    )
                )
                footer = self._footer(drive, FragmentName(segment, index, generation))
                if footer is not None and self._fits(changed, footer, segment, index):
                    fragments[index] = Placed(drive, generation)
                    break
        return row._replace(fragments=tuple(fragments))

    def _fits(self, row: Archived, footer: Footer, segment: int, index: int) -> bool:
        try:
            row.check(footer.header, self._filesystem, segment, index)
        except IntegrityError:
            return False
        return True

    def _footer(self, drive: bytes, name: FragmentName) -> Footer | None:
        """The footer of a fragment, if it verifies and is of what the name says."""
        try:
            footer = footer_of(self._drives[drive], name.file)
        except (DriveError, IntegrityError) as error:
            logger.info("%s: %s: %s", self._drives[drive].label, name.file, error)
            return None
        header = footer.header
        said = FragmentName(header.segment, header.fragment, header.generation)
        mine = header.filesystem == self._filesystem and header.drives[header.fragment] == drive
        return footer if mine and said == name else None

    def _table(self, drive: bytes, name: FragmentName, footer: Footer) -> bytes:
        file = self._drives[drive].open(name.file)
        try:
            return file.read(footer.header.table_offset, footer.header.table_bytes)
        finally:
            file.close()

    def _table_verifies(self, drive: bytes, name: FragmentName, footer: Footer) -> bool:
        try:
            for _ in table_entries(footer, self._table(drive, name, footer)):
                pass
        except (DriveError, IntegrityError):
            return False
        return True

    def _row(
        self, header: FragmentHeader, drive: bytes, named: list[tuple[bytes, FragmentName]]
    ) -> tuple[Archived, int]:
        """The row of the segment that a fragment is of, and how many fragments are there."""
        fragments: dict[int, Placed] = {}
        for key, name in named:
            if name.fragment in fragments or name.fragment >= header.k + header.m:
                continue
            if key not in {placed.drive for placed in fragments.values()}:
                footer = self._footer(key, name)
                if footer is not None and _alike(footer.header, header):
                    fragments[name.fragment] = Placed(key, name.generation)
        count = len(fragments)
        taken = {placed.drive for placed in fragments.values()}
        for index, absent in enumerate(header.drives):
            if index not in fragments:
                # One that is there and does not verify is as good as none.
                there = self.has(absent, FragmentName(header.segment, index, 1))
                lost = _made_up(header, index) if there or absent in taken else absent
                taken.add(lost)
                fragments[index] = Placed(lost, 1)
        row = Archived(
            self._pool(drive),
            header.k,
            header.m,
            header.code,
            header.unit_bytes,
            header.data_bytes,
            header.used_bytes,
            header.extents,
            header.created_ns,
            tuple(fragments[index] for index in range(header.k + header.m)),
        )
        return row, count

    def _pool(self, drive: bytes) -> bytes:
        """The id of the drive's pool: of none that is known, where its superblock is lost."""
        if drive not in self._pools:
            try:
                block = read_superblock(self._drives[drive])
            except (DriveError, SetupError):
                block = None
            self._pools[drive] = bytes(16) if block is None else block.pool
        return self._pools[drive]


def _alike(one: FragmentHeader, other: FragmentHeader) -> bool:
    """Are they of one segment?"""
    return (one.k, one.code, one.unit_bytes, one.data_bytes, one.used_bytes, one.extents) == (
        other.k, other.code, other.unit_bytes, other.data_bytes, other.used_bytes, other.extents,
    )  # fmt: skip


def _names_on(drive: Drive) -> list[int]:
    try:
        names = drive.names()
    except DriveError as error:
        logger.error("%s", error)
        return []
    found = []
    for file in names:
        name = parse_name(file)
        if name is not None and 0 < name.segment < SEGMENT_MAX:
            if 0 < name.generation < 1 << _GENERATION_BITS:
                found.append(_number(name))
            if len(found) == NAMES_MAX:
                logger.error("%s: more than %d fragments", drive.label, NAMES_MAX)
                break
    found.sort()
    return found


def _number(name: FragmentName) -> int:
    segment, fragment, generation = name
    return (segment << _FRAGMENT_BITS | fragment) << _GENERATION_BITS | generation


def _name(number: int) -> FragmentName:
    generation = number & (1 << _GENERATION_BITS) - 1
    fragment = number >> _GENERATION_BITS & (1 << _FRAGMENT_BITS) - 1
    return FragmentName(number >> _LOW_BITS, fragment, generation)


def _made_up(header: FragmentHeader, index: int) -> bytes:
    """The id of a drive that nobody knows: what was there is lost."""
    return sha256(b"lost %d %d" % (header.segment, index)).digest()[:16]
