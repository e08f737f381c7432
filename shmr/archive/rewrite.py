"""One fragment on its way to another drive: written, sealed, and read back.

    WRITE    its units, read from it or decoded from its siblings, a run of stripes at a time; the
             next runs are read while one is appended
    SYNC     table, footer, seal
    VERIFY   header, units, table and footer read back from the drive and compared

Nothing here changes the catalog. What was written and is not wanted after all is discarded.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, wait
from functools import partial

from shmr.archive.control import Control, Phase
from shmr.archive.workers import Workers
from shmr.archive.write import FragmentFile
from shmr.codec import Codec
from shmr.core.stripe import UnitPlace
from shmr.drive.seam import DriveFile
from shmr.errors import DriveError, IntegrityError, ShmrError
from shmr.format.archived import Archived, Placed
from shmr.format.fragment import BLOCK, Code, decode_header, units_of
from shmr.log.gather import Gather
from shmr.units import MIB
from shmr.volume.cleaner import Work

logger = logging.getLogger(__name__)

RUN_BYTES = 16 * MIB
"""So much is read at a time, of all siblings together."""
RUNS_AHEAD = 1
"""So many runs are read, or wait in memory, beside the next one to be appended."""
VERIFY_BYTES = 8 * MIB
"""So much is read back at a time."""


class Lost(ShmrError):
    """A fragment can neither be read nor decoded from its siblings."""

    def __init__(self, segment: int, fragment: int, cause: Exception) -> None:
        super().__init__(f"segment {segment}, fragment {fragment} is lost: {cause}")
        self.segment = segment
        self.fragment = fragment


def rehoused(archived: Archived, index: int, drive: bytes) -> Archived:
    """The row of the segment when fragment `index` is written anew on `drive`.

    An index behind the last is one more of parity.
    """
    before = archived.fragments
    if index == len(before):
        return archived._replace(m=archived.m + 1, fragments=(*before, Placed(drive, 1)))
    placed = Placed(drive, before[index].generation + 1)
    return archived._replace(fragments=(*before[:index], placed, *before[index + 1 :]))


class Rewriting:
    """Fragment `index` of a segment, whose row is `before`, written anew on `drive`.

    `write`, then `prove`; whichever raises leaves nothing of it behind. Both are works of jobs that
    know nothing of the volume, so that one may be written while another is synced and verified.
    """

    def __init__(
        self,
        gather: Gather,
        number: int,
        before: Archived,
        index: int,
        drive: bytes,
        *,
        workers: Workers,
        control: Control,
    ) -> None:
        self.number = number
        self.index = index
        self.drive = drive
        self.before = before
        self.after = rehoused(before, index, drive)
        self._gather = gather
        self._workers = workers
        self._control = control
        self._source = Source(gather, number, before, index)
        self._header = self.after.header(gather.fragments.filesystem, number, index)
        self._file: DriveFile | None = None
        self._fragment: FragmentFile | None = None
        self._table = b""
        self._coming: deque[Future[list[bytes]]] = deque()
        self._appending: deque[Future[None]] = deque()

    def write(self) -> Work[None]:
        """WRITE. Raises Lost, Stopped; DriveError of the drive that is written to."""
        fragments = self._gather.fragments
        generation = self.after.fragments[self.index].generation
        # As many units are read as decoding one of them takes.
        runs = runs_of(self.after, RUN_BYTES // self.after.k)
        self._table = yield self._source.table
        self._file = yield partial(
            fragments.claim, self.drive, self.number, self.index, generation, self._header.length
        )
        kept = False
        try:
            self._fragment = yield partial(FragmentFile, self.drive, self._header, self._file)
            waiting = deque(runs)
            for run in runs:
                self._control.check()
                yield partial(self._transfer, waiting)
                self._control.advance(Phase.WRITE, size_of(self.before, run))
            kept = True
        except Exception:
            yield from self.abandon()
            raise
        finally:
            if not kept:
                self._close()

    def prove(self) -> Work[None]:
        """SYNC and VERIFY. Raises DriveError, IntegrityError, of the drive that was written to.

        Nobody stops it: what was written would have to be written again.
        """
        runs = runs_of(self.after, VERIFY_BYTES)
        try:
            yield self._finish
            self._close()
            yield self._check_ends
            for at, run in enumerate(runs):
                yield partial(self._check, run, runs[at + 1] if at + 1 < len(runs) else None)
                self._control.advance(Phase.VERIFY, size_of(self.before, run))
        except Exception:
            yield from self.abandon()
            raise
        finally:
            self._close()

    def abandon(self) -> Work[None]:
        """Nothing is left of it: it is not wanted any more."""
        self._close()
        yield self.discard

    def discard(self) -> None:
        """Remove what was written. What a drive refuses to discard stays as a stray."""
        generation = self.after.fragments[self.index].generation
        try:
            self._gather.fragments.discard(self.drive, self.number, self.index, generation)
        except DriveError as error:
            logger.warning(
                "segment %d, fragment %d stays as a stray: %s", self.number, self.index, error
            )

    # -- jobs -------------------------------------------------------------------------------

    def _transfer(self, waiting: deque[range]) -> None:
        """In a job: the next run goes to the end of the file, and those behind it are read."""
        while waiting and len(self._coming) <= RUNS_AHEAD:
            run = waiting.popleft()
            self._control.pace(size_of(self.before, run))
            self._coming.append(self._workers.readers.submit(partial(self._source.units, run)))
        units = self._coming.popleft().result()
        assert self._fragment is not None, "it was begun"
        self._appending.append(
            self._workers.lanes[0].submit(partial(self._fragment.append, *units))
        )
        while len(self._appending) > 1:
            self._appending.popleft().result()

    def _finish(self) -> None:
        """In a job: durable and complete."""
        while self._appending:
            self._appending.popleft().result()
        assert self._fragment is not None, "it was begun"
        self._fragment.finish(self._table)

    def _close(self) -> None:
        """Nobody reads or writes for it any more, and its file is closed."""
        wait(self._coming)
        wait(self._appending)
        self._coming.clear()
        self._appending.clear()
        if self._file is not None:
            self._file.close()

    def _check_ends(self) -> None:
        """What stands before and behind the units, and the sums, are those that were written."""
        written = self._fragment
        assert written is not None, "it was written"
        fragments = self._gather.fragments
        where = f"drive {fragments.label(self.drive)}: segment {self.number}, fragment {self.index}"
        file = fragments.drives[self.drive].open(written.file.name)
        try:
            header = decode_header(file.read(0, BLOCK))
        finally:
            file.close()
        footer = fragments.footer(self.number, self.after, self.index)
        if header != written.header or footer.header != header:
            raise IntegrityError(f"{where}: not the header that was written")
        if footer.sums != b"".join(written.sums):
            raise IntegrityError(f"{where}: not the footer that was written")
        if fragments.table(self.number, self.after, self.index) != self._table:
            raise IntegrityError(f"{where}: not the table that was written")

    def _check(self, run: range, ahead: range | None) -> None:
        """Units read back match their sums; while they are summed, those `ahead` are read."""
        fragments = self._gather.fragments
        if ahead is not None:
            at, size = ahead.start * self.after.unit_bytes, len(ahead) * self.after.unit_bytes
            fragments.prefetch(self.number, self.after, self.index, at, size)
        check_units(self._gather, self.number, self.after, self.index, run)


class Source:
    """Where the units of a fragment come from: itself, its siblings, or an encoder.

    For any thread, once it is made.
    """

    def __init__(self, gather: Gather, number: int, archived: Archived, index: int) -> None:
        """An index behind the last: one more of parity."""
        self._gather = gather
        self._number = number
        self._archived = archived
        self._index = index
        self._codec: Codec | None = None
        self._lock = threading.Lock()
        """A codec is used by one thread at a time."""
        if index >= len(archived.fragments):
            self._codec = Codec(archived.k, index + 1 - archived.k, Code(archived.code))

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
        with self._lock:
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


def size_of(archived: Archived, run: range) -> int:
    """Bytes that these units of a fragment have of files."""
    end = min(run.stop * archived.unit_bytes, archived.data_bytes)
    return max(0, end - run.start * archived.unit_bytes)


def check_units(gather: Gather, number: int, archived: Archived, index: int, run: range) -> None:
    """Units of a fragment, read from its drive, match their sums.

    Raises DriveError, IntegrityError.
    """
    for outcome in gather.fragments.read(number, archived, index, run).values():
        if not isinstance(outcome, bytes):
            raise outcome


def runs_of(archived: Archived, size_bytes: int) -> list[range]:
    """The units of a fragment, so many bytes of them at a time."""
    step = max(1, size_bytes // archived.unit_bytes)
    units = units_of(archived.data_bytes, archived.unit_bytes)
    return [range(at, min(at + step, units)) for at in range(0, units, step)]
