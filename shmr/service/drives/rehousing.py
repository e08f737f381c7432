"""Fragments written anew on a filesystem that is not mounted, and what came of it.

What an earlier run that was cut off left is put in order first. A dry run makes the same plans, one
on top of the other, and carries out none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from shmr.archive.control import Stopped
from shmr.archive.exposure import AtRisk, Exposure, Whole
from shmr.archive.forecast import DRIVE_RATE_BYTES, DriveForecast
from shmr.archive.keep import snapshot_zones
from shmr.archive.pool import Pool
from shmr.archive.redistribute import Plan
from shmr.archive.rehouse import PROVING_MAX, Rehousing, Step, rehoused
from shmr.archive.shift import Shift
from shmr.archive.workers import Workers
from shmr.config import Config
from shmr.core.placement import DriveFacts
from shmr.format.archived import Archived
from shmr.service.following import Follower, Terms
from shmr.service.shifting import ShiftStatus
from shmr.volume.cleaner import Work, run_inline
from shmr.volume.damage import DamagedFragment, damaged_in
from shmr.volume.volume import Volume

READERS = 2
"""Threads that read for the fragment being written: as many runs as it keeps under way."""


@dataclass(frozen=True, slots=True)
class Rehoused:
    """`moved` fragments were written anew, or with `dry_run` would be. `left` were to be, and are
    where they were: for lack of place (`shortage`), because they are `lost` (a sentence each), or
    because somebody stopped it.

    `dropped` fragments of parity are gone. `failed` drives, each with how, were given nothing more.
    `risk` and `risk_left` are what was at risk before and is now, closest to loss first; where
    fragments are moved off one drive. `what` was written, if no fragments. `advice` says what to do
    next, a sentence each. Of a dry run `drives` says what each would be given, `seconds` how long
    about.
    """

    moved: int = 0
    moved_bytes: int = 0
    dropped: int = 0
    left: int = 0
    shortage: str | None = None
    lost: tuple[str, ...] = ()
    stopped: bool = False
    advice: tuple[str, ...] = ()
    dry_run: bool = False
    seconds: float = 0.0
    drives: tuple[DriveForecast, ...] = ()
    failed: tuple[str, ...] = ()
    risk: tuple[AtRisk, ...] = ()
    risk_left: tuple[AtRisk, ...] = ()
    what: str = "fragment"

    @property
    def is_complete(self) -> bool:
        return not (self.left or self.lost or self.stopped)


class Job:
    """One run on an open volume. `pools` are all archive pools, with the states that now hold."""

    def __init__(
        self, name: str, config: Config, volume: Volume, pools: Iterable[Pool], terms: Terms
    ) -> None:
        self._volume = volume
        self._terms = terms
        state = "drives are being changed"
        self._status = ShiftStatus(config, volume, job=name, state=state)
        self._follower = Follower(terms.watcher, self._status)
        control = self._follower.control(terms.stop, terms.limit_rate)
        self._shift = Shift(volume, pools, control=control)
        self._workers = Workers(0 if terms.dry_run else READERS, 1, crew=1 + PROVING_MAX)
        self.rehousing = Rehousing(
            self._shift, control, workers=self._workers, switched=self._switched
        )
        self._exposure: Exposure | None = None
        self._risk: tuple[AtRisk, ...] = ()
        self.shortage: str | None = None
        self.stopped = False
        self._planned: list[tuple[Pool, Step]] = []
        self._lost: dict[int, str] = {}
        """Of a dry run: segments of which a fragment would be lost, and a sentence each."""

    def __enter__(self) -> Job:
        """What was cut off is put in order."""
        if not self._terms.dry_run:
            try:
                run_inline(self._shift.recover())
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.__exit__(None, None, None)
        if not self._terms.dry_run:
            self._status.ended()

    def rows(self, pool: Pool) -> dict[int, Archived]:
        """The segments of a pool, as they are or would be by now."""
        rows = rows_of(self._volume, pool)
        for _, step in self._planned:
            if step.segment in rows:
                rows[step.segment] = rehoused(rows[step.segment], step.fragment, step.drive)
        return rows

    def room(self, pool: Pool, *, whole: bool = False) -> list[DriveFacts]:
        """What the drives of a pool can take, beside the next snapshots or, `whole`, with them."""
        spare = 0 if whole else 2 * snapshot_zones(self._volume, pool)
        fragments = self._volume.context.fragments
        facts = pool.facts(fragments, spare, self.rehousing.failed)[0]
        taken = [step.drive for _, step in self._planned]
        return [
            replace(fact, free_zones=max(0, fact.free_zones - taken.count(fact.drive)))
            for fact in facts
        ]

    def carry_out(self, pool: Pool, plan: Plan) -> None:
        """Take the steps of a plan. Raises NoPlace, NoSpace, DriveError, IntegrityError."""
        self.shortage = plan.shortage
        if self._terms.dry_run:
            self._imagine(pool, plan)
            return
        if plan.steps:
            self.more(plan.size_bytes)
        undone = len(self.rehousing.undone)
        self.do(self.rehousing.run(plan.steps))
        self.more(-sum(step.size_bytes for step in self.rehousing.undone[undone:]))

    def watch(self, pool: Pool, whole: Whole) -> None:
        """Tell from now on what of the pool is at risk."""
        self._exposure = Exposure(self.rows(pool), self._volume.catalog.live, whole)
        self._risk = tuple(self._exposure)
        self._follower.note = str(self._exposure)

    def _switched(self, number: int, archived: Archived) -> None:
        if self._exposure is not None:
            self._exposure.note(number, archived)
            self._follower.note = str(self._exposure)

    def more(self, size_bytes: int) -> None:
        """So much more is to be done."""
        self._follower.plan(size_bytes)

    def do(self, work: Work[object]) -> None:
        """Some work; a stop is noted, and nothing is begun after one. A dry run does none."""
        if self.stopped or self._terms.dry_run:
            return
        try:
            run_inline(work)
        except Stopped:
            self.stopped = True

    def _imagine(self, pool: Pool, plan: Plan) -> None:
        there = self._volume.context.fragments.drives
        rows = self.rows(pool)
        for step in plan.steps:
            archived = rows[step.segment]
            placed = archived.fragments[step.fragment : step.fragment + 1]
            found = sum(one.drive in there for one in archived.fragments)
            if found < archived.k and not (placed and placed[0].drive in there):
                self._lost[step.segment] = (
                    f"segment {step.segment}, fragment {step.fragment} is lost: of {archived.k} "
                    f"others it takes, {found} are there"
                )
                continue
            self._planned.append((pool, step))
            self._switched(step.segment, rehoused(archived, step.fragment, step.drive))

    @property
    def lost_segments(self) -> set[int]:
        """Those of which a fragment was found to be lost."""
        return {*self._lost, *(one.segment for one in self.rehousing.lost)}

    def told(self, left: int, *, dropped: int = 0, advice: tuple[str, ...] = ()) -> Rehoused:
        """What came of it."""
        risk_left = () if self._exposure is None else tuple(self._exposure)
        if self._terms.dry_run:
            size = sum(step.size_bytes for _, step in self._planned)
            # Each is read, written, and read back, one after the other.
            rate = min(DRIVE_RATE_BYTES / 3, self._terms.limit_rate or DRIVE_RATE_BYTES)
            return Rehoused(
                len(self._planned),
                size,
                dropped,
                left,
                self.shortage,
                tuple(self._lost.values()),
                advice=advice,
                dry_run=True,
                seconds=size / rate,
                drives=tuple(self._drives()),
                risk=self._risk,
                risk_left=risk_left,
            )
        return Rehoused(
            self.rehousing.moved,
            self._follower.done_bytes,
            dropped,
            left,
            self.shortage,
            tuple(map(str, self.rehousing.lost)),
            self.stopped,
            advice,
            failed=tuple(self.rehousing.failed.values()),
            risk=self._risk,
            risk_left=risk_left,
        )

    def _drives(self) -> Iterator[DriveForecast]:
        """What the drives of the pools that were planned for would be given."""
        for pool in dict.fromkeys(pool.id for pool, _ in self._planned):
            one = next(known for known, _ in self._planned if known.id == pool)
            for fact in self.room(one, whole=True):
                steps = [step for _, step in self._planned if step.drive == fact.drive]
                size = sum(step.size_bytes for step in steps)
                yield DriveForecast(fact.label, size, fact.free_zones)


def rows_of(volume: Volume, pool: Pool) -> dict[int, Archived]:
    """The segments of a pool."""
    every = volume.catalog.archived_segments()
    return {number: archived for number, archived in every if archived.pool == pool.id}


def whole_now(volume: Volume, *, without: bytes | None = None) -> Whole:
    """What counts as whole: on a drive that is there, not `without`, and not known as damaged."""
    there = volume.context.fragments.drives.keys() - {without}
    damaged = damaged_in(volume.catalog).keys()

    def whole(number: int, archived: Archived, index: int) -> bool:
        drive, generation = archived.fragments[index]
        if drive not in there:
            return False
        return DamagedFragment(drive, number, index, generation) not in damaged

    return whole
