"""Which fragments are written anew, and where: to empty a drive, to even out all, to add parity.

Plans only, over the rows of segments and what the drives have free. Carried out by
`shmr.archive.rehouse`, one step at a time: a step that was not reached is in the next run's plan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from shmr.archive.exposure import Whole, left_of
from shmr.archive.rehouse import Step, rehoused
from shmr.core.placement import DriveFacts, DriveState, Shortage, place
from shmr.core.stripe import fragment_size
from shmr.format.archived import Archived, Placed

Rows = Mapping[int, Archived]
"""The segments of one pool, by number."""

TOLERANCE = 0.03
"""Drives whose full shares differ by less than this are even."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`shortage` says why there is no place for the `left` other fragments."""

    steps: tuple[Step, ...]
    left: int = 0
    shortage: str | None = None

    @property
    def size_bytes(self) -> int:
        return sum(step.size_bytes for step in self.steps)


def fragments_on(rows: Rows, drive: bytes) -> Iterator[tuple[int, int]]:
    """Segment and index of each fragment that is on a drive, or would be were it there."""
    for number in sorted(rows):
        for index, placed in enumerate(rows[number].fragments):
            if placed.drive == drive:
                yield number, index


class _Room:
    """What the drives can take while a plan is made."""

    def __init__(self, facts: Iterable[DriveFacts], *, same_device: bool, reserve: bool) -> None:
        self.facts = {fact.drive: fact for fact in facts}
        self._same_device = same_device
        self._reserve = reserve

    def find(
        self,
        number: int,
        archived: Archived,
        moving: bytes | None,
        among: Collection[bytes] | None = None,
    ) -> bytes | Shortage:
        """A drive for one more fragment of the segment, or for the one on drive `moving`."""
        taken = {placed.drive for placed in archived.fragments} - {moving}
        # Those that hold another fragment say which disks are taken.
        facts = [
            fact
            for drive, fact in self.facts.items()
            if drive in taken or (drive != moving and (among is None or drive in among))
        ]
        found = place(
            facts,
            1,
            number,
            same_device=self._same_device,
            cleaning=not self._reserve,
            taken=taken,
        )
        return found if isinstance(found, Shortage) else found[0]

    def take(self, drive: bytes, zones: int = 1) -> None:
        fact = self.facts[drive]
        self.facts[drive] = replace(fact, free_zones=fact.free_zones - zones)


def plan_emptying(
    rows: Rows,
    drive: bytes,
    facts: Iterable[DriveFacts],
    *,
    onto: bytes | None = None,
    same_device: bool = False,
    whole: Whole | None = None,
) -> Plan:
    """Every fragment of a drive goes to one of those in `facts`, or to drive `onto` alone.

    Those first of whose siblings least are `whole` (all, if nothing is known of them), so that what
    is closest to loss is safe first, and has its place first; then in the order in which drives
    have them. Last what nothing can restore: too few siblings are there, and the drive is not.
    A drive that takes the place of another needs no reserve: it was enough for the other.
    """
    facts = list(facts)
    room = _Room(facts, same_device=same_device, reserve=onto is None)
    among = None if onto is None else {onto}
    is_there = drive in room.facts

    def stands(number: int, archived: Archived, index: int) -> bool:
        there = archived.fragments[index].drive != drive
        return there and (whole is None or whole(number, archived, index))

    def urgency(one: tuple[int, int]) -> tuple[bool, int, int]:
        number, _ = one
        left = left_of(number, rows[number], stands)
        return left < 0 and not is_there, left, number

    wanted = sorted(fragments_on(rows, drive), key=urgency)
    return _placed(rows, [(number, index, drive) for number, index in wanted], room, among)


def plan_mending(
    rows: Rows,
    wanted: Iterable[tuple[int, int]],
    facts: Iterable[DriveFacts],
    *,
    same_device: bool = False,
    whole: Whole,
) -> Plan:
    """These fragments (segment and index) are written anew, those of what is closest to loss first.

    On other drives, or on their own where no other can take them. `whole` are those that need not
    be.
    """
    room = _Room(facts, same_device=same_device, reserve=True)
    now, steps = dict(rows), list[Step]()
    left, shortage = 0, None
    for number, index in sorted(
        wanted, key=lambda one: (left_of(one[0], rows[one[0]], whole), one)
    ):
        archived = now[number]
        drive = archived.fragments[index].drive
        found = room.find(number, archived, drive)
        if isinstance(found, Shortage):
            own = room.facts.get(drive)
            if own is None or own.free_zones <= 0:
                left += 1
                shortage = shortage or f"segment {number}: {found}"
                continue
            found = drive
        room.take(found)
        # Where it was nothing else goes: no step is to depend on another that may fail.
        now[number] = archived._replace(fragments=(*archived.fragments, Placed(found, 1)))
        steps.append(Step(number, index, found, length_of(archived)))
    return Plan(tuple(steps), left, shortage)


def plan_parity(
    rows: Rows, m: int, facts: Iterable[DriveFacts], *, same_device: bool = False
) -> Plan:
    """Segments with less parity get what they lack, as far as there are drives."""
    room = _Room(facts, same_device=same_device, reserve=True)
    steps: list[Step] = []
    left, shortage = 0, None
    for number in sorted(rows):
        archived = rows[number]
        # Each new fragment is one more that the next must not be beside.
        for index in range(len(archived.fragments), archived.k + m):
            found = room.find(number, archived, None)
            if isinstance(found, Shortage):
                left += archived.k + m - index
                shortage = shortage or f"segment {number}: {found}"
                break
            room.take(found)
            archived = rehoused(archived, index, found)
            steps.append(Step(number, index, found, length_of(archived)))
    return Plan(tuple(steps), left, shortage)


class Fill(NamedTuple):
    """How large a drive is, and how much of it is free, in bytes."""

    total_bytes: int
    free_bytes: int

    @property
    def share(self) -> float:
        """How full it is."""
        return 1.0 - self.free_bytes / max(1, self.total_bytes)

    def taken(self, size_bytes: int) -> Fill:
        return self._replace(free_bytes=self.free_bytes - size_bytes)


def plan_balance(
    rows: Rows,
    facts: Iterable[DriveFacts],
    fills: Mapping[bytes, Fill],
    *,
    zone_bytes: int | None = None,
    same_device: bool = False,
) -> Plan:
    """Fragments go from fuller drives to emptier ones until all are about as full.

    Drives to be avoided or drained take nothing. `zone_bytes`: each fragment takes as much, however
    short it is. Hardly a fragment moves twice.
    """
    room = _Room(facts, same_device=same_device, reserve=True)
    for drive, fact in room.facts.items():
        if fact.state is DriveState.AVOID:
            room.facts[drive] = replace(fact, state=DriveState.DRAIN)
    fill = {drive: fills[drive] for drive in room.facts}
    waiting = {drive: list(fragments_on(rows, drive)) for drive in fill}
    now, steps = dict(rows), list[Step]()
    evening = True
    while evening:
        evening = False
        for source in sorted(fill, key=lambda drive: fill[drive].share, reverse=True):
            step = _evening(now, waiting[source], room, fill, source, zone_bytes)
            if step is None:
                continue
            size = zone_bytes or step.size_bytes
            fill[source] = fill[source].taken(-size)
            fill[step.drive] = fill[step.drive].taken(size)
            room.take(step.drive)
            room.take(source, -1)
            fragment = step.segment, step.fragment
            waiting[source].remove(fragment)
            # Behind all others: it goes on only where nothing else can.
            waiting[step.drive].append(fragment)
            now[step.segment] = rehoused(now[step.segment], step.fragment, step.drive)
            steps.append(step)
            evening = True
            break
    return Plan(tuple(steps))


def _evening(
    rows: Rows,
    waiting: Iterable[tuple[int, int]],
    room: _Room,
    fill: Mapping[bytes, Fill],
    source: bytes,
    zone_bytes: int | None,
) -> Step | None:
    """A fragment of `source` that a much emptier drive can take, and be no fuller than it then."""
    emptier = [d for d in fill if fill[source].share - fill[d].share > TOLERANCE]
    for number, index in waiting if emptier else ():
        length = length_of(rows[number])
        size = zone_bytes or length
        left = fill[source].taken(-size).share
        among = {drive for drive in emptier if fill[drive].taken(size).share <= left}
        if not among:
            continue
        found = room.find(number, rows[number], source, among)
        if not isinstance(found, Shortage):
            return Step(number, index, found, length)
    return None


def _placed(
    rows: Rows,
    wanted: Iterable[tuple[int, int, bytes]],
    room: _Room,
    among: Collection[bytes] | None,
) -> Plan:
    """A place for each of these fragments, which are on these drives now."""
    steps: list[Step] = []
    left, shortage = 0, None
    for number, index, drive in wanted:
        found = room.find(number, rows[number], drive, among)
        if isinstance(found, Shortage):
            left += 1
            shortage = shortage or f"segment {number}: {found}"
            continue
        room.take(found)
        steps.append(Step(number, index, found, length_of(rows[number])))
    return Plan(tuple(steps), left, shortage)


def length_of(archived: Archived) -> int:
    """Bytes of each fragment's file."""
    return fragment_size(archived.data_bytes, archived.extents, archived.unit_bytes)
