"""What goes into the next segment: bytes of files, packed so that a file lies in one fragment.

    lot        a run of file bytes and where it is now
    shipment   the lots of one segment, each with its address there

Files are taken in the order they come in until a segment is full. In it they stand by inode and
offset, each in the first fragment that has room for all of it; one that fits nowhere whole goes
over several. Fragments of a segment that is not full are as short as they can be.

Pure: nothing is looked up or touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from shmr.core.stripe import data_bytes_max, extents_max, fragment_size
from shmr.format.fragment import BLOCK, UNIT_BYTES, ArchivedExtent
from shmr.format.rows import Address

WASTE_MAX = 16
"""A segment that has less than this part of it left is full, if a file would have to be cut."""
STRETCH = (0, 32, 16, 8)
"""Fragments are made longer by these parts of their length to keep files whole (0: by nothing)."""


class Lot(NamedTuple):
    """`length` bytes of `inode` from `offset` on, the first of them at `source`."""

    inode: int
    offset: int
    length: int
    source: Address

    def cut(self, length: int) -> tuple[Lot, Lot]:
        """The first `length` bytes, and the rest."""
        source = self.source._replace(skip=self.source.skip + length)
        rest = Lot(self.inode, self.offset + length, self.length - length, source)
        return self._replace(length=length), rest


class Stowed(NamedTuple):
    """A lot and its address in the new segment."""

    at: int
    lot: Lot

    @property
    def end(self) -> int:
        return self.at + self.lot.length


_IN_BLOCK = 128
"""Extents in a block of the table."""
_data_bytes_max = lru_cache(maxsize=1024)(data_bytes_max)
File = list[Lot]
"""Lots of one file, by offset: all that goes into one segment if there is room."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The space of one segment: k fragments in zones of `zone_bytes`."""

    k: int
    zone_bytes: int
    unit_bytes: int = UNIT_BYTES

    def capacity(self, extents: int) -> int:
        """Most bytes of files in so many extents; packing may leave a little of it."""
        return self.k * self.data_bytes_max(extents)

    def data_bytes_max(self, extents: int) -> int:
        # Files that are cut make two more extents for each fragment at most.
        blocks = -(-(extents + 2 * self.k) // _IN_BLOCK)
        return _data_bytes_max(self.zone_bytes, blocks * _IN_BLOCK, self.unit_bytes)

    @property
    def extents_max(self) -> int:
        return max(1, extents_max(self.zone_bytes))


@dataclass(frozen=True, slots=True)
class Shipment:
    """The content of one segment. `stowed` is in the order of addresses; between two there may
    be zeros."""

    data_bytes: int
    stowed: tuple[Stowed, ...]
    unit_bytes: int = UNIT_BYTES

    @property
    def size_bytes(self) -> int:
        """Bytes of files."""
        return sum(lot.length for _, lot in self.stowed)

    @property
    def used_bytes(self) -> int:
        return self.stowed[-1].end

    def table(self) -> list[ArchivedExtent]:
        """The table of extents: what adjoins in the file and here is one."""
        extents: list[ArchivedExtent] = []
        for at, lot in self.stowed:
            if extents:
                inode, offset, length, address = extents[-1]
                if (inode, offset + length, address + length) == (lot.inode, lot.offset, at):
                    extents[-1] = extents[-1]._replace(length=length + lot.length)
                    continue
            extents.append(ArchivedExtent(lot.inode, lot.offset, lot.length, at))
        return extents

    def fragment_bytes(self) -> int:
        """What each fragment takes of its drive."""
        return fragment_size(self.data_bytes, len(self.table()), self.unit_bytes)


def shipments(lots: Iterable[Lot], hold: Hold, *, flush: bool = False) -> Iterator[Shipment]:
    """Pack lots, those of one file side by side and by offset, into segments.

    Without `flush` what fills less than half of the last segment is left out: it waits.
    """
    assert hold.capacity(1) > 0, f"a zone of {hold.zone_bytes} bytes holds nothing"
    waiting: list[File] = []
    size = count = 0
    for file in _files(lots, hold):
        waiting.append(file)
        size += _size(file)
        count += len(file)
        while waiting and (size >= hold.capacity(count) or count >= hold.extents_max):
            shipment, waiting = _fill(waiting, hold)
            yield shipment
            size, count = sum(map(_size, waiting)), sum(map(len, waiting))
    while waiting and (flush or 2 * size >= hold.capacity(count)):
        shipment, waiting = _fill(waiting, hold)
        yield shipment
        size, count = sum(map(_size, waiting)), sum(map(len, waiting))


def _size(file: File) -> int:
    return sum(lot.length for lot in file)


def _files(lots: Iterable[Lot], hold: Hold) -> Iterator[File]:
    """The lots of each file together, of a long one as much as a segment takes."""
    file: File = []
    size = 0
    for lot in lots:
        if file and file[-1].inode != lot.inode:
            yield file
            file, size = [], 0
        rest: Lot | None = lot
        while rest is not None:
            room = hold.capacity(len(file) + 1) - size
            if room <= 0 or len(file) >= hold.extents_max:
                yield file
                file, size = [], 0
                continue
            lot, rest = rest.cut(room) if rest.length > room else (rest, None)
            file.append(lot)
            size += lot.length
    if file:
        yield file


def _fill(files: Sequence[File], hold: Hold) -> tuple[Shipment, list[File]]:
    """One segment from the first of `files`, and what did not find room."""
    taken: list[File] = []
    size = count = 0
    for file in files:
        if taken and (count + len(file) > hold.extents_max or size >= hold.capacity(count)):
            break
        taken.append(file)
        size += _size(file)
        count += len(file)
    later = list(files[len(taken) :])
    taken.sort(key=lambda file: (file[0].inode, file[0].offset))
    longest = hold.data_bytes_max(count)
    even = -(-size // (hold.k * BLOCK)) * BLOCK
    for stretch in STRETCH:
        more = even // stretch if stretch else 0
        data_bytes = min(longest, -(-(even + more) // BLOCK) * BLOCK)
        if size > hold.k * data_bytes:
            continue
        stowed, left, cut = _stow(taken, hold.k, data_bytes, full=False)
        if not left and not cut:
            return Shipment(data_bytes, _sorted(stowed), hold.unit_bytes), later
    data_bytes = min(longest, even)
    stowed, left, _ = _stow(taken, hold.k, data_bytes, full=data_bytes == longest)
    return Shipment(data_bytes, _sorted(stowed), hold.unit_bytes), left + later


def _sorted(stowed: Iterable[Stowed]) -> tuple[Stowed, ...]:
    return tuple(sorted(stowed, key=lambda one: one.at))


def _stow(
    files: Iterable[File], k: int, data_bytes: int, *, full: bool
) -> tuple[list[Stowed], list[File], bool]:
    """Give files their addresses; what finds no room is left over.

    Of a `full` segment the last little is left empty rather than that a file is cut. The last
    value: was a file cut that would have fitted into one fragment?
    """
    fill = [0] * k
    stowed: list[Stowed] = []
    left: list[File] = []
    was_cut = False
    for file in files:
        size = _size(file)
        whole = next((f for f in range(k) if fill[f] + size <= data_bytes), None)
        if whole is not None:
            for lot in file:
                stowed.append(Stowed(whole * data_bytes + fill[whole], lot))
                fill[whole] += lot.length
            continue
        room = k * data_bytes - sum(fill)
        if full and size <= data_bytes and room * WASTE_MAX <= k * data_bytes:
            left.append(file)
            continue
        was_cut = was_cut or size <= data_bytes
        rest = list(reversed(file))
        for fragment in range(k):
            while rest and fill[fragment] < data_bytes:
                lot = rest.pop()
                room = data_bytes - fill[fragment]
                if lot.length > room:
                    lot, after = lot.cut(room)
                    rest.append(after)
                stowed.append(Stowed(fragment * data_bytes + fill[fragment], lot))
                fill[fragment] += lot.length
        if rest:
            left.append(rest[::-1])
    return stowed, left, was_cut
