"""What goes into the next segment: bytes of files, packed so that a file lies in one fragment.

    lot        a run of file bytes and where it is now
    shipment   the lots of one segment, each with its address there

Files are taken in the order they come in until a segment is full. In each of its fragments they
stand by inode and offset. Those that are large beside a fragment are placed first (`_place`); a
file is cut where it fits nowhere whole and more than a hundredth of the segment would stay empty,
and into pieces of a unit at least. Fragments of a segment that is not full are as short as they can
be.

Pure: nothing is looked up or touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from shmr.core.stripe import data_bytes_max, extents_max, fragment_size
from shmr.format.fragment import BLOCK, EXTENTS_MAX, UNIT_BYTES, ArchivedExtent
from shmr.format.rows import Address

WASTE_MAX = 100
"""A segment that has less than this part of it left is full, if a file would have to be cut."""
LARGE = 16
"""A file of more than this part of a fragment is placed before smaller ones."""
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


LOTS_MAX = 1 << 17
"""Extents of a segment at most, whatever its zones: each takes some 430 bytes of memory, and three
segments are in memory at a time, one being verified, one written, one packed."""
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

    def short_bytes_max(self, size_bytes: int) -> int:
        """Most `data_bytes` of a segment of so many bytes of files, which are few beside zones."""
        even = -(-size_bytes // (self.k * BLOCK)) * BLOCK
        return max(even + even // min(filter(None, STRETCH)) + BLOCK, even + 2 * self.unit_bytes)

    @property
    def extents_max(self) -> int:
        # Cutting makes some more, and a table has no room beyond its limit.
        return max(1, min(extents_max(self.zone_bytes), EXTENTS_MAX - 4 * self.k, LOTS_MAX))


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


def shipments(
    lots: Iterable[Lot], hold: Hold, *, flush: bool = False, whole: bool = False
) -> Iterator[Shipment]:
    """Pack lots, those of one file side by side and by offset, into segments.

    Without `flush` what fills less than half of the last segment is left out: it waits. So does
    with `whole` what does not fill it.
    """
    assert hold.capacity(1) > 0, f"a zone of {hold.zone_bytes} bytes holds nothing"
    waiting: list[File] = []
    size = count = 0
    for file in _files(lots, hold):
        waiting.append(file)
        size += _size(file)
        count += len(file)
        # Not before there is more: whether a rest of a file is worth cutting off depends on it.
        while size > hold.capacity(count) or count > hold.extents_max:
            shipment, waiting = _fill(waiting, hold, last=False)
            yield shipment
            size, count = sum(map(_size, waiting)), sum(map(len, waiting))
    part = 1 if whole else 2
    while waiting and (flush or part * size >= hold.capacity(count)):
        shipment, waiting = _fill(waiting, hold, last=True)
        yield shipment
        size, count = sum(map(_size, waiting)), sum(map(len, waiting))


def _size(file: File) -> int:
    if len(file) == 1:
        return file[0].length
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


def _fill(files: Sequence[File], hold: Hold, *, last: bool) -> tuple[Shipment, list[File]]:
    """One segment from the first of `files`, and what did not find room.

    What comes `last` finds room, if it fits at all.
    """
    taken: list[File] = []
    size = count = used = 0
    for file in files:
        if taken and (count + len(file) > hold.extents_max or size > hold.capacity(count)):
            break
        if taken and taken[-1][0].inode == file[0].inode:
            taken[-1] = taken[-1] + file
        else:
            taken.append(file)
        size += _size(file)
        count += len(file)
        used += 1
    later = list(files[used:])
    longest, unit = hold.data_bytes_max(count), hold.unit_bytes
    even = -(-size // (hold.k * BLOCK)) * BLOCK
    for stretch in STRETCH:
        length = even + (even // stretch if stretch else 0)
        packing = _Packing(hold.k, min(longest, -(-length // BLOCK) * BLOCK), unit)
        if size <= hold.k * packing.data_bytes and not packing.place(taken):
            return packing.shipment(), later
    # With room for two units more, whatever has to be cut can be.
    for more in (0, unit, 2 * unit):
        packing = _Packing(hold.k, min(longest, even + more), unit)
        if size <= hold.k * packing.data_bytes and not packing.cut(packing.place(taken)):
            return packing.shipment(), later
    packing = _Packing(hold.k, longest, unit)
    # The last file is the one that is too much: what came before it does not wait for it.
    left = packing.place(taken[:-1]) + taken[-1:] if size > hold.k * longest else taken
    left = packing.cut(packing.place(left), waste_bytes=hold.k * longest // WASTE_MAX)
    if last and not later and size <= hold.k * longest:
        packing.unit_bytes_min = 1
        left = packing.cut(left)
    return packing.shipment(), left + later


class _Packing:
    """Fragments of `data_bytes` each, while files are given their places in them."""

    def __init__(self, k: int, data_bytes: int, unit_bytes: int) -> None:
        self.data_bytes = data_bytes
        self.unit_bytes_min = unit_bytes
        """No file is cut into pieces smaller than this."""
        self._unit_bytes = unit_bytes
        self._room = [data_bytes] * k
        self._content: list[list[Lot]] = [[] for _ in range(k)]

    def place(self, files: Sequence[File]) -> list[File]:
        """Each file in the first fragment that has room for all of it; what found none.

        The large first, for they find a place while there is much room; small ones by inode, so
        that those which were made together stay together.
        """
        large: list[tuple[int, File]] = []
        small: list[tuple[int, File]] = []
        left: list[File] = []
        for file in files:
            size = _size(file)
            (large if size * LARGE > self.data_bytes else small).append((size, file))
        large.sort(key=lambda one: -one[0])
        small.sort(key=lambda one: (one[1][0].inode, one[1][0].offset))
        room = self._room
        for size, file in large + small:
            for fragment in range(len(room)):
                if size <= room[fragment]:
                    self._content[fragment] += file
                    room[fragment] -= size
                    break
            else:
                left.append(file)
        return left

    def cut(self, files: Iterable[File], *, waste_bytes: int = 0) -> list[File]:
        """Spread files over what room is left, until that is `waste_bytes`; what found none."""
        left: list[File] = []
        for file in files:
            # Of a file that no fragment takes whole something is cut anyway.
            fits = _size(file) <= self.data_bytes
            if fits and sum(self._room) <= waste_bytes:
                left.append(file)
                continue
            rest = list(reversed(file))
            for fragment, size in self._pieces(_size(file)):
                self._room[fragment] -= size
                while size:
                    lot = rest.pop()
                    if lot.length > size:
                        lot, after = lot.cut(size)
                        rest.append(after)
                    self._content[fragment].append(lot)
                    size -= lot.length
            if rest:
                left.append(rest[::-1])
        return left

    def _pieces(self, size: int) -> list[tuple[int, int]]:
        """How much of a file of so many bytes goes where: (fragment, bytes), by fragment.

        Into as few fragments as can be; no piece, nor what is left of the file, is smaller than
        the smallest piece. Empty: there is no such way.
        """
        least = self.unit_bytes_min
        able = [f for f, free in enumerate(self._room) if free >= min(least, size)]
        able.sort(key=lambda fragment: -self._room[fragment])
        while able:
            # Without the last of them it is too little, or they all are.
            room = sum(self._room[fragment] for fragment in able)
            fewer = room - self._room[able[-1]]
            if len(able) > 1 and fewer >= size:
                able.pop()
                continue
            goal = size if room >= size else min(room, size - least)
            if len(able) == 1 and goal == size:
                return [(able[0], size)]
            if goal >= len(able) * least:
                break
            able.pop()
        pieces: list[tuple[int, int]] = []
        for index, fragment in enumerate(sorted(able), 1):
            # For each that follows there must be enough.
            piece = min(self._room[fragment], goal - (len(able) - index) * least)
            pieces.append((fragment, piece))
            goal -= piece
        return pieces

    def shipment(self) -> Shipment:
        """What was placed, in each fragment by inode and offset."""
        stowed: list[Stowed] = []
        for fragment, lots in enumerate(self._content):
            at = fragment * self.data_bytes
            for lot in sorted(lots, key=lambda lot: (lot.inode, lot.offset)):
                stowed.append(Stowed(at, lot))
                at += lot.length
        return Shipment(self.data_bytes, tuple(stowed), self._unit_bytes)
