"""How fast a job goes, and how far it is said to be."""

from __future__ import annotations

import random

import pytest

from shmr.service.following import NAP_S, pace
from shmr.units import MIB


class Time:
    """A clock that moves when somebody sleeps or works."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= NAP_S
        self.now += seconds


@pytest.mark.parametrize("busy", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("steps", [1, 3, 40])
def test_a_rate_is_held_within_a_tenth(steps: int, busy: float) -> None:
    """`busy`: the part of the time that reading takes by itself."""
    time, rate, rng = Time(), 5 * MIB, random.Random(steps)
    wait = pace(rate, lambda: False, clock=time.clock, sleep=time.sleep)
    total, start = 0, time.now
    for _ in range(steps):
        size = rng.randrange(20 * MIB, 32 * MIB)
        wait(size)
        total += size
        reached = total / (time.now - start)
        assert reached <= 1.001 * rate
        time.now += busy * size / rate
    if steps > 10:
        assert total / (time.now - start) >= 0.9 * rate


def test_what_is_slower_than_the_rate_is_not_made_slower() -> None:
    time = Time()
    wait = pace(MIB, lambda: False, clock=time.clock, sleep=time.sleep)
    wait(MIB)
    start = time.now
    for _ in range(10):
        time.now += 3.0
        wait(MIB)
    assert time.now - start == pytest.approx(30.0)


def test_nobody_who_wants_to_stop_is_kept_waiting() -> None:
    time = Time()
    wait = pace(1, lambda: time.now >= 1001.0, clock=time.clock, sleep=time.sleep)
    wait(10**9)
    assert time.now < 1001.5
