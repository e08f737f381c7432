"""What the daemon does beside requests: checkpoints, flushes, claims ahead, reaper, cleaner.

One task, in small steps between which requests are served. Whoever finds the workspace full asks
`make_room`, which does at once what otherwise waits for a quiet moment.
"""

from __future__ import annotations

import logging
import time
from typing import Any, TypeVar

import trio

from shmr.catalog.catalog import CatalogFailed
from shmr.errors import DriveError, NoSpace, Refused
from shmr.format.records import Stream
from shmr.log.log import FLUSH_BYTES
from shmr.service.committer import Committer
from shmr.volume.cleaner import Work
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


class Maintenance:
    """Drives the parts of the volume that nobody asks for."""

    def __init__(self, volume: Volume, committer: Committer) -> None:
        self._volume = volume
        self._committer = committer
        self._making_room = trio.Lock()

    async def run(self) -> None:
        """Until cancelled. A failed drive makes the volume read-only and ends nothing here."""
        while True:
            quiet = not self._volume.catalog.epoch_rows
            await trio.sleep(QUIET_TICK_S if quiet else TICK_S)
            if self._volume.read_only is not None:
                continue
            try:
                await self._tick()
            except CatalogFailed as error:
                logger.critical("%s; unmounting: free space or mend the disk, mount again", error)
                raise
            except (DriveError, Refused) as error:
                logger.error("maintenance: %s", error)
            except Exception:
                logger.exception("maintenance failed unexpectedly")

    async def _tick(self) -> None:
        volume = self._volume
        await self._reap()
        await self._flush()
        if volume.checkpoints.due():
            await self.checkpoint()
        await self._claim_ahead()
        volume.space.measure()
        if volume.snapshots.due():
            async with self._making_room, self._committer.exclusive:
                await self._drive(volume.snapshots.make())
        elif self._wants_cleaning():
            async with self._making_room:
                await self._clean(pressed=self._is_short())

    # -- steps ------------------------------------------------------------------------------

    async def checkpoint(self) -> None:
        """The bulk as ordinary commits, then the rest with no operation between."""
        for _ in range(BULK_ROUNDS):
            await self._committer.commit()
            if self._volume.log.unsynced_bytes() < FLUSH_BYTES:
                break
        async with self._committer.exclusive:
            try:
                self._volume.checkpoints.run()
            except NoSpace:
                logger.warning("no room for a checkpoint: delete something")

    async def _reap(self) -> None:
        more = True
        while more and self._volume.read_only is None:
            until = time.monotonic() + REAP_SLICE_S
            while more and time.monotonic() < until:
                more = self._volume.reaper.step()
            await trio.sleep(0)

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

        Reaps, frees what is dead, then cleans the emptiest segments.
        """
        volume = self._volume
        async with self._making_room:
            if volume.read_only is not None:
                return False
            if self._has_room():
                # Somebody before us in the queue made it.
                return True
            await self._reap()
            await self.checkpoint()
            cleaned = 0
            while not self._has_room() and cleaned < VICTIMS_PER_ROOM:
                if not await self._clean(pressed=True):
                    break
                cleaned += 1
                await self.checkpoint()
            volume.space.measure()
            return self._has_room()

    def _has_room(self) -> bool:
        """May data be written now? Then whoever was refused should try again."""
        log, reserves = self._volume.log, self._volume.context.reserves
        return log.free_bytes() - log.store.segment_bytes >= reserves.data_bytes

    async def _drive(self, work: Work[R]) -> R:
        """Do a piece of work: what may wait in threads, the rest here."""
        result: Any = None
        failure: Exception | None = None
        while True:
            try:
                call = work.throw(failure) if failure is not None else work.send(result)
            except StopIteration as stop:
                value: R = stop.value
                return value
            failure = None
            try:
                result = await trio.to_thread.run_sync(call)
            except Exception as error:
                failure = error
