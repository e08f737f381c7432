"""Damage at rest: with two copies it costs nothing, with one it is told and never read."""

from __future__ import annotations

import pytest

from shmr.testing.damage import losses, rot


@pytest.mark.parametrize("seed", range(6))
def test_with_two_copies_a_lost_drive_or_a_flipped_bit_costs_nothing(seed: int) -> None:
    losses(seed, cases=15)


@pytest.mark.parametrize("seed", range(5))
def test_a_flipped_bit_of_the_only_copy_is_never_read(seed: int) -> None:
    rot(seed, cases=20)


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_thousand_damages_of_one_copy_cost_nothing() -> None:
    assert sum(losses(seed, cases=40) for seed in range(1000, 1030)) > 1000


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_thousand_flipped_bits_are_never_read() -> None:
    assert sum(rot(seed, cases=40) for seed in range(1000, 1030)) > 1000


@pytest.mark.parametrize("seed", [0, 3, 8], ids=["short tail", "short opening", "short, rebuilt"])
def test_found_losses(seed: int) -> None:
    """A copy shorter than what was written: it could not be completed, and the mount failed."""
    losses(seed)


@pytest.mark.parametrize("seed", [10, 17])
def test_found_rot(seed: int) -> None:
    """A journal whose very first batch is gone was mounted without a root directory."""
    rot(seed)
