"""Segments that are kept though nothing lives in them: the sources of a shift.

Their bytes were moved, and the extents switched. They go only when a snapshot that knows of the
move is on archive drives: until then the workspace alone would know where the bytes are. A hold is
a row like any other, written before the first extent is switched, so it outlives a crash whenever
the switch does.

Left to others: moving (`shmr.archive`), removing what is dead and not held.
"""

from __future__ import annotations

from collections.abc import Iterable

from shmr.catalog.catalog import Catalog
from shmr.errors import IntegrityError
from shmr.format.rows import Row, Table, decode_number, encode_number

_PREFIX = b"held "


def _key(number: int) -> bytes:
    return _PREFIX + str(number).encode()


def hold_rows(numbers: Iterable[int], target: int | None = None) -> list[Row]:
    """Rows that hold these segments, whose bytes went to segment `target`.

    0 is the workspace, None: they stay in the segment, and it is its fragments that move.
    """
    return [
        Row(Table.STATE, _key(number), encode_number(number if target is None else target))
        for number in numbers
    ]


def release_rows(numbers: Iterable[int]) -> list[Row]:
    """Rows that hold these segments no longer."""
    return [Row(Table.STATE, _key(number), None) for number in numbers]


def is_held(catalog: Catalog, number: int) -> bool:
    return catalog.get(Table.STATE, _key(number)) is not None


def held(catalog: Catalog) -> dict[int, int]:
    """Every segment that is held, and where the last of it went to. Raises IntegrityError."""
    numbers = {}
    for key, value in catalog.scan(Table.STATE, _PREFIX, _PREFIX):
        digits = key.removeprefix(_PREFIX)
        if not digits.isdigit():
            raise IntegrityError(f"state row {key!r}: no segment is held by it")
        numbers[int(digits)] = decode_number(value)
    return numbers
