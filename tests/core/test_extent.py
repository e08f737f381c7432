"""Extent arithmetic against files as plain lists of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.core.extent import dig, replace, tiles
from shmr.errors import IntegrityError
from shmr.format.rows import Address, Extent

Cell = tuple[int, int] | None
"""Which byte of which frame stands somewhere; None in a hole."""


def cells(extents: list[Extent]) -> list[Cell]:
    """What extents that tile [0, size) say of each byte."""
    found: list[Cell] = []
    for extent in extents:
        assert extent.offset == len(found)
        at = extent.address
        for index in range(extent.length):
            found.append(None if at is None else (at.frame, at.skip + index))
    return found


@st.composite
def files(draw: st.DrawFn) -> list[Extent]:
    """Extents that tile a small file."""
    extents = []
    offset = 0
    for number in range(draw(st.integers(0, 8))):
        length, skip = draw(st.integers(1, 9)), draw(st.integers(0, 3))
        address = Address(1, number * 96, skip + length + 2, skip)
        extents.append(Extent(offset, length, address if draw(st.booleans()) else None))
        offset += length
    return extents


def applied(extents: list[Extent], start: int, end: int) -> tuple[list[Extent], int]:
    """The rows after an overwrite of [start, end), as a table of rows does it."""
    touched = [extent for extent in extents if extent.end > start and extent.offset < end]
    change = replace(touched, start, end)
    table = {extent.offset: extent for extent in extents}
    for offset in change.removed:
        del table[offset]
    for extent in change.kept:
        table[extent.offset] = extent
    return [table[offset] for offset in sorted(table)], change.freed


@given(files(), st.data())
def test_an_overwrite_cuts_out_its_range_and_nothing_else(
    extents: list[Extent], data: st.DataObject
) -> None:
    before = cells(extents)
    start = data.draw(st.integers(0, len(before)))
    end = data.draw(st.integers(start + 1, len(before) + 5))
    left, freed = applied(extents, start, end)
    assert freed == sum(cell is not None for cell in before[start:end])
    expected = dict(enumerate(before[:start])) | {
        at: cell for at, cell in enumerate(before) if at >= end
    }
    found: dict[int, Cell] = {}
    for extent in left:
        for index, cell in enumerate(cells([extent._replace(offset=0)])):
            assert extent.offset + index not in found, "extents overlap"
            found[extent.offset + index] = cell
    assert found == expected


@given(files().filter(len), st.data())
def test_what_is_dug_is_one_hole_and_all_else_stays(
    extents: list[Extent], data: st.DataObject
) -> None:
    before = cells(extents)
    start = data.draw(st.integers(0, len(before) - 1))
    end = data.draw(st.integers(start + 1, len(before)))
    near = [extent for extent in extents if extent.end >= start and extent.offset <= end]
    dug = dig(near, start, end)
    table = {
        extent.offset: extent for extent in extents if not start <= extent.offset < dug.hole.end
    }
    table |= {extent.offset: extent for extent in (dug.hole, *dug.edges)}
    left = [table[offset] for offset in sorted(table)]
    assert cells(left) == before[:start] + [None] * (end - start) + before[end:]
    assert dug.freed == sum(cell is not None for cell in before[start:end])
    beside = [e for e in left if e.end == dug.hole.offset or e.offset == dug.hole.end]
    before_holes = [e for e in extents if e.address is None]
    for extent in beside:
        if extent.address is None:
            assert extent in before_holes, "holes side by side were so before"
            assert extent.end < start or extent.offset > end


@given(files(), st.data())
def test_tiles_are_the_range_byte_for_byte(extents: list[Extent], data: st.DataObject) -> None:
    whole = cells(extents)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    parts = list(tiles(extents, start, end))
    shifted = [part._replace(offset=part.offset - start) for part in parts]
    assert cells(shifted) == whole[start:end]


@given(files().filter(len), st.data())
def test_a_missing_extent_is_an_error_and_never_zeros(
    extents: list[Extent], data: st.DataObject
) -> None:
    size = extents[-1].end
    gone = data.draw(st.sampled_from(extents))
    left = [extent for extent in extents if extent is not gone]
    with pytest.raises(IntegrityError, match=f"offset {gone.offset}$"):
        list(tiles(left, 0, size))


@given(files().filter(len))
def test_a_range_beyond_the_last_extent_is_an_error(extents: list[Extent]) -> None:
    with pytest.raises(IntegrityError):
        list(tiles(extents, 0, extents[-1].end + 1))


@given(files().filter(len), st.integers(0, 100), st.integers(0, 100))
def test_a_clip_is_the_part_inside(extents: list[Extent], start: int, end: int) -> None:
    for extent in extents:
        part = extent.clip(start, end)
        inside = range(max(start, extent.offset), min(end, extent.end))
        assert (part is None) == (len(inside) == 0)
        if part is not None:
            assert (part.offset, part.end) == (inside.start, inside.stop)
            if extent.address is not None:
                assert part.address is not None
                moved = part.offset - extent.offset
                assert part.address == extent.address._replace(skip=extent.address.skip + moved)
