"""Geometry of an archived segment: every byte has one place, and few units bring it back."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.core.stripe import (
    Geometry,
    UnitPlace,
    capacity,
    data_bytes_max,
    extents_max,
    fit,
    fragment_size,
    geometry_of,
    rotated,
)
from shmr.format.fragment import BLOCK, EXTENTS_MAX, UNIT_BYTES, Code, FragmentHeader
from shmr.units import GIB, KIB, MIB

geometries = st.builds(
    Geometry,
    k=st.integers(1, 10),
    m=st.integers(0, 4),
    data_bytes=st.integers(1, 40).map(lambda blocks: blocks * BLOCK),
    unit_bytes=st.integers(1, 8).map(lambda blocks: blocks * BLOCK),
)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[Geometry, int, int]:
    shape = draw(geometries)
    start = draw(st.integers(0, shape.space_bytes))
    return shape, start, draw(st.integers(0, shape.space_bytes - start))


@given(ranges())
def test_pieces_tile_the_range_and_lie_where_their_address_is(
    given_range: tuple[Geometry, int, int],
) -> None:
    shape, address, length = given_range
    at = address
    for piece in shape.pieces(address, length):
        assert 0 < piece.length <= shape.unit_size(piece.unit) - piece.offset
        assert shape.unit_address(piece.fragment, piece.unit) + piece.offset == at
        assert piece.fragment == at // shape.data_bytes
        at += piece.length
    assert at == address + length


@given(geometries)
def test_the_units_of_a_fragment_are_its_bytes(shape: Geometry) -> None:
    sizes = [shape.unit_size(unit) for unit in range(shape.stripes)]
    assert sum(sizes) == shape.data_bytes
    assert set(sizes[:-1]) <= {shape.unit_bytes}
    assert 0 < sizes[-1] <= shape.unit_bytes
    offsets = [shape.unit_offset(unit) for unit in range(shape.stripes)]
    assert offsets == [BLOCK + sum(sizes[:unit]) for unit in range(shape.stripes)]
    assert sizes[-1] % BLOCK == 0


@given(ranges())
def test_the_stripes_touched_are_those_of_the_pieces(
    given_range: tuple[Geometry, int, int],
) -> None:
    shape, address, length = given_range
    pieces = list(shape.pieces(address, length))
    assert shape.stripes_touched(address, length) == sorted({piece.unit for piece in pieces})
    touched = shape.touched(address, length)
    assert len(set(touched)) == len(touched) == len(pieces)


@pytest.mark.parametrize(("address", "length"), [(-1, 1), (0, -1), (0, 4 * BLOCK + 1), (2**70, 1)])
def test_addresses_outside_of_the_segment_are_refused(address: int, length: int) -> None:
    with pytest.raises(ValueError, match="addresses"):
        list(Geometry(2, 1, 2 * BLOCK).pieces(address, length))


def test_units_and_fragments_that_are_not_there_are_refused() -> None:
    shape = Geometry(2, 1, 2 * BLOCK, BLOCK)
    for unit in (-1, 2):
        with pytest.raises(ValueError, match=f"unit {unit} of 2"):
            shape.unit_size(unit)
        with pytest.raises(ValueError, match=f"unit {unit} of 2"):
            shape.unit_offset(unit)
    with pytest.raises(ValueError, match="fragment 2 has no addresses"):
        shape.unit_address(2, 0)


@given(ranges(), st.data())
def test_what_is_needed_is_enough_and_no_more(
    given_range: tuple[Geometry, int, int], data: st.DataObject
) -> None:
    shape, address, length = given_range
    lost = data.draw(st.sets(st.integers(0, shape.width - 1)))
    wanted = shape.touched(address, length)
    needed = shape.needed(wanted, lost)
    hurt = {place.unit for place in wanted if place.fragment in lost}
    if len(lost) > shape.m and hurt:
        assert needed is None
        return
    assert needed is not None
    assert needed == sorted(set(needed))
    assert not {place.fragment for place in needed} & lost
    assert {place for place in wanted if place.fragment not in lost} <= set(needed)
    by_stripe = Counter(place.unit for place in needed)
    asked = Counter(place.unit for place in wanted if place.fragment not in lost)
    for unit in {place.unit for place in wanted}:
        assert by_stripe[unit] == (max(shape.k, asked[unit]) if unit in hurt else asked[unit])


def test_an_intact_read_needs_nothing_else() -> None:
    shape = Geometry(4, 2, 8 * BLOCK, BLOCK)
    wanted = shape.touched(0, 3 * BLOCK)
    assert shape.needed(wanted, {1, 2, 3, 4, 5}) == wanted


def test_a_degraded_read_takes_data_before_parity() -> None:
    shape = Geometry(4, 2, 8 * BLOCK, BLOCK)
    assert shape.needed([UnitPlace(1, 5)], {1}) == [UnitPlace(f, 5) for f in (0, 2, 3, 4)]
    assert shape.needed([UnitPlace(1, 5)], {1, 3}) == [UnitPlace(f, 5) for f in (0, 2, 4, 5)]
    assert shape.survivors({0}, near=[5]) == [1, 2, 3, 5]


def test_any_loss_of_m_leaves_survivors_and_any_of_more_does_not() -> None:
    shape = Geometry(4, 2, BLOCK)
    for lost in combinations(range(6), 2):
        assert shape.survivors(lost) == [f for f in range(6) if f not in lost][:4]
    for too_many in combinations(range(6), 3):
        assert shape.survivors(too_many) is None


def test_a_mirror_reads_one_copy() -> None:
    shape = Geometry(1, 2, 4 * BLOCK, BLOCK)
    assert shape.needed(shape.touched(0, 2 * BLOCK), {0}) == [UnitPlace(1, 0), UnitPlace(1, 1)]


@given(
    st.integers(0, 64 * MIB),
    st.integers(1, 100_000),
    st.sampled_from((BLOCK, 64 * KIB, UNIT_BYTES)),
)
def test_a_fragment_fills_its_zone_and_no_more(zone: int, extents: int, unit: int) -> None:
    most = data_bytes_max(zone, extents, unit)
    assert most % BLOCK == 0
    if most:
        assert fragment_size(most, extents, unit) <= zone
    assert fragment_size(most + BLOCK, extents, unit) > zone


@given(st.integers(1, 12), st.integers(1, 40 * MIB), st.integers(1, 5000))
def test_fragments_are_as_short_as_their_content_allows(k: int, used: int, extents: int) -> None:
    zone = 4 * MIB
    data_bytes = fit(k, used, zone, extents)
    if data_bytes is None:
        assert used > capacity(k, zone, extents)
        return
    assert used <= k * data_bytes < used + k * BLOCK
    assert data_bytes % BLOCK == 0
    assert fragment_size(data_bytes, extents) <= zone


def test_nothing_has_no_fragments() -> None:
    assert fit(4, 0, 256 * MIB, 1) is None


def test_the_sizes_are_those_of_the_header() -> None:
    data_bytes, extents = 10 * MIB + BLOCK, 1000
    header = FragmentHeader(
        b"f" * 16, 1, 1, 0, 4, 2, Code.ISA_L_RS_CAUCHY, UNIT_BYTES, data_bytes, 1, extents, 0,
        tuple(bytes([n + 1]) * 16 for n in range(6)),
    )  # fmt: skip
    assert fragment_size(data_bytes, extents) == header.length
    assert geometry_of(header) == Geometry(4, 2, data_bytes)
    assert geometry_of(header).stripes == header.units


def test_a_default_zone_is_nearly_all_data() -> None:
    zone = 256 * MIB
    assert capacity(4, zone, 100) > 0.9998 * 4 * zone
    assert capacity(4, zone, extents_max(zone)) > 0.968 * 4 * zone
    assert capacity(4, zone, EXTENTS_MAX + 1) == 0


@given(st.integers(1, 4 * GIB // BLOCK))
def test_a_plan_that_is_full_of_extents_still_has_room_for_bytes(blocks: int) -> None:
    zone = blocks * BLOCK
    extents = extents_max(zone)
    assert 1 <= extents <= EXTENTS_MAX
    if zone >= MIB:
        assert data_bytes_max(zone, extents) > 0.94 * zone


@given(st.integers(1, 32), st.integers(0, 2**64))
def test_fragment_0_goes_around(width: int, turn: int) -> None:
    drives = range(width)
    first = [rotated(drives, turn + step)[0] for step in range(width)]
    assert sorted(first) == list(drives)
    assert sorted(rotated(drives, turn)) == list(drives)
