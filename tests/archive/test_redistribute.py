"""Plans that even out how full drives are: every step is allowed, and little is left uneven."""

from __future__ import annotations

import random

import pytest

from shmr.archive.exposure import Exposure
from shmr.archive.redistribute import (
    TOLERANCE,
    Fill,
    plan_balance,
    plan_emptying,
    plan_mending,
)
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


def three_of(lost: set[int]) -> tuple[dict[int, Archived], list[bytes]]:
    """Segments 4+2 on drives 0 to 5, of which those numbered in `lost` have a fragment on 6 too."""
    drives = [bytes([number]) * 16 for number in range(10)]
    rows = {}
    for number in range(8):
        chosen = drives[:6] if number not in lost else [*drives[:5], drives[6]]
        placed = tuple(Placed(drive, 1) for drive in chosen)
        rows[number] = Archived(
            b"p" * 16, 4, 2, Code.ISA_L_RS_CAUCHY, UNIT, 4 * UNIT, 16 * UNIT, 1, 1, placed
        )
    return rows, drives


def test_what_is_closest_to_loss_comes_first_and_has_its_place_first() -> None:
    rows, drives = three_of({3, 6})
    gone = {drives[0], drives[6]}
    facts = [DriveFacts(d, d.hex(), 0, 2) for d in drives if d not in gone]

    def whole(number: int, archived: Archived, index: int) -> bool:
        return archived.fragments[index].drive not in gone and (number, index) != (5, 3)

    plan = plan_emptying(rows, drives[0], facts, same_device=True, whole=whole)
    # Two have lost another fragment, one has a damaged one; those without come behind.
    assert [step.segment for step in plan.steps][:3] == [3, 5, 6]
    assert [step.segment for step in plan.steps][3:] == sorted(
        step.segment for step in plan.steps[3:]
    )


def test_what_nothing_can_restore_comes_last() -> None:
    rows, drives = three_of({2})
    gone = {drives[0], drives[6], drives[3]}

    def whole(number: int, archived: Archived, index: int) -> bool:
        return archived.fragments[index].drive not in gone

    for there in (False, True):
        facts = [DriveFacts(d, d.hex(), 0, 20) for d in drives if d not in gone]
        facts += [DriveFacts(drives[0], "", 0, 20)] * there
        plan = plan_emptying(rows, drives[0], facts, same_device=True, whole=whole)
        # Where the drive is there it can be read, and what nothing else has comes first.
        assert [step.segment for step in plan.steps].index(2) == (0 if there else 7)


def test_what_is_at_risk_falls_as_fragments_are_written_anew() -> None:
    rows, drives = three_of({3, 6})
    gone = {drives[0], drives[6]}
    live = {number: 100 << number for number in rows}
    exposure = Exposure(rows, live, lambda n, a, i: a.fragments[i].drive not in gone)
    assert [(one.left, one.segments, one.size_bytes) for one in exposure] == [
        (0, 2, live[3] + live[6]),
        (1, 6, sum(live.values()) - live[3] - live[6]),
    ]
    assert str(exposure) == "0 left: 7.0 KiB, 1 left: 17.9 KiB"
    exposure.note(3, rehoused(rows[3], 0, drives[7]))
    assert [(one.left, one.segments) for one in exposure] == [(0, 1), (1, 7)]
    for number, archived in rows.items():
        for index in (0, 5):
            archived = rehoused(archived, index, drives[7 + index // 5])
        exposure.note(number, archived)
    assert not list(exposure) and not str(exposure)


def test_what_is_mended_first_is_closest_to_loss_and_no_step_depends_on_another() -> None:
    rows, drives = three_of(set())
    wanted = {(1, 0), (5, 2), (5, 4), (7, 1)}

    def whole(number: int, archived: Archived, index: int) -> bool:
        return (number, index) not in wanted

    facts = [DriveFacts(drive, drive.hex(), 0, 5) for drive in drives[:7]]
    plan = plan_mending(rows, wanted, facts, same_device=True, whole=whole)
    assert plan.left == 0
    assert [(step.segment, step.fragment) for step in plan.steps] == [
        (5, 2),
        (5, 4),
        (1, 0),
        (7, 1),
    ]
    # One drive is free of each segment; the second fragment stays where it is.
    assert [step.drive for step in plan.steps] == [drives[6], drives[4], drives[6], drives[6]]
    # Of any step that fails, the others can still be taken.
    for step in plan.steps:
        others = {p.drive for i, p in enumerate(rows[step.segment].fragments) if i != step.fragment}
        assert step.drive not in others
    # Where nothing is free, not even on its own drive, it is left, and says why.
    full = [DriveFacts(drive, drive.hex(), 0, 0) for drive in drives[:7]]
    plan = plan_mending(rows, wanted, full, same_device=True, whole=whole)
    assert (plan.steps, plan.left) == ((), 4) and plan.shortage is not None
