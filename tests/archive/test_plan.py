"""Packing: every byte once, nothing beyond a zone, files whole where they fit."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shmr.archive.plan import Hold, Lot, Shipment, shipments
from shmr.format.rows import Address
from shmr.units import KIB

UNIT = 8 * KIB
ZONE = 128 * KIB

sizes = st.lists(st.integers(1, 90_000), min_size=1, max_size=6)
files = st.lists(sizes, min_size=1, max_size=30)


def lots_of(found: list[list[int]]) -> list[Lot]:
    lots = []
    for inode, lengths in enumerate(found, 1):
        offset = 0
        for number, length in enumerate(lengths):
            lots.append(Lot(inode, offset, length, Address(number + 1, 4096 * inode, 90_000, 0)))
            # Every third extent does not follow the one before.
            offset += length + (100 if number % 3 == 2 else 0)
    return lots


def spread(shipment: Shipment) -> dict[int, set[int]]:
    """The fragments on which each file lies."""
    found: dict[int, set[int]] = defaultdict(set)
    for at, lot in shipment.stowed:
        first, last = at // shipment.data_bytes, (at + lot.length - 1) // shipment.data_bytes
        found[lot.inode].update(range(first, last + 1))
    return found


@given(files, st.integers(1, 4))
def test_every_byte_is_shipped_once_and_no_fragment_is_larger_than_a_zone(
    found: list[list[int]], k: int
) -> None:
    lots = lots_of(found)
    hold = Hold(k, ZONE, UNIT)
    shipped: list[tuple[int, int, int]] = []
    for shipment in shipments(lots, hold, flush=True):
        assert all(one.end <= other.at for one, other in pairwise(shipment.stowed))
        assert shipment.used_bytes <= k * shipment.data_bytes
        assert shipment.fragment_bytes() <= ZONE
        table = shipment.table()
        assert len(table) <= len(shipment.stowed)
        assert sum(extent.length for extent in table) == shipment.size_bytes
        for _, lot in shipment.stowed:
            assert lot.source.skip + lot.length <= lot.source.payload
            shipped.append((lot.inode, lot.offset, lot.length))
    merged = sorted(shipped)
    wanted = sorted((lot.inode, lot.offset, lot.length) for lot in lots)

    def points(ranges: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        """Ranges with those joined that touch."""
        joined: list[tuple[int, int, int]] = []
        for inode, offset, length in ranges:
            if joined and joined[-1][0] == inode and sum(joined[-1][1:]) == offset:
                offset, length = joined[-1][1], joined.pop()[2] + length
            joined.append((inode, offset, length))
        return joined

    assert points(merged) == points(wanted)
    assert sum(length for *_, length in merged) == sum(lot.length for lot in lots)


@given(files, st.integers(2, 4))
def test_a_file_that_fits_lies_on_one_drive_unless_its_segment_would_stay_too_empty(
    found: list[list[int]], k: int
) -> None:
    hold = Hold(k, ZONE, UNIT)
    for shipment in shipments(lots_of(found), hold, flush=True):
        cut = [inode for inode, where in spread(shipment).items() if len(where) > 1]
        whole = [inode for inode in cut if sum(found[inode - 1]) <= shipment.data_bytes]
        # Each cut file fills what was left on all fragments before its last.
        assert len(whole) <= k


@given(files, st.integers(1, 4))
def test_less_than_half_a_segment_waits(found: list[list[int]], k: int) -> None:
    lots = lots_of(found)
    hold = Hold(k, ZONE, UNIT)
    shipped = list(shipments(lots, hold))
    waiting = sum(lot.length for lot in lots) - sum(one.size_bytes for one in shipped)
    assert 0 <= 2 * waiting < hold.capacity(1)
    for shipment in shipped:
        assert 2 * shipment.size_bytes >= hold.capacity(len(lots)) * 15 // 16


def test_small_files_share_a_segment_each_whole_on_one_drive() -> None:
    lots = lots_of([[10_000]] * 30)
    [shipment] = shipments(lots, Hold(4, ZONE, UNIT), flush=True)
    assert all(len(where) == 1 for where in spread(shipment).values())
    assert {f for where in spread(shipment).values() for f in where} == {0, 1, 2, 3}


def test_neighbours_in_a_file_are_one_extent_of_the_table() -> None:
    lots = lots_of([[4096, 4096], [50]])
    [shipment] = shipments(lots, Hold(1, ZONE, UNIT), flush=True)
    assert [extent.length for extent in shipment.table()] == [8192, 50]
