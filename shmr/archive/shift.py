"""The machine that moves bytes between pools. Each step is durable before the next begins.

    PLAN      what a run that was cut off left is discarded; drives are chosen, a number is taken
    WRITE     the fragments, stripe by stripe                                 (`write`)
    SYNC      sealed: no byte of them changes any more
    VERIFY    read back from the drives and compared                          (`verify`)
    SWITCH    the sources are held, the extents that still point there are switched, a commit
    SNAPSHOT  of the volume, copied to m+1 drives of each pool that was touched   (`keep`)
    RETIRE    holds end: sources in which nothing lives are freed

Cut off before SWITCH is durable, nothing points at the fragments: they are strays, discarded by the
next run. Cut off behind it, everything is where it belongs and the sources are still there: the
next run, or any `settle`, goes on with SNAPSHOT. A write or deletion that comes while bytes are
moved wins, for the extents it changed are not switched.

Sources may be workspace or archive, targets too. Cleaning is a shift within a pool.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from shmr.archive.control import Control, Phase
from shmr.archive.keep import keep_snapshot, snapshot_zones, tidy
from shmr.archive.plan import Hold, Lot, Shipment, shipments
from shmr.archive.pool import NoPlace, Pool, PoolDriveError
from shmr.archive.recall import recall
from shmr.archive.sources import lots_of
from shmr.archive.verify import verify
from shmr.archive.victims import ALL_BYTES, dead_bytes, inodes_in, room_bytes, victims
from shmr.archive.workers import Workers
from shmr.archive.write import Unreadable, Writing
from shmr.codec import Codec
from shmr.errors import DriveError
from shmr.log.fragments import FragmentName
from shmr.log.store import SegmentStore
from shmr.volume.archived import Moved
from shmr.volume.cleaner import Work
from shmr.volume.holds import held, hold_rows, is_held, release_rows
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

SETTLE_EVERY = 64
"""Segments that are written before a snapshot frees their sources; always one at the end."""
SWITCH_STEP = 1024
UNREADABLE_MAX = 100
RECALL_COMMIT = 256
"""Lots moved back between two commits."""


@dataclass(slots=True)
class Report:
    """What a shift did. Bytes are those of files.

    `waiting_bytes` would not have filled half a segment. `unreadable` says of inodes why they
    stayed.
    """

    moved_bytes: int = 0
    segments: int = 0
    waiting_bytes: int = 0
    strays: int = 0
    retired: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)


class Shift:
    """Shifts on one volume, one after the other. `pools` are all archive pools."""

    def __init__(
        self,
        volume: Volume,
        pools: Iterable[Pool],
        *,
        control: Control | None = None,
        readers: int = 0,
    ) -> None:
        """`readers`: how many threads gather; 0: no threads, everything where jobs run."""
        self.volume = volume
        self.pools = {pool.id: pool for pool in pools}
        self.report = Report()
        self._control = control or Control()
        self._readers = readers
        self._context = volume.context
        self._touched: dict[bytes, bool] = {}
        """Pools whose content changed since the last snapshot; True: something was added."""
        self._codecs: dict[tuple[int, int, int], Codec] = {}

    # -- before and after -------------------------------------------------------------------

    def recover(self) -> Work[None]:
        """What a run that was cut off left: strays go, what it switched is settled."""
        archive, fragments = self.volume.archive, self._context.fragments
        catalog = self.volume.catalog
        strays = archive.strays()
        # What was replaced by a fragment written anew goes when a snapshot knows of that one.
        replaced = [one for one in strays if is_held(catalog, one[1].segment)]
        strays = [one for one in strays if not is_held(catalog, one[1].segment)]

        def discard(strays: list[tuple[bytes, FragmentName]]) -> int:
            count = 0
            for drive, (segment, index, generation) in strays:
                try:
                    count += fragments.discard(drive, segment, index, generation)
                except DriveError as error:
                    logger.warning("%s", error)
            return count

        self.report.strays += yield partial(discard, strays)
        kept = held(catalog)
        if kept:
            for source, target in kept.items():
                taken, given = catalog.archived(source), catalog.archived(target)
                if taken is not None:
                    self._touched.setdefault(taken.pool, False)
                if given is not None:
                    self._touched[given.pool] = True
            yield from self.settle()
            self.report.strays += yield partial(discard, replaced)
        else:
            for pool in self.pools.values():
                tidy(fragments, pool)
            self.report.retired += archive.retire()

    def touch(self, pool: bytes) -> None:
        """What this pool holds has changed: the next snapshot is kept on its drives."""
        self._touched[pool] = True

    def settle(self) -> Work[None]:
        """SNAPSHOT and RETIRE for everything switched so far.

        Raises NoPlace, NoSpace, DriveError; the sources stay held then.
        """
        volume = self.volume
        numbers = held(volume.catalog)
        if not numbers:
            return
        self._control.advance(Phase.SNAPSHOT, 0)
        yield from volume.snapshots.make()
        store, fragments = self._context.reader.store, self._context.fragments
        for pool_id, added in sorted(self._touched.items()):
            pool = self.pools.get(pool_id)
            if pool is not None:
                # A pool that only gave may be short of drives: that is a reason to empty it.
                keep_snapshot(store, fragments, pool, least=pool.m + 1 if added else 0)
        self._touched.clear()
        self._context.apply(release_rows(numbers))
        self.report.retired += volume.archive.retire()
        volume.checkpoints.run()

    # -- moving -----------------------------------------------------------------------------

    def to_archive(
        self, lots: Iterable[Lot], pool: Pool, *, flush: bool = False, cleaning: bool = False
    ) -> Work[None]:
        """Move these bytes to a pool. What is not switched when this raises stays where it is.

        Raises Stopped, NoPlace, NoSpace, DriveError, IntegrityError, SetupError.
        """
        hold = Hold(pool.k, pool.zone_bytes, pool.unit_bytes)
        counted = _Counted(lots)
        try:
            for shipment in shipments(counted, hold, flush=flush):
                self._control.check()
                counted.size_bytes -= shipment.size_bytes
                yield from self._ship(shipment, pool, cleaning=cleaning)
                if self.report.segments % SETTLE_EVERY == 0:
                    yield from self.settle()
            if not cleaning:
                self.report.waiting_bytes += counted.size_bytes
        except Exception:
            # What was moved is as good as if nothing had followed; but the cause is what counts.
            if self.volume.read_only is None:
                yield from self._settle_if_possible()
            raise
        yield from self.settle()

    def clean(
        self,
        pool: Pool,
        *,
        flush: bool = False,
        wanted_bytes: int = ALL_BYTES,
        dead_share_min: float | None = None,
    ) -> Work[None]:
        """Write anew what lives in segments with many dead bytes, so that these can go.

        No more of them than win `wanted_bytes`; `dead_share_min` is the pool's unless given. May
        use the zone that is kept in reserve. Raises as `to_archive` does.
        """
        catalog, context = self.volume.catalog, self._context
        while wanted_bytes > 0:
            spare = snapshot_zones(self.volume, pool)
            found = victims(
                catalog,
                pool,
                newest=context.reader.store.next_number,
                room_bytes=room_bytes(pool, context.fragments, spare),
                wanted_bytes=wanted_bytes,
                dead_share_min=dead_share_min,
            )
            lots = lots_of(catalog, inodes_in(catalog, found), frozenset(found).__contains__)
            before, retired = self.report.segments, self.report.retired
            dead = dead_bytes(catalog, found)
            yield from self.to_archive(lots, pool, flush=flush, cleaning=True)
            if self.report.segments == before or self.report.retired == retired:
                return
            wanted_bytes -= dead

    def to_workspace(self, lots: Iterable[Lot]) -> Work[None]:
        """Move these bytes back. Raises as `to_archive` does."""
        some: list[Lot] = []
        try:
            for lot in lots:
                some.append(lot)
                if len(some) >= RECALL_COMMIT:
                    yield from self._recall(some)
                    some = []
            yield from self._recall(some)
        except Exception:
            if self.volume.read_only is None:
                yield from self._settle_if_possible()
            raise
        yield from self.settle()

    def _settle_if_possible(self) -> Work[None]:
        try:
            yield from self.settle()
        except Exception as error:
            logger.warning("what was moved is not settled yet: %s", error)

    def _recall(self, lots: Sequence[Lot]) -> Work[None]:
        volume = self.volume
        lots = [lot for lot in lots if lot.inode not in self.report.unreadable]
        self._hold(lots, 0)
        with self._pinned(lots):
            for lot in lots:
                if lot.inode in self.report.unreadable:
                    continue
                try:
                    self.report.moved_bytes += yield from recall(volume, [lot], self._control)
                except Unreadable as error:
                    self._note(error)
        volume.commits.now()

    def _ship(self, shipment: Shipment, pool: Pool, *, cleaning: bool) -> Work[None]:
        """One segment, from PLAN to SWITCH; without files of which something cannot be read."""
        while True:
            shipment = self._readable(shipment)
            if not shipment.stowed:
                return
            with self._pinned(lot for _, lot in shipment.stowed):
                try:
                    writing = yield from self._write(shipment, pool, cleaning=cleaning)
                except Unreadable as error:
                    self._note(error)
                    continue
                except DriveError as error:
                    fragments = self._context.fragments
                    if error.drive in map(fragments.label, pool.drives):
                        raise PoolDriveError(pool, error, fragments) from error
                    raise
                self._switch(shipment, writing)
            return

    def _note(self, error: Unreadable) -> None:
        logger.error("left where it is: %s", error)
        self.report.unreadable[error.inode] = str(error)
        if len(self.report.unreadable) > UNREADABLE_MAX:
            raise error

    def _readable(self, shipment: Shipment) -> Shipment:
        """Without lots of files that cannot be read, or whose segment is gone by now."""
        store, catalog = self._context.reader.store, self.volume.catalog
        there: dict[int, bool] = {}

        def is_there(segment: int) -> bool:
            if segment not in there:
                there[segment] = segment in store.segments or catalog.archived(segment) is not None
            return there[segment]

        stowed = tuple(
            one
            for one in shipment.stowed
            if one.lot.inode not in self.report.unreadable and is_there(one.lot.source.segment)
        )
        return Shipment(shipment.data_bytes, stowed, shipment.unit_bytes)

    def _write(self, shipment: Shipment, pool: Pool, *, cleaning: bool) -> Work[Writing]:
        """PLAN, WRITE, SYNC, VERIFY of one segment."""
        volume, context = self.volume, self._context
        number = context.reader.store.number()
        # A number means one content for ever: it is taken before anything bears it.
        volume.commits.now()
        try:
            drives = self._place(pool, number, cleaning=cleaning)
        except NoPlace:
            if not held(volume.catalog):
                raise
            # What was moved before may give back zones.
            yield from self.settle()
            drives = self._place(pool, number, cleaning=cleaning)
        codec = self._codec(pool)
        with Workers(self._readers, pool.width) as workers:
            writing = Writing(
                context.reader,
                pool,
                shipment,
                number,
                drives,
                created_ns=context.clock(),
                codec=codec,
                workers=workers,
                control=self._control,
            )
            yield from writing.run()
            try:
                yield from verify(
                    context.fragments,
                    writing,
                    codec=codec,
                    workers=workers,
                    control=self._control,
                )
                self._control.check()
            except Exception:
                yield writing.discard
                raise
        return writing

    def _place(self, pool: Pool, number: int, *, cleaning: bool) -> tuple[bytes, ...]:
        """Drives for the fragments of a new segment. Raises NoPlace.

        What the next snapshot takes stays free. Cleaning, which gives zones back, needs it once;
        all else leaves room for one snapshot more, so that a full pool can still be cleaned.
        """
        spare = snapshot_zones(self.volume, pool)
        return pool.place(
            self._context.fragments,
            number,
            spare_zones=spare if cleaning else 2 * spare,
            cleaning=cleaning,
        )

    def _switch(self, shipment: Shipment, writing: Writing) -> None:
        """SWITCH: durable when this returns."""
        volume, number, archived = self.volume, writing.number, writing.archived
        self._hold((lot for _, lot in shipment.stowed), number)
        self._touched[archived.pool] = True
        stowed = sorted(shipment.stowed, key=lambda one: (one.lot.inode, one.lot.offset))
        for first in range(0, len(stowed), SWITCH_STEP):
            self.report.moved_bytes += volume.archive.switch(
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
        self.report.segments += 1

    # -- what they share --------------------------------------------------------------------

    def _hold(self, lots: Iterable[Lot], target: int) -> None:
        """Keep the sources of what is going to be switched to segment `target`."""
        catalog = self.volume.catalog
        numbers = {lot.source.segment for lot in lots}
        for number in numbers:
            archived = catalog.archived(number)
            if archived is not None:
                self._touched.setdefault(archived.pool, False)
        self._context.apply(hold_rows(sorted(numbers), target), whole=False)

    def _pinned(self, lots: Iterable[Lot]) -> _Pins:
        return _Pins(self._context.reader.store, {lot.source.segment for lot in lots})

    def _codec(self, pool: Pool) -> Codec:
        key = pool.k, pool.m, int(pool.code)
        if key not in self._codecs:
            self._codecs[key] = Codec(pool.k, pool.m, pool.code)
        return self._codecs[key]


class _Counted:
    """Lots as they are taken, and the bytes of them."""

    def __init__(self, lots: Iterable[Lot]) -> None:
        self._lots = lots
        self.size_bytes = 0

    def __iter__(self) -> Iterator[Lot]:
        for lot in self._lots:
            self.size_bytes += lot.length
            yield lot


class _Pins:
    """Keeps segments from being removed while they are read, whatever is deleted meanwhile."""

    def __init__(self, store: SegmentStore, numbers: Iterable[int]) -> None:
        self._store = store
        self._numbers = sorted(numbers)

    def __enter__(self) -> None:
        for number in self._numbers:
            self._store.pin(number)

    def __exit__(self, *error: object) -> None:
        for number in self._numbers:
            self._store.unpin(number)
