"""How close to loss segments are: how many more of its fragments each can do without.

Over rows alone, and what is known of fragments: which are on drives that are there, and not known
to be damaged. Bytes are those of files that live in a segment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from shmr.format.archived import Archived
from shmr.units import format_size

Whole = Callable[[int, Archived, int], bool]
"""Is there a whole fragment, as far as is known? Asked with segment, row and index."""


@dataclass(frozen=True, slots=True)
class AtRisk:
    """Segments that lack fragments, and can lose `left` more; -1: too few are there already."""

    left: int
    segments: int
    size_bytes: int

    def __str__(self) -> str:
        head = "too few left" if self.left < 0 else f"{self.left} left"
        return f"{head}: {format_size(self.size_bytes)}"


def left_of(number: int, archived: Archived, whole: Whole) -> int:
    """How many fragments the segment can lose before it is lost; below 0: it is."""
    there = sum(whole(number, archived, index) for index in range(len(archived.fragments)))
    return there - archived.k


class Exposure:
    """What of some segments is at risk, kept up as their fragments are written anew."""

    def __init__(self, rows: Mapping[int, Archived], live: Mapping[int, int], whole: Whole) -> None:
        """`live`: bytes of files in each segment. Only what lives somewhere is at risk."""
        self._live = live
        self._whole = whole
        self._lefts: dict[int, int] = {}
        """Of the segments that lack something."""
        self._segments: Counter[int] = Counter()
        self._sizes: Counter[int] = Counter()
        for number, archived in rows.items():
            self.note(number, archived)

    def note(self, number: int, archived: Archived) -> None:
        """This is the row of the segment now."""
        size = max(0, self._live.get(number, 0))
        before = self._lefts.pop(number, None)
        if before is not None:
            self._segments[before] -= 1
            self._sizes[before] -= size
        left = max(-1, left_of(number, archived, self._whole))
        if left < archived.m:
            self._lefts[number] = left
            self._segments[left] += 1
            self._sizes[left] += size

    def __iter__(self) -> Iterator[AtRisk]:
        """Those closest to loss first; nothing of what lacks nothing."""
        for left, count in sorted(self._segments.items()):
            if count:
                yield AtRisk(left, count, self._sizes[left])

    def __str__(self) -> str:
        """As a note: "0 left: 12.0 GiB, 1 left: 340 GiB"."""
        return ", ".join(map(str, self))
