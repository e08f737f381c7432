"""What the daemon does beside requests: checkpoints, flushes, claims ahead, reaper, cleaner; and,
once, what a shift that was cut off left.

One task, in small steps between which requests are served. Whoever finds the workspace full asks
`make_room`, which does at once what otherwise waits for a quiet moment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from shmr.archive.pool import Pool
from shmr.archive.shift import Shift
from shmr.catalog import store as catalog_store
from shmr.catalog.catalog import CatalogFailed
from shmr.errors import NoSpace, ShmrError
from shmr.format.records import Stream
from shmr.log.log import FLUSH_BYTES
from shmr.service.mounted import memory
from shmr.service.mounted.committer import Committer
from shmr.units import MIB
from shmr.volume.cleaner import Work
from shmr.volume.context import Need
from shmr.volume.holds import held
from shmr.volume.volume import Volume

logger = logging.getLogger("shmr.service")

R = TypeVar("R")

TICK_S = 0.1
QUIET_TICK_S = 1.0
"""Between looks while nothing changes: an idle mount should let the machine sleep."""
BULK_ROUNDS = 4
"""Commits before a checkpoint, at most, until little is left to sync while requests wait."""
REAP_SLICE_S = 0.005
CLEAN_FREE_SHARE = 0.2
"""Below this share of free space the cleaner takes any victim that wins something."""
VICTIMS_PER_ROOM = 8
WRITE_MAX_BYTES = MIB
"""What the kernel writes at most in one request."""
SNAPSHOT_PAUSE_S = 30.0
SNAPSHOT_PAUSE_MAX_S = 3600.0
"""After a snapshot that failed; doubled each time."""


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


class Maintenance:
    """Drives the parts of the volume that nobody asks for."""

    def __init__(self, volume: Volume, committer: Committer, pools: Sequence[Pool] = ()) -> None:
        """`pools` are the archive pools."""
        self._volume = volume
        self._pools = pools
        self._committer = committer
        self._making_room = trio.Lock()
        self._snapshotting = trio.Lock()
        self._fatal: CatalogFailed | None = None
        self._next_snapshot_s = 0.0
        self._snapshot_pause_s = SNAPSHOT_PAUSE_S

    async def run(self) -> None:
        """Until cancelled. A failed drive makes the volume read-only and ends nothing here.

        Raises CatalogFailed, after which the mount must end.
        """
        async with trio.open_nursery() as nursery:
            if self._pools and self._volume.read_only is None:
                nursery.start_soon(self._settle)
            while True:
                quiet = not self._volume.catalog.epoch_rows
                await trio.sleep(QUIET_TICK_S if quiet else TICK_S)
                self._probe()
                if self._fatal is not None:
                    message = "%s; unmounting: free space or mend the disk, then mount again"
                    logger.critical(message, self._fatal)
                    raise self._fatal
                memory.let_go(self._volume.catalog.path / catalog_store.DATA)
                if self._volume.read_only is not None:
                    continue
                try:
                    await self._tick(nursery)
                except ShmrError as error:
                    logger.error("maintenance: %s", error)
                except Exception:
                    logger.exception("maintenance failed unexpectedly")

    async def _tick(self, nursery: trio.Nursery) -> None:
        volume = self._volume
        await self._reap()
        await self._flush()
        if volume.checkpoints.due():
            await self.checkpoint()
        await self._claim_ahead()
        volume.space.measure()
        paused = trio.current_time() < self._next_snapshot_s and not volume.snapshots.pressing
        if not paused and volume.snapshots.due():
            # Beside everything else: it may take minutes.
            nursery.start_soon(self._snapshot, self._volume.snapshots.due)
        if self._wants_cleaning():
            async with self._making_room:
                await self._clean(pressed=self._is_short())

    def _probe(self) -> None:
        try:
            self._volume.catalog.probe()
        except CatalogFailed as error:
            self._fatal = self._fatal or error

    # -- steps ------------------------------------------------------------------------------

    async def checkpoint(self) -> None:
        """The bulk as ordinary commits, then the rest with no operation between."""
        if self._volume.catalog.short and self._volume.snapshots.running:
            # The snapshot reads the pages that this would leave behind: the file would grow.
            await self._committer.commit()
            return
        try:
            for _ in range(BULK_ROUNDS):
                await self._committer.commit()
                if self._volume.log.unsynced_bytes() < FLUSH_BYTES:
                    break
            async with self._committer.exclusive:
                self._volume.checkpoints.run()
        except NoSpace:
            logger.warning("no room for a checkpoint: delete something")
        except CatalogFailed as error:
            self._fatal = error
            raise

    async def _reap(self) -> None:
        more = True
        while more and self._volume.read_only is None:
            until = time.monotonic() + REAP_SLICE_S
            while more and time.monotonic() < until:
                more = self._volume.reaper.step()
            await trio.sleep(0)
            if self._volume.checkpoints.due():
                # A long deletion must not keep the catalog's pages in memory.
                await self.checkpoint()

    async def _flush(self) -> None:
        async with self._committer.exclusive:
            job = self._volume.commits.begin_flush()
            if job is not None:
                await trio.to_thread.run_sync(job.run)
                self._volume.commits.end_flush(job)

    async def _claim_ahead(self) -> None:
        """Allocate the next data segment in a thread, so that no writer waits for it."""
        log = self._volume.log
        store = log.store
        if not log.lacks_spare(Stream.DATA) or log.data_room() > store.segment_bytes // 2:
            return
        size = store.segment_bytes
        if store.free_bytes() - size < self._volume.context.reserves.data_bytes:
            return
        try:
            where, number = store.place(size), store.number()
            claim = await trio.to_thread.run_sync(store.create, Stream.DATA, number, size, where)
        except NoSpace:
            return
        log.add_spare(claim)

    async def _snapshot(self, wanted: Callable[[], bool]) -> None:
        """Make one if it is still `wanted` when none is under way any more.

        What fails is tried again later and later, and stops nothing else.
        """
        async with self._snapshotting:
            if not wanted():
                return
            try:
                await self._drive(self._volume.snapshots.make(), exclusive=True)
                self._snapshot_pause_s = SNAPSHOT_PAUSE_S
            except CatalogFailed as error:
                self._fatal = error
            except Exception as error:
                self._next_snapshot_s = trio.current_time() + self._snapshot_pause_s
                self._snapshot_pause_s = min(2 * self._snapshot_pause_s, SNAPSHOT_PAUSE_MAX_S)
                logger.warning("no snapshot now, the journal grows on: %s", error)
            self._volume.space.measure()

    async def _settle(self) -> None:
        """Put in order what a shift that was cut off left; beside everything else, for archive
        drives are slow, and may hang: then that is left behind when the mount ends."""
        volume = self._volume
        shift = Shift(volume, self._pools)
        try:
            replaced = await self._drive(shift.sweep(), exclusive=True, abandon=True)
            numbers = held(volume.catalog)
            if numbers:
                async with self._snapshotting:
                    await self._drive(shift.snapshot(), exclusive=True)
                await self._drive(shift.release(numbers), exclusive=True, abandon=True)
                await self._drive(shift.discard(replaced), abandon=True)
        except CatalogFailed as error:
            self._fatal = error
        except Exception as error:
            logger.warning("what a move that was cut off left stays for now: %s", error)
        else:
            report = shift.report
            logger.info(
                "the archive is in order: %d strays discarded, %d moves completed, %d archived "
                "segments freed",
                report.strays,
                len(numbers),
                report.retired,
            )

    # -- space ------------------------------------------------------------------------------

    def _is_short(self) -> bool:
        usage = self._volume.usage()
        return usage.blocks_available < usage.blocks * CLEAN_FREE_SHARE

    def _wants_cleaning(self) -> bool:
        return self._volume.cleaner.victim(pressed=self._is_short()) is not None

    async def _clean(self, *, pressed: bool) -> bool:
        """Clean one victim; False if there was none or it could not be moved."""
        number = self._volume.cleaner.victim(pressed=pressed)
        if number is None:
            return False
        try:
            moved = await self._drive(self._volume.cleaner.clean(number))
        except NoSpace:
            return False
        logger.info("cleaned segment %d: moved %d bytes", number, moved)
        return True

    async def make_room(self) -> bool:
        """Free space for somebody who found none; False if nothing can be won.

        Reaps, frees what is dead, waits for a snapshot that is under way and makes one if the
        journal is what takes the space, then cleans the emptiest segments; no more of it than is
        needed to allow what was refused. Space comes back by segments: a file without data that
        was deleted makes no room for another, but thousands of them do.
        """
        volume = self._volume
        # Now, not when it is our turn: room may have been made for us in between.
        refused = self._refused()

        def lacking() -> bool:
            return not self._has_room() and self._refused() >= refused

        async with self._making_room:
            if volume.read_only is not None:
                return False
            if not lacking():
                return True
            if refused > Need.DELETE:
                # What is claimed ahead counts as free, but the journal cannot use it.
                volume.log.give_back_spares()
            await self._reap()
            await self.checkpoint()
            volume.space.measure()
            if lacking():
                # One that is under way holds its space twice: until it ends, nothing is won.
                await self._snapshot(lambda: lacking() and volume.snapshots.due(asked=True))
            cleaned = 0
            while lacking() and cleaned < VICTIMS_PER_ROOM:
                if not await self._clean(pressed=True):
                    break
                cleaned += 1
                await self.checkpoint()
                volume.space.measure()
            return not lacking() or cleaned == VICTIMS_PER_ROOM

    def _refused(self) -> int:
        """How far space refuses now: requests of needs below this; commits too, if beyond all."""
        log = self._volume.log
        if log.store.free_bytes() < log.journal_bytes:
            return Need.DELETE + 1
        return self._volume.context.allowed_from

    def _has_room(self) -> bool:
        """May as much as one request be written now? Then who was refused should try again."""
        log, reserves = self._volume.log, self._volume.context.reserves
        if self._volume.catalog.short:
            return False
        size = log.store.segment_bytes
        # The bytes of one request may begin in one segment and end in another.
        segments = 1 + -(-WRITE_MAX_BYTES // size)
        return log.free_bytes() - segments * size >= reserves.data_bytes

    async def _drive(self, work: Work[R], *, exclusive: bool = False, abandon: bool = False) -> R:
        """Do a piece of work: what may wait in threads, the rest here.

        With `exclusive`, no commit is under way during what is done here. With `abandon`, a thread
        is not waited for when the mount ends.
        """
        result: Any = None
        failure: Exception | None = None
        while True:
            try:
                async with self._committer.exclusive if exclusive else _nothing():
                    call = work.throw(failure) if failure is not None else work.send(result)
            except StopIteration as stop:
                value: R = stop.value
                return value
            failure = None
            try:
                result = await trio.to_thread.run_sync(call, abandon_on_cancel=abandon)
            except Exception as error:
                failure = error
