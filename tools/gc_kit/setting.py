"""What is simulated, what came out, and what theory says of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shmr.core.stripe import fragment_size
from shmr.format.fragment import BLOCK

TABLE_BLOCK = 128
"""Extents in a block of a segment's table."""


@dataclass(frozen=True, slots=True)
class Setting:
    """See the words of `tools/simulate_gc.py`. Sizes in blocks, the smallest size of a file."""

    fullness: float = 0.8
    workspace: float = 0.0
    keep: float = 0.0
    purge: float = 0.0
    file: float = 0.0
    skew: float = 0.0
    shrink: bool = False
    clean_at: float | None = None
    segments: int = 128
    segment_blocks: int = 64
    turnovers: float = 4.0
    seed: int = 1

    @property
    def capacity(self) -> int:
        return self.segments * self.segment_blocks

    @property
    def full(self) -> int:
        """So much in the workspace is a reason for a shift; a segment at least."""
        return max(self.segment_blocks, int(self.workspace * self.capacity))

    @property
    def kept(self) -> int:
        """So much of it stays there."""
        return int(self.keep * self.full)

    @property
    def zone_bytes(self) -> int:
        """A zone that holds `segment_blocks` and the table of as many extents, in whole blocks."""
        extents = -(-(self.segment_blocks + 4) // TABLE_BLOCK) * TABLE_BLOCK
        return fragment_size(self.segment_blocks * BLOCK, extents, BLOCK)

    def bound(self) -> float | None:
        """Write amplification by the formula for small files and large segments, if it holds."""
        if self.skew or self.shrink or self.clean_at is not None:
            return None
        live = self.fullness
        batch = max(self.workspace * (1.0 - self.keep), self.purge, 1e-9)
        power = -math.log1p(-batch / live) / batch
        return 1.0 / (1.0 - _fixed(power))


def _fixed(power: float) -> float:
    """The u below 1 with u = exp(-power (1 - u)), by bisection; power is above 1."""
    low, high = 0.0, 1.0 - 1e-9
    for _ in range(100):
        middle = (low + high) / 2
        if math.exp(-power * (1.0 - middle)) > middle:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True, slots=True)
class Outcome:
    """Blocks of the measured part: written by users, brought to the archive, moved within it."""

    user: int
    brought: int
    moved: int

    @property
    def amplification(self) -> float:
        return (self.brought + self.moved) / self.brought

    @property
    def per_user_byte(self) -> float:
        return (self.brought + self.moved) / self.user


SCENARIOS: tuple[tuple[str, dict[str, float | bool]], ...] = (
    ("small files, nothing batched", {}),
    ("the same, cleaned from 30 % dead", {"clean_at": 0.3}),
    ("the same, cleaned from 50 % dead", {"clean_at": 0.5}),
    ("files of 1/10 segment", {"file": 0.1}),
    ("files of 1/2 segment", {"file": 0.5}),
    ("workspace 1/20, half of it kept", {"workspace": 0.05, "keep": 0.5}),
    ("the same, files of 1/10 segment", {"workspace": 0.05, "keep": 0.5, "file": 0.1}),
    ("workspace 1/5, half of it kept", {"workspace": 0.2, "keep": 0.5}),
    ("the same, files of 1/10 segment", {"workspace": 0.2, "keep": 0.5, "file": 0.1}),
    ("workspace 1/5, emptied", {"workspace": 0.2}),
    ("workspace 1/4, emptied", {"workspace": 0.25}),
    ("purges of 1/5 at a time", {"purge": 0.2}),
    ("deleted and not made again", {"shrink": True}),
    ("skewed: 1/10 gets 90 %", {"skew": 0.1}),
)
