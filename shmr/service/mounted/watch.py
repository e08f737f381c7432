"""The daemon's task that tells people how the mount does: the status file, and damage remembered.

Drives are asked in threads, one at a time, each for a few seconds at most: one that hangs is
reported, and is not asked again before it has answered.
"""

from __future__ import annotations

import logging
import time
from collections import Counter

import trio

from shmr.config import Config, PoolConfig
from shmr.drive.directory import DirectoryDrive
from shmr.drive.seam import Capacity
from shmr.errors import DriveError
from shmr.service.assemble import Drives
from shmr.service.status import (
    DriveStatus,
    JobStatus,
    PoolStatus,
    StatusFacts,
    StatusWriter,
)
from shmr.volume.damage import DamagedFragment, damaged_in, note_damage
from shmr.volume.volume import Volume

logger = logging.getLogger("shmr.service")

PERIOD_S = 3.0
PATIENCE_S = 5.0


class Watch:
    """Watches one mount. The status file is kept where the configuration names one."""

    def __init__(self, config: Config, drives: Drives, mountpoint: str) -> None:
        self._config = config
        self._mountpoint = mountpoint
        self._open = {drive.label: drive for drive in drives.all()}
        self._asked: set[str] = set()
        self._limiter = trio.CapacityLimiter(max(1, len(self._open)))
        self._writer: StatusWriter | None = None
        if config.status_file is not None:
            self._writer = StatusWriter(config.status_file)

    async def run(self, volume: Volume) -> None:
        """Until cancelled. Raises nothing: it must not end the mount."""
        while True:
            try:
                note_damage(volume.context)
                if self._writer is not None:
                    facts = await self._facts(volume)
                    # Waited for also when cancelled: `ended` is to have the last word.
                    await trio.to_thread.run_sync(self._writer.write, facts, time.time_ns())
            except Exception:
                logger.exception("the status file is no longer kept, nor damage remembered")
                return
            await trio.sleep(PERIOD_S)

    def ended(self) -> None:
        """The mount is gone: the file says so, and no longer what was."""
        if self._writer is not None:
            facts = StatusFacts(self._config.filesystem, "not mounted")
            self._writer.write(facts, time.time_ns())

    async def _facts(self, volume: Volume) -> StatusFacts:
        members, damaged = _members(volume), _damaged(volume)
        pools = [await self._pool(pool, members, damaged) for pool in self._config.pools]
        state = f"mounted at {self._mountpoint}"
        if volume.read_only is not None:
            state += f", read-only: {volume.read_only}"
        return StatusFacts(self._config.filesystem, state, tuple(pools), _jobs(volume))

    async def _pool(self, pool: PoolConfig, members: set[str], damaged: Counter[str]) -> PoolStatus:
        drives, total, free = [], 0, 0
        for entry in pool.drives:
            path = str(entry.path)
            found = await self._look(path) if path in members else self._why_none(path)
            if isinstance(found, Capacity):
                total += found.total_bytes
                free += found.free_bytes
            why = found if isinstance(found, str) else None
            drives.append(DriveStatus(path, why, damaged[path]))
        return PoolStatus(pool.name, str(pool.scheme), total, free, tuple(drives))

    async def _look(self, path: str) -> Capacity | str:
        """What a drive can hold, or why it is down."""
        drive = self._open[path]
        if path not in self._asked:
            with trio.move_on_after(PATIENCE_S):
                self._asked.add(path)
                # A thread that hangs is left behind, and keeps its place in the limiter.
                return await trio.to_thread.run_sync(
                    self._ask, drive, path, abandon_on_cancel=True, limiter=self._limiter
                )
        return f"does not answer (for {PATIENCE_S:.0f} s and more)"

    def _why_none(self, path: str) -> str:
        if path in self._open:
            return "not the drive that belongs there; the log of the mount says more"
        return "missing since the mount"

    def _ask(self, drive: DirectoryDrive, path: str) -> Capacity | str:
        try:
            return drive.capacity()
        except DriveError as error:
            return error.cause.strerror or str(error.cause)
        finally:
            self._asked.discard(path)


def _members(volume: Volume) -> set[str]:
    """The paths of the drives that the filesystem works with."""
    context = volume.context
    drives = (*context.reader.store.drives, *context.fragments.drives.values())
    return {drive.label for drive in drives}


def _damaged(volume: Volume) -> Counter[str]:
    """By path, how many units were found damaged and wait for the scrubber."""
    gather = volume.context.gather
    found = Counter(DamagedFragment(*finding[:4]) for finding in gather.findings.all())
    drives: Counter[str] = Counter()
    # Of each fragment what is remembered, or more that was found and could not be noted.
    for one, units in (found | Counter(damaged_in(volume.catalog))).items():
        drives[gather.fragments.label(one.drive)] += units
    return drives


def _jobs(volume: Volume) -> tuple[JobStatus, ...]:
    """What the daemon does beside requests and takes long."""
    if volume.snapshots.running:
        return (JobStatus("snapshot", "all names and places are written into the log"),)
    return ()
