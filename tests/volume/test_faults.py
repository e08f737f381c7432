"""One fault of a drive at any operation: nothing acknowledged is lost, no operation half happens.

Errors are told as such, the volume is read-only once its log failed, and a remount recovers,
whether or not the machine was started anew in between.
"""

from __future__ import annotations

import pytest

from shmr.testing.torture import faults


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_fault_costs_no_acknowledged_byte(seed: int, copies: int) -> None:
    faults(seed, copies=copies)


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.parametrize("copies", [1, 2])
def test_a_thousand_faults_cost_no_acknowledged_byte(copies: int) -> None:
    for seed in range(1000, 1070):
        faults(seed, copies=copies, runs=15)


@pytest.mark.parametrize(
    ("seed", "copies"),
    [(16, 1), (37, 1), (42, 1), (57, 1), (98, 1), (98, 2)],
    ids=["journal", "payload", "beginning", "half a write", "half again", "half on two copies"],
)
def test_found(seed: int, copies: int) -> None:
    """Bytes that only the page cache had after a failed sync; writes of many extents in halves."""
    faults(seed, copies=copies)
