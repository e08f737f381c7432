"""One fragment of an archived segment is written anew: on another drive, or one more of parity.

    WRITE    its units, read from it or decoded from its siblings, a step of stripes at a time
    SYNC     table, footer, seal
    VERIFY   header, units, table and footer read back from the drive and compared
    SWITCH   the segment is held, its row names the new fragment, a commit
    settle   a snapshot on m+1 drives, holds end, then what was replaced is discarded

Cut off before SWITCH is durable the new fragment is a stray; behind it the old one is, and goes
when a snapshot knows of the new (`Shift.recover` does both). The bytes of a segment never change:
what readers have kept of it stays true.

Left to others: which fragment, and where to (`shmr.archive.redistribute`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from shmr.archive.control import Control, Phase
from shmr.archive.keep import keep_snapshot, keeps_snapshot, newest_snapshot
from shmr.archive.pool import Pool
from shmr.archive.shift import Shift
from shmr.archive.write import STEP_BYTES, FragmentFile
from shmr.codec import Codec
from shmr.core.stripe import UnitPlace
from shmr.errors import DriveError, IntegrityError, ShmrError
from shmr.format.archived import Archived, Placed
from shmr.format.fragment import BLOCK, Code, decode_header, units_of
from shmr.log.gather import Gather
from shmr.volume.cleaner import Work
from shmr.volume.context import Need
from shmr.volume.holds import hold_rows

logger = logging.getLogger(__name__)

SETTLE_EVERY = 64
"""Fragments that are switched before a snapshot lets go of those they replace."""


def rehoused(archived: Archived, index: int, drive: bytes) -> Archived:
    """The row of the segment when fragment `index` is written anew on `drive`.

    An index behind the last is one more of parity.
    """
    before = archived.fragments
    if index == len(before):
        return archived._replace(m=archived.m + 1, fragments=(*before, Placed(drive, 1)))
    placed = Placed(drive, before[index].generation + 1)
    return archived._replace(fragments=(*before[:index], placed, *before[index + 1 :]))


class Step(NamedTuple):
    """That `fragment` of `segment` is to be on `drive`; its file has `size_bytes`."""

    segment: int
    fragment: int
    drive: bytes
    size_bytes: int


class Lost(ShmrError):
    """A fragment can neither be read nor decoded from its siblings."""

    def __init__(self, segment: int, fragment: int, cause: Exception) -> None:
        super().__init__(f"segment {segment}, fragment {fragment} is lost: {cause}")
        self.segment = segment
        self.fragment = fragment


class Rehousing:
    """Writes fragments anew, one after the other, on the volume of a shift that has recovered."""

    def __init__(self, shift: Shift, control: Control) -> None:
        self._shift = shift
        self._volume = shift.volume
        self._context = shift.volume.context
        self._control = control
        self._replaced: list[tuple[bytes, int, int, int]] = []
        """Fragments that no row names any more: drive, segment, index, generation."""
        self.moved = 0
        self.lost: list[Lost] = []

    def run(self, steps: Iterable[Step]) -> Work[None]:
        """Take all steps, and settle. What is lost stays as it is, and is in `lost`.

        Raises Stopped, NoPlace, NoSpace, DriveError, IntegrityError; what was done before is
        settled if that can be.
        """
        try:
            for step in steps:
                self._control.check()
                try:
                    yield from self.move(step.segment, step.fragment, step.drive)
                except Lost as error:
                    logger.error("%s", error)
                    self.lost.append(error)
                    continue
                self.moved += 1
        except Exception:
            if self._volume.read_only is None:
                try:
                    yield from self.settle()
                except Exception as error:
                    logger.warning("what was moved is kept in its old place too: %s", error)
            raise
        yield from self.settle()

    def move(self, number: int, index: int, drive: bytes) -> Work[None]:
        """Fragment `index` of the segment on `drive`, verified and durable when this ends.

        What it stood in for is discarded by `settle`. Raises Lost, Stopped, DriveError,
        IntegrityError; then nothing has changed.
        """
        before = self._volume.catalog.archived(number)
        if before is None:
            return
        after = rehoused(before, index, drive)
        store = self._context.reader.store
        store.pin(number)
        try:
            yield from self._write(number, before, after, index)
        finally:
            store.unpin(number)
        if self._volume.catalog.archived(number) != before:
            # Emptied and retired meanwhile.
            yield partial(self._discard, drive, number, index, after.fragments[index].generation)
            return
        self._switch(number, before, after)
        if len(self._replaced) >= SETTLE_EVERY:
            yield from self.settle()

    def drop(self, number: int, keep: int) -> Work[bool]:
        """The segment keeps only the first `keep` of its fragments; the others were parity.

        Only where all that stays was read and verified; else it is noted in `lost`, and False.
        Raises Stopped, NoPlace, NoSpace, DriveError.
        """
        before = self._volume.catalog.archived(number)
        if before is None or keep >= len(before.fragments):
            return False
        assert keep >= before.k, "data is never dropped"
        step = max(1, STEP_BYTES // before.unit_bytes)
        units = units_of(before.data_bytes, before.unit_bytes)
        for index in range(keep):
            for at in range(0, units, step):
                self._control.check()
                run = range(at, min(at + step, units))
                size = _size(before, run)
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
        self._control.pace(_size(archived, run))
        _check_units(self._context.gather, number, archived, index, run)

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
        keep_snapshot(store, newest_snapshot(store), self._context.fragments, pool)

    def _switch(self, number: int, before: Archived, after: Archived) -> None:
        """SWITCH: durable when this returns."""
        self._context.allow(Need.DELETE)
        self._shift.touch(before.pool)
        self._context.apply([after.row(number), *hold_rows([number])])
        self._volume.commits.now()
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

    # -- writing ----------------------------------------------------------------------------

    def _write(self, number: int, before: Archived, after: Archived, index: int) -> Work[None]:
        """WRITE, SYNC, VERIFY; or nothing is left of it."""
        gather = self._context.gather
        fragments = gather.fragments
        drive, generation = after.fragments[index]
        header = after.header(fragments.filesystem, number, index)
        source = _Source(gather, number, before, after, index)
        # As many units are read as decoding one of them takes.
        step = max(1, STEP_BYTES // (after.k * after.unit_bytes))
        runs = [range(at, min(at + step, header.units)) for at in range(0, header.units, step)]
        table = yield source.table
        file = yield partial(fragments.claim, drive, number, index, generation, header.length)
        try:
            fragment = yield partial(FragmentFile, drive, header, file)
            for run in runs:
                self._control.check()
                yield partial(self._copy, source, fragment, run)
                self._control.advance(Phase.WRITE, source.size(run))
            yield partial(fragment.finish, table)
            yield partial(_check_ends, gather, number, after, fragment, table)
            for run in runs:
                self._control.check()
                yield partial(_check_units, gather, number, after, index, run)
                self._control.advance(Phase.VERIFY, source.size(run))
        except Exception:
            file.close()
            yield partial(self._discard, drive, number, index, generation)
            raise
        finally:
            file.close()

    def _copy(self, source: _Source, fragment: FragmentFile, run: range) -> None:
        """In a job: some units to the end of the file."""
        self._control.pace(source.size(run))
        for unit in source.units(run):
            fragment.append(unit)


class _Source:
    """Where the units of a fragment come from: itself, its siblings, or an encoder."""

    def __init__(
        self, gather: Gather, number: int, before: Archived, after: Archived, index: int
    ) -> None:
        self._gather = gather
        self._number = number
        self._archived = before
        self._index = index
        self._codec: Codec | None = None
        if index >= len(before.fragments):
            self._codec = Codec(after.k, after.m, Code(after.code))

    def size(self, run: range) -> int:
        """Bytes of these units."""
        return _size(self._archived, run)

    def units(self, run: range) -> list[bytes]:
        """Verified. Raises Lost."""
        try:
            return self._units(run)
        except (IntegrityError, DriveError) as error:
            raise Lost(self._number, self._index, error) from error

    def _units(self, run: range) -> list[bytes]:
        archived, index = self._archived, self._index
        if self._codec is None:
            places = [UnitPlace(index, unit) for unit in run]
            found = self._gather.units(self._number, archived, places)
            return [found[place] for place in places]
        data = [UnitPlace(fragment, unit) for unit in run for fragment in range(archived.k)]
        found = self._gather.units(self._number, archived, data)
        parity = index - archived.k
        return [
            self._codec.encode(
                [found[UnitPlace(fragment, unit)] for fragment in range(archived.k)]
            )[parity]
            for unit in run
        ]

    def table(self) -> bytes:
        """The table of extents, from the first sibling that has it. Raises Lost."""
        failure: DriveError | IntegrityError | None = None
        for index in self._order():
            try:
                return self._gather.fragments.table(self._number, self._archived, index)
            except (DriveError, IntegrityError) as error:
                failure = error
        assert failure is not None, "a segment has fragments"
        raise Lost(self._number, self._index, failure)

    def _order(self) -> Sequence[int]:
        every = range(len(self._archived.fragments))
        own = [self._index] if self._index in every else []
        return [*own, *(index for index in every if index != self._index)]


def _size(archived: Archived, run: range) -> int:
    """Bytes that these units of a fragment have of files."""
    end = min(run.stop * archived.unit_bytes, archived.data_bytes)
    return max(0, end - run.start * archived.unit_bytes)


def _check_ends(
    gather: Gather, number: int, after: Archived, fragment: FragmentFile, table: bytes
) -> None:
    """What stands before and behind the units, and the sums, are those that were written."""
    fragments, index = gather.fragments, fragment.header.fragment
    where = f"drive {fragments.label(fragment.drive)}: segment {number}, fragment {index}"
    file = fragments.drives[fragment.drive].open(fragment.file.name)
    try:
        header = decode_header(file.read(0, BLOCK))
    finally:
        file.close()
    footer = fragments.footer(number, after, index)
    if header != fragment.header or footer.header != header:
        raise IntegrityError(f"{where}: not the header that was written")
    if footer.sums != b"".join(fragment.sums):
        raise IntegrityError(f"{where}: not the footer that was written")
    if fragments.table(number, after, index) != table:
        raise IntegrityError(f"{where}: not the table that was written")


def _check_units(gather: Gather, number: int, after: Archived, index: int, run: range) -> None:
    """Units read back from the drive match their sums."""
    for outcome in gather.fragments.read(number, after, index, run).values():
        if not isinstance(outcome, bytes):
            raise outcome
