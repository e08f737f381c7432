"""Which segments are cleaned next: of the workspace one by one, of an archive pool several at once.

Cost-benefit as in "The Design and Implementation of a Log-Structured File System" (Rosenblum and
Ousterhout, 1992): the space won times its age, per byte to be moved. In an archive pool age counts
less: files there are large beside segments, and where any of them may die next, a preference for
the old costs much (tools/simulate_gc.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SegmentUse:
    """A sealed data segment: its number, the bytes it takes, the bytes of it that live."""

    number: int
    size_bytes: int
    live_bytes: int

    @property
    def dead_share(self) -> float:
        return 1.0 - self.live_bytes / self.size_bytes if self.size_bytes else 0.0


ARCHIVE_AGE_POWER = 0.25
"""How much age counts in an archive pool: between greedy choice (0) and cost-benefit (1).

Measured with tools/simulate_gc.py, 80 % full, write amplification for 0, 1/4, 1/2, 1: files of a
tenth of a segment that die at random 2.04, 2.06, 2.06, 2.17; small ones of which a tenth gets 90 %
of the changes 2.80, 2.70, 2.66, 2.69.
"""


def choose(segments: Iterable[SegmentUse], *, newest: int, dead_share_min: float) -> int | None:
    """The number of the best victim with at least `dead_share_min` dead, or None.

    Age is counted in segments: how many were begun since (`newest` is the last number).
    """
    best: tuple[float, int] | None = None
    for use in segments:
        share = use.dead_share
        if share < dead_share_min or not use.live_bytes:
            continue
        score = _score(use, newest)
        if best is None or score > best[0]:
            best = (score, use.number)
    return best[1] if best else None


def to_clean(
    segments: Iterable[SegmentUse],
    *,
    newest: int,
    dead_share_min: float,
    wanted_bytes: int,
    room_bytes: int,
    fill_bytes: int = 0,
) -> list[int]:
    """Archived segments to be cleaned together, best first: just enough to win `wanted_bytes`.

    Waiting is worth something: what is cleaned later has more dead in it. So no more are taken
    than needed. Victims go only when what lives in them is written: it all fits into `room_bytes`,
    what is free now with the reserve.

    With `fill_bytes`, the size of a new segment, so many are taken that what lives in them fills
    whole ones, and of the last a part may have to stay: where a zone is a zone, however little of
    it is used, nothing else wins one with room for a single segment.

    One in which nothing lives is no work and never chosen, nor one without dead bytes. Fewer, or
    none, when those with `dead_share_min` do not suffice.
    """
    ranked = sorted(
        (-_score(use, newest, ARCHIVE_AGE_POWER), use.number, use)
        for use in segments
        if use.live_bytes and use.dead_share > 0.0 and use.dead_share >= dead_share_min
    )
    chosen: list[int] = []
    won, live, full = 0, 0, room_bytes
    for _, number, use in ranked:
        if live >= full or wanted_bytes <= 0:
            break
        if not fill_bytes and live + use.live_bytes > room_bytes:
            continue
        chosen.append(number)
        live += use.live_bytes
        won += use.size_bytes - use.live_bytes
        if won >= wanted_bytes and full == room_bytes:
            whole = -(-live // fill_bytes) * fill_bytes if fill_bytes else live
            full = min(room_bytes, whole)
    return chosen


def winning(
    uses: Sequence[SegmentUse], *, fill_bytes: int, room_bytes: int, flush: bool = False
) -> list[int]:
    """As many of these victims, from the first on, as win a zone: numbers; none if none do.

    What lives in them is written to new segments of `fill_bytes`, one zone each however little is
    in it; what does not fill one stays where it is, if that is better (`rest_wins`), but for
    `flush`. When there is no room for all that lives in them, it is enough that the last has less
    in it than before: it is the first of the next time.
    """
    lives = [use.live_bytes for use in uses]
    numbers = [use.number for use in uses]
    if sum(lives) >= room_bytes and len(uses) > 1:
        return numbers
    for count in range(len(uses), 1, -1):
        emptied, written = _traded(lives[:count], fill_bytes)
        if flush or rest_wins(lives[:count], fill_bytes):
            emptied, written = count, -(-sum(lives[:count]) // fill_bytes)
        if emptied > written:
            return numbers[:count]
    return []


def rest_wins(lives: Sequence[int], fill_bytes: int) -> bool:
    """Is what does not fill a segment to be written too, from victims with so many live bytes?

    Only if a zone is won by that and none without: it would soon have to be written again.
    """
    emptied, written = _traded(lives, fill_bytes)
    return emptied <= written and len(lives) > -(-sum(lives) // fill_bytes)


def _traded(lives: Sequence[int], fill_bytes: int) -> tuple[int, int]:
    """Victims that are emptied, from the first on, by writing full segments; and how many these."""
    written = sum(lives) // fill_bytes
    emptied, left = 0, written * fill_bytes
    for live in lives:
        left -= live
        if left < 0:
            break
        emptied += 1
    return emptied, written


def _score(use: SegmentUse, newest: int, age_power: float = 1.0) -> float:
    """Space won times age, per byte read and written."""
    share = use.dead_share
    age = float(newest - use.number + 1)
    return share * math.pow(age, age_power) / (2.0 - share)
