"""Archived segments of a volume: extents are switched to them, and those without any are retired.

Nothing is copied here. Whoever copied bytes (a shift) says from where to where; only extents that
still point at what was copied are translated, so a write that came in between wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from shmr.format.archived import Archived
from shmr.format.rows import Address
from shmr.log.fragments import FragmentName
from shmr.volume.context import Context


class Moved(NamedTuple):
    """Bytes [offset, offset + length) of a file were copied from `source` to `target`.

    Both are addresses of the first byte. Of an archived segment: `Archived.address(number, at)`.
    The range lies within one frame of the source, or within one archived segment.
    """

    inode: int
    offset: int
    length: int
    source: Address
    target: Address


class Archive:
    """Makes archived segments true, and removes them when nothing lives in them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def switch(self, number: int, archived: Archived, moved: Iterable[Moved]) -> int:
        """Segment `number` is archived, and holds what was `moved` there; returns bytes switched.

        The row of the segment is in the same batch as the first of its extents, or before it.
        In slices of 4,096 rows; a crash between two leaves the rest where it was. Not durable
        before a commit. `moved` in the order of inode and offset: extents that continue each
        other become one. Raises Refused(EROFS), IntegrityError.
        """
        raise NotImplementedError

    def move(self, moved: Iterable[Moved]) -> int:
        """Translate as `switch` does, to targets that are no archived segment (the workspace)."""
        raise NotImplementedError

    def retire(self) -> int:
        """Remove archived segments in which nothing lives; how many.

        Their rows go, a commit makes it durable, then their fragments are discarded. Those that
        a reader has pinned stay for the next time. What a drive refuses to discard, or is on a
        missing one, is a stray. Raises Refused(EROFS), DriveError, NoSpace.
        """
        raise NotImplementedError

    def strays(self) -> list[tuple[bytes, FragmentName]]:
        """Fragments on drives (by id) that are there, which no row names: also those being written.

        Reads the directories of all archive drives.
        """
        raise NotImplementedError
