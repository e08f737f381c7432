"""What a scrub found damaged and something knows better of, put right; and seen to be.

    a fragment            written anew from its siblings, with a higher generation
    a data segment        what lives in it is appended anew from a copy that is whole; then it goes
    journal, snapshot     a new snapshot stands for all before it
    copies of a snapshot  the newest one is kept on the pool's drives anew

For a filesystem that nobody else works with. What cannot be mended after all stays as it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from shmr.archive.control import Control, Stopped
from shmr.archive.keep import keep_snapshot, newest_snapshot, snapshot_zones
from shmr.archive.pool import Pool
from shmr.archive.rehouse import Rehousing, Step, rehoused
from shmr.archive.shift import Shift
from shmr.core.placement import Shortage, place
from shmr.core.stripe import fragment_size
from shmr.errors import DriveError, IntegrityError, ShmrError
from shmr.format.archived import Archived
from shmr.format.records import Stream
from shmr.format.rows import Extent
from shmr.fsck.scrubbing import fragment, frames
from shmr.fsck.scrubbing.inventory import FragmentItem, SegmentItem
from shmr.fsck.scrubbing.judging import Judged
from shmr.fsck.scrubbing.reading import Reader
from shmr.volume.cleaner import run_inline
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

R = TypeVar("R")

CHECKPOINT_EVERY = 1024
"""Extents that are appended anew before a commit."""


class Mending:
    """One run on an open volume. `pools` are all archive pools; `notes` says what went wrong."""

    def __init__(self, volume: Volume, pools: Sequence[Pool], control: Control) -> None:
        self._volume = volume
        self._pools = {pool.id: pool for pool in pools}
        self._control = control
        self._shift = Shift(volume, pools, control=control)
        self.notes: list[str] = []
        self.stopped = False

    def run(self, judged: Sequence[Judged]) -> list[Judged]:
        """Those of the findings that are put right."""
        wanted = [one for one in judged if one.finding is not None and not one.finding.is_loss]
        for step in (self._segments, self._fragments, self._snapshots, self._kept):
            if self.stopped:
                break
            try:
                step(wanted)
            except Stopped:
                self.stopped = True
            except (ShmrError, OSError) as error:
                logger.error("%s", error)
                self.notes.append(f"not everything could be repaired: {error}")
        return [one for one in wanted if self._is_mended(one)]

    # -- workspace --------------------------------------------------------------------------

    def _segments(self, wanted: Iterable[Judged]) -> None:
        numbers = {
            item.number
            for item in _segment_items(wanted)
            if item.expected.stream == Stream.DATA and not item.kept
        }
        if not numbers:
            return
        reading = self._volume.catalog.reading()
        places = [
            (inode, extent)
            for inode, extent in reading.all_extents()
            if extent.address is not None and extent.address.segment in numbers
        ]
        for count, (inode, extent) in enumerate(places, 1):
            self._control.check()
            self._move(inode, extent)
            if not count % CHECKPOINT_EVERY:
                self._volume.commits.now()
        self._volume.checkpoints.run()

    def _move(self, inode: int, extent: Extent) -> None:
        """Append an extent anew, if its bytes can be read. Raises NoSpace, DriveError."""
        volume, context = self._volume, self._volume.context
        if extent not in volume.catalog.extents(inode, extent.offset, extent.end):
            return
        plan = context.reader.plan(inode, [extent])
        try:
            content = plan.fetch()
        except (IntegrityError, DriveError):
            return  # lost, and told of
        finally:
            plan.release()
        reserve = context.reserves.clean_bytes
        pieces = context.append_data(
            inode, extent.offset, memoryview(content), reserve_bytes=reserve, moving=True
        )
        context.apply([piece.row(inode) for piece in pieces])

    def _snapshots(self, wanted: Iterable[Judged]) -> None:
        segments = self._volume.context.reader.store.segments
        items = [item for item in _segment_items(wanted) if not item.kept]
        streams = (Stream.JOURNAL, Stream.SNAPSHOT)
        if any(i.expected.stream in streams and i.number in segments for i in items):
            run_inline(self._volume.snapshots.make())

    # -- archive ----------------------------------------------------------------------------

    def _fragments(self, wanted: Iterable[Judged]) -> None:
        found: dict[tuple[int, int], None] = {}
        for one in wanted:
            if isinstance(one.damaged.item, FragmentItem):
                found[one.damaged.item.number, one.damaged.item.name.fragment] = None
        if not found:
            return
        run_inline(self._shift.recover())
        rehousing = Rehousing(self._shift, self._control)
        steps = list(self._steps(found))
        self._control.plan(sum(step.size_bytes for step in steps))
        try:
            run_inline(rehousing.run(steps))
        finally:
            self.notes += map(str, rehousing.lost)

    def _steps(self, found: Iterable[tuple[int, int]]) -> Iterator[Step]:
        """Where each is written: on another drive if one has place, else on its own."""
        planned: dict[int, Archived] = {}
        taken: Counter[bytes] = Counter()
        for number, index in found:
            archived = planned.get(number) or self._volume.catalog.archived(number)
            pool = None if archived is None else self._pools.get(archived.pool)
            if archived is None or pool is None:
                continue
            drive = self._place(pool, number, archived, index, taken)
            if drive is None:
                self.notes.append(
                    f"pool {pool.name!r}: no drive has place for fragment {index} of segment "
                    f"{number}, written anew; add one (`shmr drive add`), or delete files"
                )
                continue
            planned[number] = rehoused(archived, index, drive)
            taken[drive] += 1
            size = fragment_size(archived.data_bytes, archived.extents, archived.unit_bytes)
            yield Step(number, index, drive, size)

    def _place(
        self, pool: Pool, number: int, archived: Archived, index: int, taken: Mapping[bytes, int]
    ) -> bytes | None:
        """A drive for it; some zones of each are `taken` by now."""
        fragments = self._volume.context.fragments
        known, _ = pool.facts(fragments, 2 * snapshot_zones(self._volume, pool))
        facts = [
            replace(fact, free_zones=max(0, fact.free_zones - taken.get(fact.drive, 0)))
            for fact in known
        ]
        own = archived.fragments[index].drive
        others = {placed.drive for placed in archived.fragments} - {own}
        for avoided in ({own}, set[bytes]()):
            found = place(
                [fact for fact in facts if fact.drive not in avoided],
                1,
                number,
                same_device=pool.same_device,
                cleaning=bool(not avoided),
                taken=others,
            )
            if not isinstance(found, Shortage):
                return found[0]
        return None

    def _kept(self, wanted: Iterable[Judged]) -> None:
        store, fragments = self._volume.context.reader.store, self._volume.context.fragments
        names = {
            one.damaged.holding.id
            for one in wanted
            if isinstance(one.damaged.item, SegmentItem)
            and one.damaged.item.kept
            and not self._is_mended(one)
        }
        for pool in self._pools.values():
            if names.isdisjoint(pool.drives):
                continue
            run_inline(self._volume.snapshots.make(segment_bytes_max=pool.zone_bytes))
            keep_snapshot(store, newest_snapshot(store), fragments, pool)

    # -- is it? -----------------------------------------------------------------------------

    def _is_mended(self, one: Judged) -> bool:
        """Was what is damaged replaced by something that verifies, or does nothing need it?"""
        try:
            item = one.damaged.item
            if isinstance(item, FragmentItem):
                return self._is_whole(item)
            if item.kept:
                return self._is_kept(one, item)
            return item.number not in self._volume.context.reader.store.segments
        except (DriveError, IntegrityError) as error:
            self.notes.append(str(error))
            return False

    def _is_whole(self, item: FragmentItem) -> bool:
        """Raises DriveError."""
        archived, index = self._volume.catalog.archived(item.number), item.name.fragment
        if archived is None:
            return True
        now = archived.fragments[index]
        if now == item.archived.fragments[index]:
            return False
        fragments = self._volume.context.fragments
        name = item.name._replace(generation=now.generation).file
        drive = fragments.drives.get(now.drive)
        if drive is None:
            return False
        file = drive.open(name)
        try:
            return not fragment.examine(
                Reader(file, _Nobody()),
                drive.size(name),
                fragments.filesystem,
                item.number,
                archived,
                index,
            )
        finally:
            file.close()

    def _is_kept(self, one: Judged, item: SegmentItem) -> bool:
        """Raises DriveError."""
        drive = self._volume.context.fragments.drives.get(one.damaged.holding.id)
        if drive is None or item.file not in drive.names():
            return drive is not None
        size = drive.size(item.file)
        expected = replace(item.expected, size_bytes=size, reach=size)
        file = drive.open(item.file)
        try:
            return not frames.examine(Reader(file, _Nobody()), expected).damages
        finally:
            file.close()


class _Nobody:
    """Lets everything through: what was just written is read back at once."""

    def before(self, length: int) -> None:
        """Nothing is in the way."""

    def during(self, call: Callable[[], R]) -> R:
        return call()

    def refused(self, error: DriveError) -> None:
        raise error


def _segment_items(wanted: Iterable[Judged]) -> Iterator[SegmentItem]:
    for one in wanted:
        if isinstance(one.damaged.item, SegmentItem):
            yield one.damaged.item
