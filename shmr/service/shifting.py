"""The status file while somebody works on an unmounted filesystem: pools, drives, how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

from shmr.config import Config, PoolConfig
from shmr.core.meter import Meter
from shmr.drive.seam import Drive
from shmr.errors import DriveError
from shmr.service.status import DriveStatus, JobStatus, PoolStatus, StatusFacts, StatusWriter
from shmr.volume.volume import Volume

PERIOD_S = 3.0


class ShiftStatus:
    """Kept while a job runs. Does nothing where the configuration names no status file."""

    def __init__(
        self,
        config: Config,
        volume: Volume,
        *,
        job: str = "shift",
        state: str = "files are being moved",
        clock: Callable[[], float] = time.monotonic,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config = config
        self._job, self._state = job, state
        self._clock = clock
        self._time_ns = time_ns
        self._meter = Meter(0)
        self._written_s: float | None = None
        self._writer: StatusWriter | None = None
        context = volume.context
        drives = (*context.reader.store.drives, *context.fragments.drives.values())
        self._drives: dict[str, Drive] = {drive.label: drive for drive in drives}
        if config.status_file is not None:
            self._writer = StatusWriter(config.status_file)

    def plan(self, total_bytes: int) -> None:
        """So much is to be done."""
        self._meter.total_bytes = total_bytes

    def update(self, phase: str, done_bytes: int) -> None:
        """It is so far; written now and then."""
        now = self._clock()
        if self._writer is None or (
            self._written_s is not None and now - self._written_s < PERIOD_S
        ):
            return
        self._written_s = now
        self._meter.note(now, done_bytes)
        job = JobStatus(
            self._job,
            phase,
            done_bytes,
            self._meter.total_bytes,
            self._meter.rate,
            self._meter.left_s,
        )
        pools = tuple(map(self._pool, self._config.pools))
        facts = StatusFacts(self._config.filesystem, self._state, pools, (job,))
        self._writer.write(facts, self._time_ns())

    def ended(self) -> None:
        """Nobody works on the filesystem any more; the drives must still be open."""
        if self._writer is not None:
            pools = tuple(map(self._pool, self._config.pools))
            facts = StatusFacts(self._config.filesystem, "not mounted", pools)
            self._writer.write(facts, self._time_ns())

    def _pool(self, pool: PoolConfig) -> PoolStatus:
        drives, total, free = [], 0, 0
        for entry in pool.drives:
            drive = self._drives.get(str(entry.path))
            down = "missing" if drive is None else None
            if drive is not None:
                try:
                    capacity = drive.capacity()
                    total += capacity.total_bytes
                    free += capacity.free_bytes
                except DriveError as error:
                    down = error.cause.strerror or str(error.cause)
            drives.append(DriveStatus(str(entry.path), down))
        return PoolStatus(pool.name, str(pool.scheme), total, free, tuple(drives))
