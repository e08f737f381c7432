"""Archived segments for tests: written by the shortest way, without a shift.

`Pool` is a pool of simulated shingled drives with ids; it writes fragments as the format has them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from shmr.codec import Codec
from shmr.core.stripe import Geometry, fit
from shmr.drive.seam import Drive
from shmr.format.archived import Archived, Placed
from shmr.format.fragment import (
    ArchivedExtent,
    Code,
    encode_footer,
    encode_table,
    file_name,
    unit_sum,
)
from shmr.log.fragments import FragmentStore
from shmr.log.gather import Gather
from shmr.testing.drive import World
from shmr.testing.zoned import ZonedDrive, add_zoned
from shmr.units import KIB, MIB

FILESYSTEM = bytes(range(16))
POOL = bytes(range(32, 48))
UNIT = 4 * KIB
ZONE = MIB
NUMBER = 9
"""Of the segment that `Segment` is."""


def drive_id(index: int) -> bytes:
    return bytes([0xD0, index]) + bytes(14)


class Pool:
    """k+m drives (and `spare` more) with their ids, and what is written to them."""

    def __init__(
        self, k: int, m: int, *, world: World | None = None, spare: int = 0, unit_bytes: int = UNIT
    ) -> None:
        self.k, self.m, self.unit_bytes = k, m, unit_bytes
        self.code = Code.COPIES if k == 1 else Code.ISA_L_RS_CAUCHY
        self.filesystem = FILESYSTEM
        self.world = world or World(1)
        self.drives: dict[bytes, ZonedDrive] = {
            drive_id(index): add_zoned(self.world, f"smr{index}", zone_bytes=ZONE)
            for index in range(k + m + spare)
        }

    @property
    def ids(self) -> list[bytes]:
        return list(self.drives)

    def store(self, *, without: Iterable[bytes] = ()) -> FragmentStore:
        """A store that knows nothing yet, of all drives but some."""
        lost = set(without)
        there: dict[bytes, Drive] = {d: v for d, v in self.drives.items() if d not in lost}
        return FragmentStore(self.filesystem, there, lost)

    def gather(self, *, without: Iterable[bytes] = ()) -> Gather:
        """Reads in the thread that asks, and forgets each unit."""
        return Gather(self.store(without=without), deadline_s=None, cache_bytes=0)

    def row(self, used_bytes: int, extents: int = 1, generation: int = 1) -> Archived:
        data_bytes = fit(self.k, used_bytes, ZONE, extents, self.unit_bytes)
        assert data_bytes is not None, "a zone does not hold that"
        placed = tuple(Placed(drive, generation) for drive in self.ids[: self.k + self.m])
        return Archived(
            POOL, self.k, self.m, self.code, self.unit_bytes, data_bytes, used_bytes, extents,
            7, placed,
        )  # fmt: skip

    def write(
        self,
        number: int,
        content: bytes,
        extents: Sequence[ArchivedExtent] | None = None,
        generation: int = 1,
    ) -> Archived:
        """Write all fragments of a segment with this content."""
        if extents is None:
            extents = [ArchivedExtent(2, 0, len(content), 0)]
        archived = self.row(len(content), len(extents), generation)
        units = self.units(archived, content)
        for index in range(self.k + self.m):
            self.write_fragment(number, archived, index, units[index], extents)
        return archived

    def units(self, archived: Archived, content: bytes) -> list[list[bytes]]:
        """All units, by fragment."""
        shape = Geometry(self.k, self.m, archived.data_bytes, self.unit_bytes)
        codec = Codec(self.k, self.m, self.code)
        content = content.ljust(shape.space_bytes, b"\0")
        units: list[list[bytes]] = [[] for _ in range(shape.width)]
        for unit in range(shape.stripes):
            data = []
            for fragment in range(self.k):
                at = shape.unit_address(fragment, unit)
                data.append(content[at : at + shape.unit_size(unit)])
            for fragment, one in enumerate([*data, *codec.encode(data)]):
                units[fragment].append(one)
        return units

    def write_fragment(
        self,
        number: int,
        archived: Archived,
        index: int,
        units: Sequence[bytes],
        extents: Sequence[ArchivedExtent],
    ) -> None:
        header = archived.header(self.filesystem, number, index)
        table = encode_table(extents)
        drive, generation = archived.fragments[index]
        file = self.store().claim(drive, number, index, generation, header.length)
        file.append([header.encode(), *units, table])
        file.append([encode_footer(header, table, [unit_sum(unit) for unit in units])])
        file.seal()
        file.close()

    # -- damage -----------------------------------------------------------------------------

    def drive_of(self, archived: Archived, index: int) -> ZonedDrive:
        return self.drives[archived.fragments[index].drive]

    def file_of(self, number: int, archived: Archived, index: int) -> str:
        return file_name(number, index, archived.fragments[index].generation)

    def flip(self, number: int, archived: Archived, index: int, offset: int) -> None:
        """Rot: one bit of a fragment's byte."""
        name = self.file_of(number, archived, index)
        self.drive_of(archived, index).flip_bit(name, offset, offset % 8)

    def content_of(self, number: int, archived: Archived, index: int) -> bytes:
        drive, name = self.drive_of(archived, index), self.file_of(number, archived, index)
        return drive.open(name).read(0, drive.size(name))

    def asleep(self) -> bool:
        """Was no drive asked for anything since `lull`?"""
        return all(drive.activity.asleep for drive in self.drives.values())

    def lull(self) -> None:
        for drive in self.drives.values():
            drive.activity.clear()

    def reads(self) -> int:
        """Reads of all drives since `lull`."""
        return sum(drive.activity.reads.total() for drive in self.drives.values())

    def other_writes(self) -> int:
        return sum(drive.other_writes for drive in self.drives.values())


def content_of(k: int, stripes: int = 3) -> bytes:
    """Bytes for k fragments of some units each, the last of them not full."""
    return random.Random(k).randbytes(k * stripes * UNIT - 1000)


class Segment:
    """A pool, and one segment written to it."""

    def __init__(self, k: int, m: int, *, stripes: int = 3) -> None:
        self.pool = Pool(k, m)
        self.content = content_of(k, stripes)
        self.archived = self.pool.write(NUMBER, self.content)
        self.header = self.archived.header(FILESYSTEM, NUMBER, 0)
        self.pool.lull()

    @property
    def all(self) -> range:
        return range(self.pool.k + self.pool.m)

    def ids(self, indexes: Iterable[int]) -> list[bytes]:
        return [self.archived.fragments[index].drive for index in indexes]

    def read_all(self, reader: Gather) -> bytes:
        return reader.read(NUMBER, self.archived, 0, len(self.content))

    def losses(self) -> Iterator[tuple[int, ...]]:
        """Every set of at most m fragments."""
        for count in range(self.pool.m + 1):
            yield from combinations(self.all, count)

    def in_place_of(self, index: int, content: bytes) -> None:
        """Let a fragment's file have this content."""
        name = self.pool.file_of(NUMBER, self.archived, index)
        self.pool.drive_of(self.archived, index).plant(name, 0, content)

    def file(self, index: int) -> bytes:
        return self.pool.content_of(NUMBER, self.archived, index)
