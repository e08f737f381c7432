"""A set of byte offsets, as the ranges that it consists of."""

from __future__ import annotations

from typing import NamedTuple


class Ranges(NamedTuple):
    """Ranges (start, end) in order; none is empty, and none touches the next."""

    pairs: tuple[tuple[int, int], ...] = ()

    def without(self, start: int, end: int) -> Ranges:
        left = []
        for low, high in self.pairs:
            left += [(low, min(high, start)), (max(low, end), high)]
        return Ranges(tuple((low, high) for low, high in left if low < high))

    def with_range(self, start: int, end: int) -> Ranges:
        if start >= end:
            return self
        for low, high in self.pairs:
            if low <= end and start <= high:
                start, end = min(start, low), max(end, high)
        return Ranges(tuple(sorted((*self.without(start, end).pairs, (start, end)))))

    def within(self, start: int, end: int) -> Ranges:
        """What of them is in [start, end)."""
        cut = [(max(low, start), min(high, end)) for low, high in self.pairs]
        return Ranges(tuple((low, high) for low, high in cut if low < high))
