"""Archived segments of a volume: extents are switched to them, and those without any are retired.

Nothing is copied here. Whoever copied bytes (a shift) says from where to where; only extents that
still point at what was copied are translated, so a write that came in between wins.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice
from typing import NamedTuple

from shmr.errors import DriveError, IntegrityError
from shmr.format.archived import Archived, archived_removed
from shmr.format.rows import Address, Extent, extent_removed
from shmr.log.fragments import FragmentName
from shmr.volume.cleaner import Work, run_inline
from shmr.volume.commits import Commits
from shmr.volume.context import ROWS_MAX, Context, Need
from shmr.volume.gaps import Gaps, gaps_of
from shmr.volume.holds import is_held

logger = logging.getLogger(__name__)

EXTENTS_STEP = ROWS_MAX // 4
"""Extents of one operation: each becomes at most three, and one row may go."""


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

    @property
    def end(self) -> int:
        return self.offset + self.length


class Archive:
    """Makes archived segments true, and removes them when nothing lives in them."""

    def __init__(self, context: Context, commits: Commits) -> None:
        self._context = context
        self._commits = commits

    def switch(self, number: int, archived: Archived, moved: Iterable[Moved]) -> int:
        """Segment `number` is archived, and holds what was `moved` there; returns bytes switched.

        The row of the segment is in the same batch as the first of its extents, or in one before.
        Each range is an operation of its own, or several where it has many extents; a crash between
        two leaves the rest where it was, and to switch them again does nothing. Not durable before
        a commit. In the order of inode and offset extents that continue each other become one.

        That the number is taken has to be durable before any fragment bears it: a number means one
        content for ever. Raises Refused(EROFS), IntegrityError.
        """
        self._context.allow(Need.DELETE)
        store = self._context.reader.store
        if number in store.segments or number >= store.next_number:
            raise IntegrityError(f"segment {number}: this number is not one of an archived segment")
        if self._context.catalog.archived(number) != archived:
            self._context.apply([archived.row(number)], whole=False)
        return self.move(moved)

    def move(self, moved: Iterable[Moved]) -> int:
        """Translate as `switch` does, to targets that are known already (or of the workspace)."""
        return sum(map(self._translate, moved))

    def _translate(self, moved: Moved) -> int:
        """Point at the target what still points at the source; returns how many bytes."""
        context = self._context
        context.allow(Need.DELETE)
        inode = context.catalog.inode(moved.inode)
        if inode is None:
            return 0
        # What lies behind the end is dead, and the reaper's.
        at, end, translated = moved.offset, min(moved.end, inode.size), 0
        while at < end:
            some = list(islice(context.catalog.extents(moved.inode, at, end), EXTENTS_STEP + 1))
            stop = some.pop().offset if len(some) > EXTENTS_STEP else end
            changes = _translation(moved, some, at, stop, self._before(moved.inode, at))
            rows = [
                extent_removed(moved.inode, offset) if extent is None else extent.row(moved.inode)
                for offset, extent in changes.extents.items()
            ]
            context.apply(rows)
            translated += changes.translated
            at = stop
        return translated

    def _before(self, inode: int, offset: int) -> Extent | None:
        """The extent that ends at `offset`, if there is one."""
        extent = self._context.catalog.extent_at(inode, offset - 1) if offset else None
        return extent if extent is not None and extent.end == offset else None

    def retire(self) -> int:
        """`retiring`, on this thread."""
        return run_inline(self.retiring())

    def retiring(self) -> Work[int]:
        """Remove archived segments in which nothing lives; how many.

        Their rows go, a commit makes it durable, then their fragments are discarded. Those that
        a reader has pinned, or a shift holds, stay for the next time. What a drive refuses to
        discard, or is on a missing one, is a stray. Raises Refused(EROFS), DriveError, NoSpace.
        """
        context = self._context
        context.allow(Need.DELETE)
        catalog, store = context.catalog, context.reader.store
        dead = [
            (number, archived)
            for number, archived in catalog.archived_segments()
            if catalog.live.get(number, 0) <= 0
            and not store.is_pinned(number)
            and not is_held(catalog, number)
        ]
        for start in range(0, len(dead), ROWS_MAX):
            some = dead[start : start + ROWS_MAX]
            context.apply([archived_removed(number) for number, _ in some])
        if not dead:
            return 0
        # A fragment goes only when no crash can bring back the row that names it.
        self._commits.now()
        for number, _ in dead:
            catalog.live.pop(number, None)
        yield partial(self._discard, dead)
        return len(dead)

    def _discard(self, segments: Iterable[tuple[int, Archived]]) -> None:
        """Blocking, any thread."""
        for number, archived in segments:
            for index, (drive, generation) in enumerate(archived.fragments):
                self._discard_fragment(drive, FragmentName(number, index, generation))

    def _discard_fragment(self, drive: bytes, name: FragmentName) -> None:
        fragments = self._context.fragments
        try:
            there = fragments.discard(drive, *name)
        except DriveError as error:
            logger.error(
                "segment %d, fragment %d stays as a stray: %s", name.segment, name.fragment, error
            )
            return
        if not there:
            logger.warning(
                "segment %d, fragment %d stays as a stray on drive %s, which is missing",
                name.segment,
                name.fragment,
                fragments.label(drive),
            )

    def strays(self) -> list[tuple[bytes, FragmentName]]:
        """`strays_in` what is on the drives now: reads the directories of all archive drives."""
        return self.strays_in(self._context.fragments.scan())

    def strays_in(
        self, found: Mapping[bytes, Iterable[FragmentName]]
    ) -> list[tuple[bytes, FragmentName]]:
        """Fragments of those `found` on drives (by id) that no row names: also those being written.

        Those `unknown_in` there are none. Nothing may have been written or retired since they were
        found.
        """
        gaps = self.gaps()
        return [one for one in self._unnamed(found) if one[1].segment not in gaps]

    def unknown_in(
        self, found: Mapping[bytes, Iterable[FragmentName]]
    ) -> list[tuple[bytes, FragmentName]]:
        """Fragments of those `found` that no row names, and that nothing but a log that is lost may
        have known: they are left alone."""
        gaps = self.gaps()
        return [one for one in self._unnamed(found) if one[1].segment in gaps]

    def gaps(self) -> Gaps:
        """The numbers of what is left alone. Raises IntegrityError."""
        return gaps_of(self._context.catalog)

    def _unnamed(
        self, found: Mapping[bytes, Iterable[FragmentName]]
    ) -> list[tuple[bytes, FragmentName]]:
        named = {
            (placed.drive, FragmentName(number, index, placed.generation))
            for number, archived in self._context.catalog.archived_segments()
            for index, placed in enumerate(archived.fragments)
        }
        every = ((drive, name) for drive, names in found.items() for name in names)
        return sorted(one for one in every if one not in named)


class _Translation(NamedTuple):
    """Extents that change, by the offset of their row (None: it goes), and the bytes that moved."""

    extents: dict[int, Extent | None]
    translated: int


def _translation(
    moved: Moved, extents: Iterable[Extent], start: int, end: int, before: Extent | None
) -> _Translation:
    """What becomes of the `extents` that overlap [start, end), and of the one `before` them."""
    changed: dict[int, Extent | None] = {}
    translated = 0
    for extent in extents:
        part = extent.clip(start, end)
        if part is None or not _is_copied(extent, moved):
            before = None
            continue
        skip = moved.target.skip + part.offset - moved.offset
        new = Extent(part.offset, part.length, moved.target._replace(skip=skip))
        for side in (extent.clip(0, start), extent.clip(end, extent.end)):
            if side is not None:
                changed[side.offset] = side
        if before is not None and _continues(before, new):
            changed[new.offset] = None
            new = Extent(before.offset, before.length + new.length, before.address)
        changed[new.offset] = before = new
        translated += part.length
    return _Translation(changed, translated)


def _is_copied(extent: Extent, moved: Moved) -> bool:
    """Does the extent point at the very bytes that were copied?"""
    at, source = extent.address, moved.source
    return (
        at is not None
        and at[:3] == source[:3]
        and at.skip - extent.offset == source.skip - moved.offset
    )


def _continues(one: Extent, other: Extent) -> bool:
    """Does `other` go on where `one` ends, in the file and where the bytes are?"""
    if one.address is None or other.address is None or one.end != other.offset:
        return False
    return one.address._replace(skip=one.address.skip + one.length) == other.address
