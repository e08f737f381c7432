"""Which data segment the cleaner rewrites next.

Cost-benefit as in "The Design and Implementation of a Log-Structured File System" (Rosenblum and
Ousterhout, 1992): the space won times its age, per byte to be moved.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def choose(segments: Iterable[SegmentUse], *, newest: int, dead_share_min: float) -> int | None:
    """The number of the best victim with at least `dead_share_min` dead, or None.

    Age is counted in segments: how many were begun since (`newest` is the last number).
    """
    best: tuple[float, int] | None = None
    for use in segments:
        share = use.dead_share
        if share < dead_share_min or not use.live_bytes:
            continue
        score = share * (newest - use.number + 1) / (2.0 - share)
        if best is None or score > best[0]:
            best = (score, use.number)
    return best[1] if best else None
