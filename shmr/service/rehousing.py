"""Fragments written anew on a filesystem that is not mounted, and what came of it.

What an earlier run that was cut off left is put in order first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shmr.archive.control import Control, Phase, Stopped
from shmr.archive.keep import snapshot_zones
from shmr.archive.pool import Pool
from shmr.archive.redistribute import Plan
from shmr.archive.rehouse import Rehousing
from shmr.archive.shift import Shift
from shmr.core.placement import DriveFacts
from shmr.format.archived import Archived
from shmr.service.following import Stop, Watcher
from shmr.volume.cleaner import Work, run_inline
from shmr.volume.volume import Volume


@dataclass(frozen=True, slots=True)
class Rehoused:
    """`moved` fragments were written anew. `left` were to be, and are where they were: for lack of
    place (`shortage`), because they are `lost` (a sentence each), or because somebody stopped it.

    `dropped` fragments of parity are gone. `advice` says what to do next, a sentence each.
    """

    moved: int = 0
    moved_bytes: int = 0
    dropped: int = 0
    left: int = 0
    shortage: str | None = None
    lost: tuple[str, ...] = ()
    stopped: bool = False
    advice: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        return not (self.left or self.lost or self.stopped)


class Job:
    """One run on an open volume. `pools` are all archive pools, with the states that now hold."""

    def __init__(
        self, volume: Volume, pools: Iterable[Pool], watcher: Watcher | None, stop: Stop
    ) -> None:
        self._volume = volume
        self._watcher = watcher
        self._halves = self._total = 0
        control = Control(self._advance, stop)
        self._shift = Shift(volume, pools, control=control)
        self.rehousing = Rehousing(self._shift, control)
        self.shortage: str | None = None
        self.stopped = False

    def recover(self) -> None:
        """Put in order what was cut off."""
        run_inline(self._shift.recover())

    def carry_out(self, plan: Plan) -> None:
        """Take the steps of a plan. Raises NoPlace, NoSpace, DriveError, IntegrityError."""
        self.shortage = plan.shortage
        self._total += plan.size_bytes
        self.do(self.rehousing.run(plan.steps))

    def do(self, work: Work[object]) -> None:
        """Some work; a stop is noted, and nothing is begun after one."""
        if self.stopped:
            return
        try:
            run_inline(work)
        except Stopped:
            self.stopped = True

    def told(self, left: int, *, dropped: int = 0, advice: tuple[str, ...] = ()) -> Rehoused:
        """What came of it."""
        return Rehoused(
            self.rehousing.moved,
            self._halves // 2,
            dropped,
            left,
            self.shortage,
            tuple(map(str, self.rehousing.lost)),
            self.stopped,
            advice,
        )

    def _advance(self, phase: Phase, size_bytes: int) -> None:
        # What is written is then verified: each of the two is half of it.
        self._halves += size_bytes
        if self._watcher is not None:
            self._watcher(phase.value, self._halves // 2, self._total)


def rows_of(volume: Volume, pool: Pool) -> dict[int, Archived]:
    """The segments of a pool."""
    every = volume.catalog.archived_segments()
    return {number: archived for number, archived in every if archived.pool == pool.id}


def room_of(volume: Volume, pool: Pool) -> list[DriveFacts]:
    """What the drives of a pool can take, beside the next snapshots."""
    spare = 2 * snapshot_zones(volume, pool)
    return pool.facts(volume.context.fragments, spare)[0]
