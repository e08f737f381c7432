"""The machine that moves bytes between pools. Each step is durable before the next begins.

    PLAN      what a run that was cut off left is discarded; drives are chosen, a number is taken
    WRITE     the fragments, stripe by stripe                                 (`write`)
    SYNC      sealed: no byte of them changes any more
    VERIFY    read back from the drives and compared                          (`verify`)
    SWITCH    the sources are held, the extents that still point there are switched, a commit
              (all of these segment by segment, one written while another is verified: `ship`)
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
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial

from shmr.archive.account import Account
from shmr.archive.control import Control, Phase
from shmr.archive.keep import keep_snapshot, newest_snapshot, snapshot_zones, tidy
from shmr.archive.newer import refuse_newer
from shmr.archive.pins import Pins
from shmr.archive.plan import Hold, Lot, shipments
from shmr.archive.pool import Pool
from shmr.archive.recall import recall
from shmr.archive.ship import Shipping
from shmr.archive.sources import lots_of
from shmr.archive.victims import (
    ALL_BYTES,
    dead_bytes,
    hold_of,
    inodes_in,
    room_bytes,
    takes_rest,
    victims,
)
from shmr.archive.workers import Workers
from shmr.archive.write import Unreadable
from shmr.errors import DriveError
from shmr.log.fragments import FragmentName, FragmentStore
from shmr.volume.cleaner import Work
from shmr.volume.holds import held, is_held, release_rows
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

SETTLE_EVERY = 64
"""Segments that are written before a snapshot frees their sources; always one at the end."""
Stray = tuple[bytes, FragmentName]
"""A fragment that no row names, and the drive it is on."""
RECALL_COMMIT = 256
"""Lots moved back between two commits."""


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
        self._account = Account(volume)
        self.report = self._account.report
        self._control = control or Control()
        self._readers = readers
        self._context = volume.context

    # -- before and after -------------------------------------------------------------------

    def recover(self) -> Work[None]:
        """What a run that was cut off left: strays go, what it switched is settled."""
        replaced = yield from self.sweep()
        if held(self.volume.catalog):
            yield from self.settle()
            yield from self.discard(replaced)

    def sweep(self) -> Work[list[Stray]]:
        """The first half of recovering: what no row needs goes from the drives.

        Returns what is to be discarded behind `settle`: fragments that were replaced by some that
        were written anew stay until a snapshot knows of these. May run while mounted. Raises
        SetupError where the log is older than what is on the drives.
        """
        archive, fragments = self.volume.archive, self._context.fragments
        catalog = self.volume.catalog
        found = yield fragments.scan
        # Asked behind the listing: numbers are given meanwhile too. Opening asked more strictly.
        yield partial(refuse_newer, fragments, found, self._context.reader.store.next_number)
        strays = [one for one in archive.strays_in(found) if not self._is_wanted(one)]
        replaced = [one for one in strays if is_held(catalog, one[1].segment)]
        yield from self.discard(one for one in strays if one not in replaced)
        kept = held(catalog)
        for source, target in kept.items():
            taken, given = catalog.archived(source), catalog.archived(target)
            if taken is not None:
                self._account.touched.setdefault(taken.pool, False)
            if given is not None:
                self._account.touched[given.pool] = True
        if not kept:
            for pool in self.pools.values():
                yield partial(tidy, fragments, pool, archive.gaps())
            self.report.retired += yield from archive.retiring()
        return replaced

    def _is_wanted(self, stray: Stray) -> bool:
        """Do files have bytes in its segment, whose row is lost? Then it may be all there is."""
        catalog, number = self.volume.catalog, stray[1].segment
        return catalog.archived(number) is None and catalog.live.get(number, 0) > 0

    def discard(self, strays: Iterable[Stray]) -> Work[None]:
        """Fragments that nothing needs."""
        self.report.strays += yield partial(_discard, self._context.fragments, list(strays))

    def touch(self, pool: bytes) -> None:
        """What this pool holds has changed: the next snapshot is kept on its drives."""
        self._account.touched[pool] = True

    def settle(self) -> Work[None]:
        """SNAPSHOT and RETIRE for everything switched so far.

        Raises NoPlace, NoSpace, DriveError; the sources stay held then.
        """
        numbers = held(self.volume.catalog)
        if numbers:
            self._control.advance(Phase.SNAPSHOT, 0)
            yield from self.snapshot()
            yield from self.release(numbers)

    def snapshot(self) -> Work[None]:
        """A snapshot that fits the zones of the pools that changed. As `settle` raises."""
        touched = self._account.touched
        zones = [pool.zone_bytes for pool in self.pools.values() if pool.id in touched]
        yield from self.volume.snapshots.make(segment_bytes_max=min(zones, default=None))

    def release(self, numbers: Collection[int]) -> Work[None]:
        """The last snapshot, which knows where the bytes of these segments went, is kept on drives
        of the pools that changed; then nothing holds the segments. As `settle` raises."""
        volume, store = self.volume, self._context.reader.store
        segments, unknown = newest_snapshot(store), volume.archive.gaps()
        for segment in segments:
            store.pin(segment.number)
        try:
            for pool_id, added in sorted(self._account.touched.items()):
                pool = self.pools.get(pool_id)
                if pool is not None:
                    # A pool that only gave may be short of drives: that is a reason to empty it.
                    least = pool.m + 1 if added else 0
                    fragments = self._context.fragments
                    keep = partial(keep_snapshot, store, segments, fragments, pool, unknown)
                    yield partial(keep, least=least)
        finally:
            for segment in segments:
                store.unpin(segment.number)
        self._account.touched.clear()
        self._context.apply(release_rows(numbers))
        self.report.retired += yield from volume.archive.retiring()
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
        with Workers(self._readers, pool.width) as workers:
            shipping = Shipping(
                self.volume,
                pool,
                self._account,
                settle=self.settle,
                control=self._control,
                workers=workers,
                cleaning=cleaning,
            )
            try:
                settled = self.report.segments
                for shipment in shipments(counted, hold, flush=flush, whole=cleaning):
                    self._control.check()
                    counted.size_bytes -= shipment.size_bytes
                    yield from shipping.ship(shipment)
                    if self.report.segments - settled >= SETTLE_EVERY:
                        yield from shipping.drain()
                        yield from self.settle()
                        settled = self.report.segments
                yield from shipping.drain()
            except Exception:
                # What was moved is as good as if nothing followed; but the cause is what counts.
                if self.volume.read_only is None:
                    yield from shipping.give_up()
                    yield from self._settle_if_possible()
                raise
            finally:
                shipping.abandon()
        if not cleaning:
            self.report.waiting_bytes += counted.size_bytes
        yield from self.settle()

    def clean(
        self,
        pool: Pool,
        *,
        flush: bool = False,
        wanted_bytes: int = ALL_BYTES,
        dead_share_min: float | None = None,
        before: int | None = None,
    ) -> Work[None]:
        """Write anew what lives in segments with many dead bytes, so that these can go.

        No more of them than win `wanted_bytes`; `dead_share_min` is the pool's unless given;
        only segments numbered below `before` are victims. May use the zone that is kept in reserve.
        Raises as `to_archive` does.
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
                flush=flush,
                before=before,
            )
            lots = lots_of(catalog, inodes_in(catalog, found), frozenset(found).__contains__)
            segments, retired = self.report.segments, self.report.retired
            dead = dead_bytes(catalog, found)
            lives = [catalog.live.get(number, 0) for number in found]
            rest, moved = takes_rest(lives, hold_of(pool)), self.report.moved_bytes
            self._control.plan(sum(lives))
            try:
                yield from self.to_archive(lots, pool, flush=flush or rest, cleaning=True)
            finally:
                # What does not fill a segment stayed, and what comes after an error.
                self._control.plan(self.report.moved_bytes - moved - sum(lives))
            if self.report.segments == segments or self.report.retired == retired:
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
        self._account.hold(lots, 0)
        pins = Pins(self._context.reader.store, lots)
        try:
            for lot in lots:
                if lot.inode in self.report.unreadable:
                    continue
                try:
                    self.report.moved_bytes += yield from recall(volume, [lot], self._control)
                except Unreadable as error:
                    self._account.unreadable(error)
        finally:
            pins.release()
        volume.commits.now()


def _discard(fragments: FragmentStore, strays: Iterable[Stray]) -> int:
    """How many of them were there. Blocking, any thread."""
    count = 0
    for drive, (segment, index, generation) in strays:
        try:
            count += fragments.discard(drive, segment, index, generation)
        except DriveError as error:
            logger.warning("%s", error)
    return count


class _Counted:
    """Lots as they are taken, and the bytes of them."""

    def __init__(self, lots: Iterable[Lot]) -> None:
        self._lots = lots
        self.size_bytes = 0

    def __iter__(self) -> Iterator[Lot]:
        for lot in self._lots:
            self.size_bytes += lot.length
            yield lot
