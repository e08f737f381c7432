"""Extent arithmetic: which rows a write, a truncation or a move of a file's bytes changes.

Extents tile [0, size) of a file. Every function takes the extents that matter, in order, and
returns the new ones for the same range; nothing is edited in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shmr.errors import IntegrityError
from shmr.format.rows import Extent


class Replacement:
    """What an overwrite of [start, end) does to the extents it touches.

    `removed` are offsets whose rows go, `kept` the extents that are new or changed (rows to put),
    `freed` the data bytes that no longer live, so that `allocated` can be kept in step.
    """

    __slots__ = ("freed", "kept", "removed")

    def __init__(self, removed: list[int], kept: list[Extent], freed: int) -> None:
        self.removed = removed
        self.kept = kept
        self.freed = freed


def replace(touched: Iterable[Extent], start: int, end: int) -> Replacement:
    """Cut [start, end) out of `touched`, the extents that overlap it."""
    removed: list[int] = []
    kept: list[Extent] = []
    freed = 0
    for extent in touched:
        head = extent.clip(0, start)
        tail = extent.clip(end, extent.end)
        if extent.address is not None:
            freed += extent.length
        if head is None:
            removed.append(extent.offset)
        else:
            kept.append(head)
            if head.address is not None:
                freed -= head.length
        if tail is not None:
            kept.append(tail)
            if tail.address is not None:
                freed -= tail.length
    return Replacement(removed, kept, freed)


class Dug(NamedTuple):
    """What it takes to make a range a hole.

    `hole` is one with the holes that touch the range; no other extent may begin inside it. `edges`
    are what is left of data on both sides, `freed` the data bytes that no longer live.
    """

    hole: Extent
    edges: list[Extent]
    freed: int


def dig(extents: Iterable[Extent], start: int, end: int) -> Dug:
    """Make [start, end) a hole. `extents` are those that overlap or touch it."""
    low, high = start, end
    edges: list[Extent] = []
    freed = 0
    for extent in extents:
        if extent.address is None:
            low, high = min(low, extent.offset), max(high, extent.end)
            continue
        gone = extent.clip(start, end)
        if gone is not None:
            freed += gone.length
            sides = extent.clip(0, start), extent.clip(end, extent.end)
            edges += [side for side in sides if side is not None]
    return Dug(Extent(low, high - low, None), edges, freed)


def tiles(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    """The parts of `extents` inside [start, end), checked to tile it without a gap.

    Raises IntegrityError where an extent is missing: a missing row is an error, never zeros.
    """
    at = start
    for extent in extents:
        part = extent.clip(start, end)
        if part is None:
            continue
        if part.offset != at:
            break
        yield part
        at = part.offset + part.length
        if at == end:
            return
    if at < end:
        raise IntegrityError(f"no extent holds file offset {at}")
