"""Which drives take the fragments of a new segment.

Drives are chosen so that all of a pool become full together, however different their sizes:

* At most one fragment per drive, and per disk (`st_dev`) unless that is allowed.
* `prefer` before `normal` before `avoid`; `drain` never.
* Within one of these, in proportion to what is free: with N the number of segments that could
  still be placed, a drive with N zones or more must take part in every one of them; the others
  are drawn by systematic sampling (Madow, "On the theory of systematic sampling II", 1949) with
  the free zones, at most N, as weights. No choice costs a segment that another would have placed.
* A zone per drive is kept in reserve; only cleaning, which gives zones back, may take it.

Nothing is random: the draw depends on `turn` alone, a number that rises by one with each segment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

RESERVE_ZONES = 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: multiples of it spread evenly
_ONE = 1 << 64


class DriveState(IntEnum):
    """What a drive is meant for; lower is taken first."""

    PREFER = 0
    NORMAL = 1
    AVOID = 2
    DRAIN = 3
    """Takes nothing: it is being emptied."""


@dataclass(frozen=True, slots=True)
class DriveFacts:
    """What placement knows of a drive. `device` is its `st_dev`, `label` what people call it."""

    drive: bytes
    label: str
    device: int
    free_zones: int
    state: DriveState = DriveState.NORMAL


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why no segment can be placed. `refused` says for each drive that cannot take part, why."""

    wanted: int
    found: int
    refused: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        head = f"{self.wanted} different drives are needed, {self.found} can take a fragment"
        return "; ".join([head, *(f"{label}: {reason}" for label, reason in self.refused)])


def place(
    drives: Iterable[DriveFacts],
    width: int,
    turn: int,
    *,
    same_device: bool = False,
    cleaning: bool = False,
    taken: Collection[bytes] = (),
) -> tuple[bytes, ...] | Shortage:
    """`width` drives, by id, for one new fragment each.

    `taken` are drives that hold other fragments of the same segment (when one of them is written
    anew): neither they nor their disks are chosen. The order is no order of fragments.
    """
    drives = sorted(drives, key=lambda facts: (facts.state, -facts.free_zones, facts.drive))
    reserve = 0 if cleaning else RESERVE_ZONES
    refused: list[tuple[str, str]] = []
    free: dict[bytes, int] = {}
    state: dict[bytes, DriveState] = {}
    disks = {facts.device: facts.label for facts in drives if facts.drive in taken}
    for facts in drives:
        reason = _reason(facts, reserve, taken)
        if reason is None and not same_device and facts.device in disks:
            reason = f"on one disk with {disks[facts.device]}"
        if reason is not None:
            refused.append((facts.label, reason))
            continue
        disks[facts.device] = facts.label
        free[facts.drive] = facts.free_zones - reserve
        state[facts.drive] = facts.state
    if len(free) < width:
        return Shortage(width, len(free), tuple(refused))
    chosen: list[bytes] = []
    for wanted_state in DriveState:
        candidates = {drive: zones for drive, zones in free.items() if state[drive] is wanted_state}
        missing = width - len(chosen)
        chosen += candidates if len(candidates) <= missing else _draw(candidates, missing, turn)
    return tuple(sorted(chosen))


def segments_left(free_zones: Sequence[int], width: int) -> int:
    """How many segments of `width` fragments on different drives still find place.

    The largest N for which the drives, none taking part more than N times, offer width * N zones.
    """
    low, high = 0, sum(free_zones) // width
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(zones, middle) for zones in free_zones) >= width * middle:
            low = middle
        else:
            high = middle - 1
    return low


def _reason(facts: DriveFacts, reserve: int, taken: Collection[bytes]) -> str | None:
    """Why the drive cannot take a fragment, whatever the others are."""
    if facts.drive in taken:
        return "holds another fragment of the segment"
    if facts.state is DriveState.DRAIN:
        return "is being drained"
    if facts.free_zones <= 0:
        return "full"
    if facts.free_zones <= reserve:
        return f"full but for the reserve of {reserve} zone"
    return None


def _draw(free: dict[bytes, int], count: int, turn: int) -> list[bytes]:
    """`count` of the drives, in proportion to their free zones; each has at least one."""
    if not count:
        return []
    limit = segments_left(list(free.values()), count)
    forced = [drive for drive, zones in free.items() if zones >= limit]
    if len(forced) <= count:
        rest = {drive: zones for drive, zones in free.items() if zones < limit}
        return forced + _sample(rest, count - len(forced), turn)
    return _sample({drive: min(zones, limit) for drive, zones in free.items()}, count, turn)


def _sample(weights: dict[bytes, int], count: int, turn: int) -> list[bytes]:
    """`count` distinct keys; none weighs more than a `count`-th of all.

    The weights are laid end to end, in another order at each turn, so that any two drives meet;
    `count` points at equal distances, the first moved on by the golden ratio, fall on distinct
    keys.
    """
    if not count:
        return []
    seed = turn.to_bytes(16, "little", signed=True)
    order = sorted(weights, key=lambda drive: sha256(seed + drive).digest())
    total = sum(weights.values())
    # Whole numbers only, everything multiplied by count and 2^64: point j is at
    # total * (j + fraction) / count.
    fraction = turn * _GOLDEN % _ONE
    points = iter([total * (j * _ONE + fraction) for j in range(count)])
    chosen: list[bytes] = []
    point, end = next(points), 0
    for drive in order:
        end += weights[drive] * count * _ONE
        if point < end:
            chosen.append(drive)
            following = next(points, None)
            if following is None:
                break
            point = following
    return chosen
