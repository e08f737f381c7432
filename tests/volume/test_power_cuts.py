"""What was acknowledged survives a power cut at any change of the drives; the rest goes in order.

Each seed is a workload of its own, cut again and again while it runs, and cut again within the
recoveries. The seeds of the quick run are few; those under "found" once failed.
"""

from __future__ import annotations

import pytest

from shmr.testing.torture import power_cuts


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("seed", range(7))
def test_a_cut_workload_recovers_to_a_boundary_behind_the_last_commit(
    seed: int, copies: int
) -> None:
    assert power_cuts(seed, copies=copies) > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_full_workspace_recovers_too(seed: int) -> None:
    assert power_cuts(seed, capacity_segments=18, count=160, share=0.1) > 0


@pytest.mark.parametrize("seed", range(3))
def test_two_copies_on_three_drives_recover(seed: int) -> None:
    assert power_cuts(seed, copies=2, drives=3) > 0


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("copies", "seeds"), [(1, 90), (2, 30)])
def test_thousands_of_cuts_recover(copies: int, seeds: int) -> None:
    first = 1000 * copies
    looked = sum(power_cuts(seed, copies=copies, count=90) for seed in range(first, first + seeds))
    assert looked > 1500


@pytest.mark.parametrize(
    ("seed", "copies"),
    [(2, 1), (23, 1), (26, 1), (0, 2)],
    ids=["rename over an ancestor", "link of a directory", "link again", "torn first frame"],
)
def test_found(seed: int, copies: int) -> None:
    power_cuts(seed, copies=copies)
