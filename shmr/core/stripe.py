"""Geometry of an archived segment: where an address lies, and what it takes to read it.

    address   0 ........ data_bytes ........ 2 data_bytes ........ k data_bytes
              | fragment 0 ............ | fragment 1 ........ | ... fragment k-1 |   then parity
    stripe    0     1     2   (short)     0     1     2          0     1     2       0  1  2

Addresses run along fragment 0, then fragment 1, ...: a file lies on one drive where it fits. Unit u
of all k+m fragments is stripe u: it is encoded and decoded by itself. All fragments have the same
length, so the last stripe is short in all of them.

Left to others: the bytes themselves (`shmr.codec`), and which file goes to which address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from shmr.format.fragment import (
    BLOCK,
    EXTENTS_MAX,
    UNIT_BYTES,
    FragmentHeader,
    footer_size,
    table_size,
    units_of,
)

T = TypeVar("T")


class Piece(NamedTuple):
    """`length` bytes from `offset` of a unit: all of an address range that lies in that unit."""

    fragment: int
    unit: int
    offset: int
    length: int


class UnitPlace(NamedTuple):
    """One unit of one fragment."""

    fragment: int
    unit: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of one segment: k+m fragments of `data_bytes` bytes of units each."""

    k: int
    m: int
    data_bytes: int
    unit_bytes: int = UNIT_BYTES

    @property
    def width(self) -> int:
        """How many fragments, each on a drive of its own."""
        return self.k + self.m

    @property
    def stripes(self) -> int:
        """How many stripes: as many as a fragment has units."""
        return units_of(self.data_bytes, self.unit_bytes)

    @property
    def space_bytes(self) -> int:
        """Where the address space ends."""
        return self.k * self.data_bytes

    def unit_size(self, unit: int) -> int:
        """Bytes of unit `unit` of every fragment: fewer in the last."""
        self._check_unit(unit)
        return min(self.unit_bytes, self.data_bytes - unit * self.unit_bytes)

    def unit_offset(self, unit: int) -> int:
        """Where unit `unit` begins in a fragment's file."""
        self._check_unit(unit)
        return BLOCK + unit * self.unit_bytes

    def unit_address(self, fragment: int, unit: int) -> int:
        """The address of a data unit's first byte."""
        if not 0 <= fragment < self.k:
            raise ValueError(f"fragment {fragment} has no addresses, only 0..{self.k - 1} have")
        self._check_unit(unit)
        return fragment * self.data_bytes + unit * self.unit_bytes

    def pieces(self, address: int, length: int) -> Iterator[Piece]:
        """The range of addresses, cut at the ends of units, in order."""
        end = address + length
        if address < 0 or length < 0 or end > self.space_bytes:
            raise ValueError(f"addresses {address}..{end} of {self.space_bytes}")
        while address < end:
            fragment, inside = divmod(address, self.data_bytes)
            unit, offset = divmod(inside, self.unit_bytes)
            size = min(end - address, self.unit_size(unit) - offset)
            yield Piece(fragment, unit, offset, size)
            address += size

    def touched(self, address: int, length: int) -> list[UnitPlace]:
        """The units that hold the range, each once, in the order of addresses."""
        return [UnitPlace(fragment, unit) for fragment, unit, _, _ in self.pieces(address, length)]

    def stripes_touched(self, address: int, length: int) -> list[int]:
        """The stripes that hold a unit of the range, each once, rising."""
        return sorted({place.unit for place in self.touched(address, length)})

    def survivors(self, lost: Collection[int], *, near: Iterable[int] = ()) -> list[int] | None:
        """k fragments to decode a stripe from, rising; None when fewer are left.

        First those of `near` (what is read anyway), then data, which costs no computation, then
        parity.
        """
        left = [fragment for fragment in near if fragment not in lost]
        left += [fragment for fragment in range(self.width) if fragment not in lost]
        chosen = list(dict.fromkeys(left))[: self.k]
        return sorted(chosen) if len(chosen) == self.k else None

    def needed(self, wanted: Iterable[UnitPlace], lost: Collection[int]) -> list[UnitPlace] | None:
        """The units to read for those that are `wanted`, when fragments `lost` cannot be read.

        Only the stripes of lost units are read from other drives. None when too much is lost.
        In the order of fragments, then units: each drive is read forward.
        """
        by_stripe: dict[int, list[int]] = {}
        for fragment, unit in wanted:
            by_stripe.setdefault(unit, []).append(fragment)
        places: set[UnitPlace] = set()
        for unit, fragments in by_stripe.items():
            there = [fragment for fragment in fragments if fragment not in lost]
            if len(there) < len(fragments):
                sources = self.survivors(lost, near=there)
                if sources is None:
                    return None
                # With more wanted than k there is nothing to spare: all of them are read.
                there = sorted({*sources, *there})
            places.update(UnitPlace(fragment, unit) for fragment in there)
        return sorted(places)

    def _check_unit(self, unit: int) -> None:
        if not 0 <= unit < self.stripes:
            raise ValueError(f"unit {unit} of {self.stripes}")


def geometry_of(header: FragmentHeader) -> Geometry:
    """The shape of the segment that a fragment belongs to."""
    return Geometry(header.k, header.m, header.data_bytes, header.unit_bytes)


def fragment_size(data_bytes: int, extents: int, unit_bytes: int = UNIT_BYTES) -> int:
    """Bytes of a fragment's whole file: header, units, table and footer."""
    return BLOCK + data_bytes + table_size(extents) + footer_size(units_of(data_bytes, unit_bytes))


def data_bytes_max(zone_bytes: int, extents: int, unit_bytes: int = UNIT_BYTES) -> int:
    """Most bytes of units that fit into a zone beside a table of `extents`; 0: nothing does."""
    low, high = 0, max(0, zone_bytes // BLOCK)
    while low < high:
        middle = (low + high + 1) // 2
        if fragment_size(middle * BLOCK, extents, unit_bytes) <= zone_bytes:
            low = middle
        else:
            high = middle - 1
    return low * BLOCK


def capacity(k: int, zone_bytes: int, extents: int, unit_bytes: int = UNIT_BYTES) -> int:
    """Most bytes of files that a segment holds in `extents` extents; 0: so many do not fit."""
    if extents > EXTENTS_MAX:
        return 0
    return k * data_bytes_max(zone_bytes, extents, unit_bytes)


def extents_max(zone_bytes: int) -> int:
    """Most extents that a plan should have: what a table of a 32nd of the zone holds.

    More are possible, but then the space goes to tables; a plan that reaches this is full.
    """
    return max(1, min(EXTENTS_MAX, zone_bytes // 32 // table_size(1) * (BLOCK // 32)))


def fit(
    k: int, used_bytes: int, zone_bytes: int, extents: int, unit_bytes: int = UNIT_BYTES
) -> int | None:
    """`data_bytes` of the shortest fragments that hold `used_bytes`, or None: a zone is too small.

    The bytes are spread evenly: less than 4 KiB of each fragment is left over.
    """
    if not 0 < used_bytes <= capacity(k, zone_bytes, extents, unit_bytes):
        return None
    blocks = -(-used_bytes // (k * BLOCK))
    return blocks * BLOCK


def rotated(drives: Sequence[T], turn: int) -> tuple[T, ...]:
    """`drives` in the order of fragments: the first place goes around as `turn` rises by one.

    So parity, which is not read, and the beginnings of segments do not gather on one drive.
    """
    start = turn % len(drives)
    return (*drives[start:], *drives[:start])
