"""Rates, times left and bars."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.core.meter import Meter, bar, format_left


def test_a_steady_job_has_its_rate_and_its_time() -> None:
    meter = Meter(1000)
    for second in range(5):
        meter.note(second, second * 100)
    assert (meter.rate, meter.left_s, meter.share) == (100.0, 6.0, 0.4)


def test_only_the_last_seconds_count() -> None:
    meter = Meter(10_000)
    for second in range(100):
        meter.note(second, second)
    for second in range(100, 120):
        meter.note(second, 99 + (second - 99) * 100)
    assert meter.rate == 100.0


def test_before_anything_is_known_nothing_is_claimed() -> None:
    meter = Meter(10)
    assert (meter.rate, meter.left_s) == (0.0, None)
    meter.note(5.0, 0)
    meter.note(5.0, 1)
    assert (meter.rate, meter.left_s) == (0.0, None)


def test_a_job_that_is_done_takes_no_time() -> None:
    meter = Meter(0)
    assert (meter.left_s, meter.share) == (0.0, 1.0)


def test_a_step_back_is_no_negative_rate() -> None:
    meter = Meter(10)
    meter.note(0.0, 8)
    meter.note(1.0, 4)
    assert meter.rate == 0.0


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "[>.........]"), (0.35, "[===>......]"), (0.999, "[=========>]"), (1.0, "[==========]")],
)
def test_bars(share: float, shown: str) -> None:
    assert bar(share, 10) == shown


@given(st.floats(-1, 2), st.integers(1, 100))
def test_a_bar_has_its_width_whatever_it_shows(share: float, width: int) -> None:
    assert len(bar(share, width)) == width + 2


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "?"), (0, "0:00"), (7.9, "0:07"), (3599, "59:59"), (3600, "1:00:00"), (360_000, "4 d")],
)
def test_times_left(seconds: float | None, shown: str) -> None:
    assert format_left(seconds) == shown
