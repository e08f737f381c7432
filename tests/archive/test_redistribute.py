"""Plans that even out how full drives are: every step is allowed, and little is left uneven."""

from __future__ import annotations

import random

import pytest

from shmr.archive.redistribute import TOLERANCE, Fill, plan_balance
from shmr.archive.rehouse import rehoused
from shmr.core.placement import DriveFacts
from shmr.format.archived import Archived, Placed
from shmr.format.fragment import BLOCK, Code
from shmr.units import KIB, MIB

DRIVE, ZONE, UNIT = 64 * MIB, 2 * MIB, 256 * KIB
ENDS = 3 * BLOCK
"""Header, table and footer of a small fragment."""


def pool_of(rng: random.Random) -> tuple[dict[int, Archived], dict[bytes, int]]:
    """Segments 2+1 on four of eight drives, and what is used of each drive, in bytes."""
    drives = [rng.randbytes(16) for _ in range(8)]
    used = {drive: rng.choice((0, 200_000)) for drive in drives}
    rows: dict[int, Archived] = {}
    for number in range(14):
        size = rng.choice((2, 4, 6)) * UNIT
        chosen = rng.sample(drives[:4], 3)
        placed = tuple(Placed(drive, 1) for drive in chosen)
        rows[number] = Archived(
            b"p" * 16, 2, 1, Code.ISA_L_RS_CAUCHY, UNIT, size, 2 * size, 1, 1, placed
        )
        for drive in chosen:
            used[drive] += size + ENDS
    return rows, used


@pytest.mark.parametrize("seed", [*range(60), 57, 70, 79, 81, 89, 95, 97, 111, 197, 214, 243, 253])
def test_drives_become_even_by_allowed_steps(seed: int) -> None:
    rows, used = pool_of(random.Random(seed))
    fills = {drive: Fill(DRIVE, DRIVE - size) for drive, size in used.items()}
    facts = [DriveFacts(d, d.hex(), 0, fill.free_bytes // ZONE) for d, fill in fills.items()]
    plan = plan_balance(rows, facts, fills, same_device=True)
    for step in plan.steps:
        before = rows[step.segment]
        source = before.fragments[step.fragment].drive
        assert step.drive not in {placed.drive for placed in before.fragments}
        assert used[source] - used[step.drive] > TOLERANCE * DRIVE
        used[source] -= step.size_bytes
        used[step.drive] += step.size_bytes
        assert used[source] >= used[step.drive]
        rows[step.segment] = rehoused(before, step.fragment, step.drive)
    # One that moves twice is written twice: that is for where nothing else can go on.
    twice = len(plan.steps) - len({(step.segment, step.fragment) for step in plan.steps})
    assert twice <= 4
    assert max(used.values()) - min(used.values()) <= 2 * MIB
