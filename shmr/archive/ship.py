"""Shipments become segments: each is written while the one before it is verified.

    segment n       WRITE, SYNC | VERIFY, SWITCH
    segment n + 1               | WRITE, SYNC    | VERIFY, SWITCH
    segment n + 2               |                | WRITE, SYNC    | ...

Both at once, so that no drive waits for the processor, and no reader for a drive. Each segment is
switched on its own, when all of it was read back; what is not is discarded.

A drive that fails is avoided from then on: the segment is written anew, under another number, on
others that can take it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from shmr.archive.abreast import Task, together
from shmr.archive.account import Account
from shmr.archive.control import Control, Stopped, Told
from shmr.archive.keep import snapshot_zones
from shmr.archive.pins import Pins
from shmr.archive.plan import Shipment
from shmr.archive.pool import NoPlace, Pool, PoolDriveError
from shmr.archive.verify import verify
from shmr.archive.workers import Workers
from shmr.archive.write import Unreadable, Writing
from shmr.codec import Codec
from shmr.errors import DriveError
from shmr.volume.archived import Moved
from shmr.volume.cleaner import Work
from shmr.volume.holds import held
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

SWITCH_STEP = 1024


class _Proving(NamedTuple):
    """A segment that was written, on its way through VERIFY and SWITCH."""

    shipment: Shipment
    told: Told
    task: Task[None]


class Shipping:
    """Brings shipments to a pool, on the volume's thread.

    Nobody else settles before `drain` or `give_up` has ended. `settle` is how it is done.
    """

    def __init__(
        self,
        volume: Volume,
        pool: Pool,
        account: Account,
        *,
        settle: Callable[[], Work[None]],
        control: Control,
        workers: Workers,
        cleaning: bool,
    ) -> None:
        self._volume = volume
        self._context = volume.context
        self._pool = pool
        self._account = account
        self._settle = settle
        self._control = control
        self._workers = workers
        self._cleaning = cleaning
        # A codec is used by one thread at a time, and two segments are under way.
        self._encoder = Codec(pool.k, pool.m, pool.code)
        self._prover = Codec(pool.k, pool.m, pool.code)
        self._proving: _Proving | None = None
        self._again: deque[Shipment] = deque()
        """Shipments that were not written for all that a drive or a file of theirs failed."""
        self._failure: DriveError | None = None
        """Why one of them has to be placed anew."""

    def ship(self, shipment: Shipment) -> Work[None]:
        """One segment: written when this ends, and perhaps not yet verified.

        Without files of which something cannot be read. Raises Stopped, NoPlace, NoSpace,
        DriveError, IntegrityError: also those of the segment before.
        """
        self._again.append(shipment)
        while self._again:
            shipment = self._readable(self._again.popleft())
            if shipment.stowed:
                yield from self._ship(shipment)

    def drain(self) -> Work[None]:
        """Until all that was written is verified and switched. Raises as `ship` does."""
        while self._proving is not None:
            yield from self._proved()
            if self._again:
                yield from self.ship(self._again.popleft())

    def give_up(self) -> Work[None]:
        """After an error: what was written is verified and switched if it can be; that is all."""
        try:
            yield from self._proved()
        except Exception as error:
            logger.info("what was written last is not kept: %s", error)

    def abandon(self) -> None:
        """Do nothing more, and leave everything as a kill would."""
        if self._proving is not None:
            self._proving.task.abandon()

    # -- one segment ------------------------------------------------------------------------

    def _ship(self, shipment: Shipment) -> Work[None]:
        """From PLAN to SYNC, then wait for the one before. What fails is in `_again`, or raised."""
        number = self._number()
        drives = yield from self._placed()
        told = Told(self._control)
        writing = Writing(
            self._context.reader,
            self._pool,
            shipment,
            number,
            drives,
            created_ns=self._context.clock(),
            codec=self._encoder,
            workers=self._workers,
            control=Control(told.advance, self._stops, self._control.pace),
        )
        pins = Pins(self._context.reader.store, (lot for _, lot in shipment.stowed))
        try:
            yield from self._beside(writing.run())
        except (Unreadable, DriveError) as error:
            pins.release()
            self._note(error)
            told.take_back()
            self._again.append(shipment)
            return
        except Stopped:
            pins.release()
            # Perhaps it is the one before that cannot go on; then that is what counts.
            yield from self._proved()
            raise
        except BaseException:
            pins.release()
            raise
        try:
            yield from self._proved()
        except Exception:
            pins.release()
            yield writing.discard
            raise
        task = Task(self._prove(shipment, writing, pins, told), self._workers.crew)
        self._proving = _Proving(shipment, told, task)
        if not task.ended:
            yield task.submit

    def _beside(self, work: Work[None]) -> Work[None]:
        """Do this work while the segment before is verified."""
        task = Task(work, self._workers.crew)
        try:
            others = () if self._proving is None else (self._proving.task,)
            yield from together(task, *others)
        finally:
            if not task.ended:
                task.abandon()

    def _prove(self, shipment: Shipment, writing: Writing, pins: Pins, told: Told) -> Work[None]:
        """VERIFY and SWITCH; or nothing is left of it."""
        control = Control(told.advance, self._control.stop, self._control.pace)
        try:
            try:
                yield from verify(
                    self._context.fragments,
                    writing,
                    codec=self._prover,
                    workers=self._workers,
                    control=control,
                )
                control.check()
            except Exception:
                yield writing.discard
                raise
            self._switch(shipment, writing)
        finally:
            pins.release()

    def _proved(self) -> Work[None]:
        """Until the segment before is switched, or is to be written again."""
        proving = self._proving
        if proving is None:
            return
        try:
            yield from together(proving.task)
        except DriveError as error:
            self._note(error)
            proving.told.take_back()
            self._again.append(proving.shipment)
        finally:
            if proving.task.ended:
                self._proving = None

    def _note(self, error: Unreadable | DriveError) -> None:
        """Do without what failed. Raises `error` if it cannot be done without."""
        if isinstance(error, Unreadable):
            self._account.unreadable(error)
        elif self._account.failed(self._pool, error):
            self._failure = error
        else:
            raise error

    def _stops(self) -> bool:
        """Is nothing more to be written? Also when the segment before cannot be kept."""
        proving = self._proving
        failure = None if proving is None else proving.task.error
        hopeless = failure is not None and not isinstance(failure, DriveError)
        return hopeless or self._control.stop()

    # -- PLAN -------------------------------------------------------------------------------

    def _readable(self, shipment: Shipment) -> Shipment:
        """Without lots of files that cannot be read, or whose segment is gone by now."""
        store, catalog = self._context.reader.store, self._volume.catalog
        there: dict[int, bool] = {}

        def is_there(segment: int) -> bool:
            if segment not in there:
                there[segment] = segment in store.segments or catalog.archived(segment) is not None
            return there[segment]

        stowed = tuple(
            one
            for one in shipment.stowed
            if one.lot.inode not in self._account.report.unreadable
            and is_there(one.lot.source.segment)
        )
        return Shipment(shipment.data_bytes, stowed, shipment.unit_bytes)

    def _number(self) -> int:
        number = self._context.reader.store.number()
        # A number means one content for ever: it is taken before anything bears it.
        self._volume.commits.now()
        return number

    def _placed(self) -> Work[tuple[bytes, ...]]:
        """Drives for the fragments of a new segment. Raises NoPlace, DriveError."""
        try:
            return self._place()
        except NoPlace:
            # What was moved before may give back zones.
            yield from self._proved()
            if held(self._volume.catalog):
                yield from self._settle()
        try:
            return self._place()
        except NoPlace:
            if self._failure is None:
                raise
            failure, fragments = self._failure, self._context.fragments
            raise PoolDriveError(self._pool, failure, fragments, self._account.avoided) from failure

    def _place(self) -> tuple[bytes, ...]:
        """What the next snapshot takes stays free. Cleaning, which gives zones back, needs it once;
        all else leaves room for one snapshot more, so that a full pool can still be cleaned.
        """
        spare = snapshot_zones(self._volume, self._pool)
        drives = self._pool.place(
            self._context.fragments,
            self._account.turn(self._pool),
            spare_zones=spare if self._cleaning else 2 * spare,
            cleaning=self._cleaning,
            avoided=self._account.avoided,
        )
        self._failure = None
        self._account.placed(self._pool)
        return drives

    # -- SWITCH -----------------------------------------------------------------------------

    def _switch(self, shipment: Shipment, writing: Writing) -> None:
        """SWITCH: durable when this returns."""
        volume, number, archived = self._volume, writing.number, writing.archived
        report = self._account.report
        self._account.hold((lot for _, lot in shipment.stowed), number)
        self._account.touched[archived.pool] = True
        stowed = sorted(shipment.stowed, key=lambda one: (one.lot.inode, one.lot.offset))
        for first in range(0, len(stowed), SWITCH_STEP):
            report.moved_bytes += volume.archive.switch(
                number,
                archived,
                [
                    Moved(
                        lot.inode, lot.offset, lot.length, lot.source, archived.address(number, at)
                    )
                    for at, lot in stowed[first : first + SWITCH_STEP]
                ],
            )
        volume.commits.now()
        report.segments += 1
