"""Numbers of segments of which the log does not know what they were.

A workspace that is made anew begins with what was found: a snapshot, or footers alone. Its own
numbers begin far above. Those between were given by the log that is lost: a fragment or a copy of
a snapshot with one of them, that no row names, may be all that is left of what came later. It was
on a drive that was not there, or could not be understood. Nothing discards it but who is told to.

Each gap is a row, so that several are kept where a workspace was lost several times.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator

from shmr.catalog.catalog import Catalog
from shmr.errors import IntegrityError
from shmr.format.rows import Row, Table, decode_number, encode_number

_PREFIX = b"unknown "


class Gaps:
    """Ranges [start, end) of numbers; `number in gaps` asks whether one of them has it."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in sorted(ranges):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            elif start < end:
                self._starts.append(start)
                self._ends.append(end)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number)
        return at > 0 and number < self._ends[at - 1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __bool__(self) -> bool:
        return bool(self._starts)


def gaps_in(states: Callable[[bytes], Iterable[tuple[bytes, int]]]) -> Gaps:
    """Those in these state rows, asked for by what their names begin with.

    Raises IntegrityError.
    """
    return Gaps((_start(key), end) for key, end in states(_PREFIX))


def gaps_of(catalog: Catalog) -> Gaps:
    """Those that the catalog knows. On the volume's thread. Raises IntegrityError."""

    def states(prefix: bytes) -> Iterator[tuple[bytes, int]]:
        for key, value in catalog.scan(Table.STATE, prefix, prefix):
            yield key, decode_number(value)

    return gaps_in(states)


def _start(key: bytes) -> int:
    digits = key.removeprefix(_PREFIX)
    if not digits.isdigit():
        raise IntegrityError(f"state row {key!r}: no gap begins there")
    return int(digits)


def gap_rows(gaps: Iterable[tuple[int, int]]) -> list[Row]:
    """Rows that remember these."""
    return [
        Row(Table.STATE, _PREFIX + str(start).encode(), encode_number(end)) for start, end in gaps
    ]


def ended_rows(catalog: Catalog) -> list[Row]:
    """Rows that forget all gaps."""
    return [Row(Table.STATE, key, None) for key, _ in catalog.scan(Table.STATE, _PREFIX, _PREFIX)]


def without(start: int, end: int, named: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The ranges of [start, end) that are left without the numbers that are `named`, rising."""
    for number in named:
        if start <= number < end:
            if start < number:
                yield start, number
            start = number + 1
    if start < end:
        yield start, end
