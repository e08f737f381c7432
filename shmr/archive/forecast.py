"""What shifts to a pool would do, without doing it: bytes for each drive, what is left, how long.

The same packing, placement and choice of victims as the shift's own, on numbers instead of drives.
An `Outlook` is a pool as it would be; each step that is asked of it begins where the last ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from shmr.archive.plan import Lot, shipments
from shmr.archive.pool import Pool
from shmr.archive.victims import hold_of, room_for
from shmr.core.placement import DriveFacts, Shortage, place
from shmr.core.stripe import fragment_size
from shmr.errors import DriveError
from shmr.format.archived import Archived
from shmr.log.fragments import FragmentStore
from shmr.units import MIB

DRIVE_RATE_BYTES = 120 * MIB
"""What a drive is taken to write or read in a second: a shingled disk in sequence."""


@dataclass(frozen=True, slots=True)
class DriveForecast:
    """A drive: what it would be given, and what would be left of it; None: nobody asked."""

    label: str
    write_bytes: int
    zones_left: int
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """`file_bytes` would move, in `segments`; `waiting_bytes` would wait for a fuller segment.

    `written_bytes` counts everything that drives are given: parity, tables, padding; copies of
    snapshots are not in it. `data_bytes` is the part of it that is not parity. `victims`: so many
    segments of the pool are cleaned, nothing comes from elsewhere. `redundancy` is how many drives
    may then be lost. `shortage` says why not all would find place.
    """

    target: str
    files: int
    file_bytes: int
    waiting_bytes: int
    segments: int
    written_bytes: int
    seconds: float
    redundancy: int
    drives: tuple[DriveForecast, ...]
    shortage: str | None = None
    victims: int = 0
    data_bytes: int = 0


class Step:
    """What one shift to a pool would do; grows while it is planned."""

    def __init__(self) -> None:
        self.inodes: set[int] = set()
        self.taken: Counter[int] = Counter()
        """Bytes that would leave each source segment, and are not settled yet."""
        self.settled: set[int] = set()
        self.shipped: dict[tuple[int, int], int] = {}
        """How much of each lot, by inode and offset; kept where the sources are archived."""
        self.written: Counter[bytes] = Counter()
        self.offered = self.moved = self.segments = 0
        self.shortage: str | None = None

    def offer(self, lots: Iterable[Lot]) -> Iterator[Lot]:
        for lot in lots:
            self.offered += lot.length
            yield lot


class Outlook:
    """A pool, its drives' free bytes and the turn of its next segment, as they would be."""

    def __init__(self, pool: Pool, fragments: FragmentStore, *, turn: int) -> None:
        self.pool = pool
        self._turn = turn
        found, self._absent = pool.facts(fragments)
        self._facts: dict[bytes, DriveFacts] = {}
        self.free: dict[bytes, int] = {}
        for fact in found:
            try:
                self.free[fact.drive] = fragments.drives[fact.drive].capacity().free_bytes
            except DriveError as error:
                self._absent.append(f"{fact.label}: {error}")
                continue
            self._facts[fact.drive] = fact

    def facts(self, spare_zones: int) -> list[DriveFacts]:
        """The drives; `spare_zones` of each are wanted for something else."""
        return [
            replace(fact, free_zones=max(0, self._zones(drive) - spare_zones))
            for drive, fact in self._facts.items()
        ]

    def room_bytes(self, spare_zones: int) -> int:
        """What cleaning may write before anything is freed."""
        return room_for(self.pool, self.facts(spare_zones))

    def ship(
        self,
        lots: Iterable[Lot],
        *,
        spare_zones: int,
        flush: bool,
        cleaning: bool = False,
        is_archived: Callable[[int], bool] = lambda segment: False,
        settle: Callable[[Step], None] = lambda step: None,
    ) -> Step:
        """These lots go to the pool; `settle` gives back what is emptied, when zones run out."""
        step = Step()
        offered, hold = step.offer(lots), hold_of(self.pool)
        for shipment in shipments(offered, hold, flush=flush, whole=cleaning):
            chosen = self._place(spare_zones, cleaning=cleaning)
            if isinstance(chosen, Shortage):
                settle(step)
                chosen = self._place(spare_zones, cleaning=cleaning)
            if isinstance(chosen, Shortage):
                step.shortage = "; ".join([str(chosen), *self._absent])
                break
            self._turn += 1
            size = shipment.fragment_bytes()
            for drive in chosen:
                step.written[drive] += size
                self.free[drive] -= size
            step.segments += 1
            for _, lot in shipment.stowed:
                source = lot.source.segment
                step.moved += lot.length
                step.taken[source] += lot.length
                step.inodes.add(lot.inode)
                if is_archived(source):
                    step.shipped[lot.inode, lot.offset] = lot.length
        return step

    def release(self, archived: Archived) -> None:
        """A segment is gone: its drives have its bytes again."""
        size = fragment_size(archived.data_bytes, archived.extents, archived.unit_bytes)
        for placed in archived.fragments:
            if placed.drive in self.free:
                self.free[placed.drive] += size

    def forecast(self, steps: Iterable[Step], *, victims: int = 0) -> Forecast:
        """What some steps amount to, the last that were made."""
        steps = list(steps)
        written: Counter[bytes] = Counter()
        for step in steps:
            written.update(step.written)
        moved = sum(step.moved for step in steps)
        shortages = [step.shortage for step in steps if step.shortage is not None]
        return Forecast(
            self.pool.name,
            len(set[int]().union(*(step.inodes for step in steps))),
            moved,
            0 if victims else sum(step.offered for step in steps) - moved,
            sum(step.segments for step in steps),
            written.total(),
            # Everything is written, and read once more to verify it.
            2 * max(written.values(), default=0) / DRIVE_RATE_BYTES,
            self.pool.m,
            tuple(
                DriveForecast(fact.label, written[drive], self._zones(drive), self.free[drive])
                for drive, fact in self._facts.items()
            ),
            shortages[-1] if shortages else None,
            victims,
            written.total() * self.pool.k // self.pool.width,
        )

    def _place(self, spare_zones: int, *, cleaning: bool) -> tuple[bytes, ...] | Shortage:
        pool = self.pool
        return place(
            self.facts(spare_zones),
            pool.width,
            self._turn,
            same_device=pool.same_device,
            cleaning=cleaning,
        )

    def _zones(self, drive: bytes) -> int:
        return max(0, self.free[drive] // self.pool.zone_bytes)


def write_amplification(forecasts: Iterable[Forecast]) -> float | None:
    """Bytes written to archive pools, by moves and cleaning, per byte of files moved there.

    Without parity: what fragments of data take, with their tables and padding. None: nothing is
    moved there.
    """
    moved, written = 0, 0.0
    for one in forecasts:
        written += one.data_bytes
        moved += 0 if one.victims else one.file_bytes if one.segments else 0
    return written / moved if moved else None
