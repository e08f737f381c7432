"""Packing: every byte once, nothing beyond a zone, files whole where they fit."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.archive.plan import Hold, Lot, Shipment, shipments
from shmr.format.fragment import BLOCK
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


LONG = 256 * UNIT
"""A zone in which a unit is little, as in real ones."""
many_sizes = st.lists(
    st.one_of(
        st.integers(1, 2 * UNIT),
        st.integers(1, LONG // 2),
        st.integers(LONG // 3, 3 * LONG),
    ).flatmap(lambda size: st.lists(st.just(size), min_size=1, max_size=4)),
    min_size=1,
    max_size=25,
)


def pieces_of(shipment: Shipment) -> dict[tuple[int, int], int]:
    """Bytes of each file on each fragment: (inode, fragment)."""
    found: dict[tuple[int, int], int] = defaultdict(int)
    for at, lot in shipment.stowed:
        assert at // shipment.data_bytes == (at + lot.length - 1) // shipment.data_bytes
        found[lot.inode, at // shipment.data_bytes] += lot.length
    return found


@given(many_sizes, st.integers(1, 6))
def test_of_several_segments_all_but_the_last_are_full_and_no_file_is_cut_for_little(
    found: list[list[int]], k: int
) -> None:
    sizes = [size for some in found for size in some]
    shipped = list(shipments(lots_of([[size] for size in sizes]), Hold(k, LONG, UNIT), flush=True))
    for shipment in shipped[:-1]:
        assert shipment.size_bytes >= 0.99 * k * shipment.data_bytes
        assert shipment.fragment_bytes() > LONG - 2 * BLOCK
        pieces = pieces_of(shipment)
        for inode, where in spread(shipment).items():
            of_file = sum(pieces[inode, fragment] for fragment in where)
            if len(where) > 1 and sizes[inode - 1] <= shipment.data_bytes:
                without = shipment.size_bytes - of_file
                assert without < 0.99 * k * shipment.data_bytes


@given(many_sizes, st.integers(1, 6))
def test_no_piece_is_smaller_than_a_unit_unless_its_file_is(found: list[list[int]], k: int) -> None:
    sizes = [size for some in found for size in some]
    shipped = list(shipments(lots_of([[size] for size in sizes]), Hold(k, LONG, UNIT), flush=True))
    if shipped[-1].size_bytes > 0.98 * k * LONG:
        # What fits only in slivers had better be in slivers than in another segment.
        shipped.pop()
    for shipment in shipped:
        for (inode, _), size in pieces_of(shipment).items():
            assert size >= min(UNIT, sizes[inode - 1])


@given(many_sizes, st.integers(1, 6), st.integers(0, 3 * UNIT))
def test_what_fits_into_so_many_segments_takes_no_more(
    found: list[list[int]], k: int, less: int
) -> None:
    hold = Hold(k, LONG, UNIT)
    wanted = [size for some in found for size in some]
    room = hold.capacity(len(wanted) + 1) - less
    sizes: list[int] = []
    for size in [*wanted, room]:
        sizes.append(min(size, room - sum(sizes)))
    lots = lots_of([[size] for size in sizes if size])
    assert len(list(shipments(lots, hold, flush=True))) == 1


@pytest.mark.parametrize("over", [1, 5, UNIT - 1, UNIT, 3 * UNIT])
def test_the_end_of_a_file_that_just_does_not_fit_is_no_sliver(over: int) -> None:
    hold = Hold(2, LONG, UNIT)
    full = hold.capacity(1)
    first, second = shipments(lots_of([[full + over]]), hold, flush=True)
    assert first.size_bytes + second.size_bytes == full + over
    assert second.size_bytes == max(UNIT, over)


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
