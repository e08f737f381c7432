"""Fragments of archived segments are written anew: on other drives, or more of parity.

    WRITE           of one fragment, while those before it are synced          (`rewrite`)
    SYNC, VERIFY    sealed, read back and compared                             (`rewrite`)
    SWITCH          the segment is held, its row names the new fragment, a commit
    settle          a snapshot on m+1 drives, holds end, then what was replaced is discarded

Cut off before SWITCH is durable the new fragment is a stray; behind it the old one is, and goes
when a snapshot knows of the new (`Shift.recover` does both). The bytes of a segment never change:
what readers have kept of it stays true. A drive that cannot be written to, or does not give back
what was written, is avoided from then on; what was to be there stays where it is.

Left to others: which fragment, and where to (`shmr.archive.redistribute`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from shmr.archive.abreast import Task, together
from shmr.archive.control import Control, Phase, Told
from shmr.archive.keep import keep_snapshot, keeps_snapshot, newest_snapshot
from shmr.archive.pool import Pool
from shmr.archive.rewrite import (
    VERIFY_BYTES,
    Lost,
    Rewriting,
    check_units,
    rehoused,
    runs_of,
    size_of,
)
from shmr.archive.shift import Shift
from shmr.archive.workers import Workers
from shmr.errors import DriveError, IntegrityError
from shmr.format.archived import Archived
from shmr.volume.cleaner import Work
from shmr.volume.context import Need
from shmr.volume.holds import hold_rows

__all__ = ["Lost", "Rehousing", "Step", "rehoused"]

logger = logging.getLogger(__name__)

PROVING_MAX = 2
"""Fragments that are synced and verified at once: while one is read back the next is synced."""
SETTLE_EVERY = 64
"""Fragments that are switched before a snapshot lets go of those they replace."""


class Step(NamedTuple):
    """That `fragment` of `segment` is to be on `drive`; its file has `size_bytes`."""

    segment: int
    fragment: int
    drive: bytes
    size_bytes: int


class _Proving(NamedTuple):
    """A fragment that was written, on its way through SYNC, VERIFY and SWITCH."""

    segment: int
    task: Task[None]


def _nothing(number: int, archived: Archived) -> None:
    """Nobody wants to know."""


class Rehousing:
    """Writes fragments anew, on the volume of a shift that has recovered.

    `switched` is told of the new row of each segment that has one.
    """

    def __init__(
        self,
        shift: Shift,
        control: Control,
        *,
        workers: Workers | None = None,
        switched: Callable[[int, Archived], None] = _nothing,
    ) -> None:
        """`workers` that have a lane; without any, everything is done where jobs run."""
        self._shift = shift
        self._volume = shift.volume
        self._context = shift.volume.context
        self._control = control
        self._workers = workers or Workers(0, 1)
        self._switched = switched
        self._proving: deque[_Proving] = deque()
        """Oldest first."""
        self._replaced: list[tuple[bytes, int, int, int]] = []
        """Fragments that no row names any more: drive, segment, index, generation."""
        self.moved = 0
        self.lost: list[Lost] = []
        self.failed: dict[bytes, str] = {}
        """Drives that cannot be written to, by id, and how they failed."""
        self.undone: list[Step] = []
        """Steps that were not taken for this reason."""

    def run(self, steps: Iterable[Step]) -> Work[None]:
        """Take all steps, and settle: each is written while the one before is synced and verified.

        What is lost stays as it is, and is in `lost`. What was to be on a drive that failed stays
        where it is, and the drive is in `failed`.
        Raises Stopped, NoPlace, NoSpace, DriveError, IntegrityError; what was done before is
        settled if that can be.
        """
        try:
            for step in steps:
                self._control.check()
                yield from self._take(step)
                if len(self._replaced) >= SETTLE_EVERY:
                    yield from self._proved()
                    yield from self.settle()
            yield from self._proved()
        except Exception:
            if self._volume.read_only is None:
                yield from self._settle_if_possible()
            raise
        finally:
            for proving in self._proving:
                proving.task.abandon()
            self._proving.clear()
        yield from self.settle()

    def _settle_if_possible(self) -> Work[None]:
        """After an error: what was written is verified and switched if it can be."""
        try:
            yield from self._proved()
            yield from self.settle()
        except Exception as error:
            logger.warning("what was moved is kept in its old place too: %s", error)

    def _take(self, step: Step) -> Work[None]:
        """One step: written when this ends, and perhaps not yet verified."""
        if any(proving.segment == step.segment for proving in self._proving):
            # Its row is about to change.
            yield from self._proved()
        before = self._volume.catalog.archived(step.segment)
        if before is None:
            return
        others = [*before.fragments[: step.fragment], *before.fragments[step.fragment + 1 :]]
        if step.drive in self.failed or any(one.drive == step.drive for one in others):
            # Another step that failed was to take a sibling away from there.
            self.undone.append(step)
            return
        store, told = self._context.reader.store, Told(self._control)
        rewriting = self._rewriting(step, before, told)
        store.pin(step.segment)
        try:
            yield from self._beside(rewriting.write())
        except (Lost, DriveError) as error:
            store.unpin(step.segment)
            self._give_up(step, told, error)
            return
        except BaseException:
            store.unpin(step.segment)
            raise
        try:
            yield from self._proved(leaving=PROVING_MAX - 1)
        except Exception:
            store.unpin(step.segment)
            yield from rewriting.abandon()
            raise
        task = Task(self._prove(step, rewriting, told), self._workers.crew)
        self._proving.append(_Proving(step.segment, task))
        if not task.ended:
            yield task.submit

    def _give_up(self, step: Step, told: Told, error: Lost | DriveError | IntegrityError) -> None:
        """The fragment stays where it is."""
        told.take_back()
        if isinstance(error, Lost):
            logger.error("%s", error)
            self.lost.append(error)
            return
        self.undone.append(step)
        if step.drive not in self.failed:
            logger.error("nothing more is written to it in this run: %s", error)
            self.failed[step.drive] = str(error)

    def move(self, number: int, index: int, drive: bytes) -> Work[None]:
        """Fragment `index` of the segment on `drive`, verified and durable when this ends.

        What it stood in for is discarded by `settle`. Raises Lost, Stopped, DriveError,
        IntegrityError; then nothing has changed.
        """
        before = self._volume.catalog.archived(number)
        if before is None:
            return
        store = self._context.reader.store
        rewriting = self._rewriting(Step(number, index, drive, 0), before, Told(self._control))
        store.pin(number)
        try:
            yield from rewriting.write()
        except BaseException:
            store.unpin(number)
            raise
        yield from self._verify(rewriting)
        yield from self._switch_to(rewriting)
        if len(self._replaced) >= SETTLE_EVERY:
            yield from self.settle()

    def _rewriting(self, step: Step, before: Archived, told: Told) -> Rewriting:
        return Rewriting(
            self._context.gather,
            step.segment,
            before,
            step.fragment,
            step.drive,
            workers=self._workers,
            control=Control(told.advance, self._control.stop, self._control.pace),
        )

    def _beside(self, work: Work[None]) -> Work[None]:
        """Do this work while the fragments before are synced and verified."""
        task = Task(work, self._workers.crew)
        try:
            yield from together(task, *(proving.task for proving in self._proving))
        finally:
            if not task.ended:
                task.abandon()

    def _prove(self, step: Step, rewriting: Rewriting, told: Told) -> Work[None]:
        """SYNC, VERIFY and SWITCH; or nothing is left of it. Raises what SWITCH does."""
        try:
            yield from self._verify(rewriting)
        except (DriveError, IntegrityError) as error:
            self._give_up(step, told, error)
            return
        yield from self._switch_to(rewriting)

    def _verify(self, rewriting: Rewriting) -> Work[None]:
        """SYNC and VERIFY. The segment is pinned, and then is not."""
        try:
            yield from rewriting.prove()
        finally:
            self._context.reader.store.unpin(rewriting.number)

    def _switch_to(self, rewriting: Rewriting) -> Work[None]:
        if self._volume.catalog.archived(rewriting.number) != rewriting.before:
            # Emptied and retired meanwhile.
            yield from rewriting.abandon()
            return
        self._switch(rewriting.number, rewriting.before, rewriting.after)
        self.moved += 1

    def _proved(self, leaving: int = 0) -> Work[None]:
        """Until all before but so many are switched, or given up. Raises what SWITCH does."""
        while len(self._proving) > leaving:
            first, *others = (proving.task for proving in self._proving)
            try:
                yield from together(first, *others)
            finally:
                if first.ended:
                    self._proving.popleft()

    def drop(self, number: int, keep: int) -> Work[bool]:
        """The segment keeps only the first `keep` of its fragments; the others were parity.

        Only where all that stays was read and verified; else it is noted in `lost`, and False.
        Raises Stopped, NoPlace, NoSpace, DriveError.
        """
        before = self._volume.catalog.archived(number)
        if before is None or keep >= len(before.fragments):
            return False
        assert keep >= before.k, "data is never dropped"
        for index in range(keep):
            for run in runs_of(before, VERIFY_BYTES):
                self._control.check()
                size = size_of(before, run)
                try:
                    yield partial(self._check, number, before, index, run)
                except (DriveError, IntegrityError) as error:
                    logger.error("segment %d keeps all of its parity: %s", number, error)
                    self.lost.append(Lost(number, index, error))
                    return False
                # Nothing is written: to read it is all of it.
                self._control.advance(Phase.VERIFY, 2 * size)
        after = before._replace(m=keep - before.k, fragments=before.fragments[:keep])
        self._switch(number, before, after)
        if len(self._replaced) >= SETTLE_EVERY:
            yield from self.settle()
        return True

    def _check(self, number: int, archived: Archived, index: int, run: range) -> None:
        """In a job: some units are read, no faster than is allowed."""
        self._control.pace(size_of(archived, run))
        check_units(self._context.gather, number, archived, index, run)

    def settle(self) -> Work[None]:
        """A snapshot that knows of all this, then what was replaced goes.

        Raises NoPlace, NoSpace, DriveError; what was replaced is kept then.
        """
        yield from self._shift.settle()
        replaced, self._replaced = self._replaced, []

        def discard() -> None:
            for one in replaced:
                self._discard(*one)

        yield discard

    def evacuate(self, pool: Pool, drive: bytes) -> Work[None]:
        """Copies of snapshots leave a drive that is being drained. Raises NoPlace, NoSpace."""
        there = self._context.fragments.drives.get(drive)
        if there is None or not keeps_snapshot(there):
            return
        yield from self._volume.snapshots.make(segment_bytes_max=pool.zone_bytes)
        store = self._context.reader.store
        unknown = self._volume.archive.gaps()
        keep_snapshot(store, newest_snapshot(store), self._context.fragments, pool, unknown)

    def _switch(self, number: int, before: Archived, after: Archived) -> None:
        """SWITCH: durable when this returns."""
        self._context.allow(Need.DELETE)
        self._shift.touch(before.pool)
        self._context.apply([after.row(number), *hold_rows([number])])
        self._volume.commits.now()
        self._switched(number, after)
        for index, placed in enumerate(before.fragments):
            if index >= len(after.fragments) or after.fragments[index] != placed:
                self._replaced.append((placed.drive, number, index, placed.generation))

    def _discard(self, drive: bytes, number: int, index: int, generation: int) -> None:
        fragments = self._context.fragments
        try:
            there = fragments.discard(drive, number, index, generation)
        except DriveError as error:
            logger.warning("segment %d, fragment %d stays as a stray: %s", number, index, error)
            return
        if not there:
            logger.info("segment %d, fragment %d: its drive is missing", number, index)
