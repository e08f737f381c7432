"""Decisions about space: which segment is cleaned, what must stay free."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shmr.core.reserve import SEGMENT_MAX_BYTES, SEGMENT_MIN_BYTES, reserves, segment_size
from shmr.core.victim import SegmentUse, choose
from shmr.log.store import usable_bytes
from shmr.units import GIB, MIB, TIB

uses = st.lists(
    st.builds(SegmentUse, st.integers(1, 50), st.just(100), st.integers(0, 100)),
    max_size=10,
    unique_by=lambda use: use.number,
)


@given(uses, st.floats(0, 1))
def test_a_victim_has_enough_dead_bytes_and_some_that_live(
    some: list[SegmentUse], share: float
) -> None:
    fit = [use for use in some if use.live_bytes and use.dead_share >= share]
    chosen = choose(some, newest=60, dead_share_min=share)
    assert (chosen is None) == (not fit)
    assert chosen is None or chosen in [use.number for use in fit]


@given(uses, st.floats(0, 1))
def test_no_segment_is_older_and_emptier_than_the_victim(
    some: list[SegmentUse], share: float
) -> None:
    chosen = choose(some, newest=60, dead_share_min=share)
    for use in some:
        if use.number == chosen:
            assert not any(
                other.number < use.number and 0 < other.live_bytes < use.live_bytes
                for other in some
                if other.dead_share >= share
            )


def test_of_two_equally_full_segments_the_older_is_cleaned() -> None:
    assert choose([SegmentUse(9, 100, 40), SegmentUse(3, 100, 40)], newest=9, dead_share_min=0) == 3


def test_of_two_equally_old_segments_the_emptier_is_cleaned() -> None:
    some = [SegmentUse(3, 100, 40), SegmentUse(4, 100, 5)]
    assert choose(some, newest=400, dead_share_min=0) == 4


def test_a_segment_without_live_bytes_is_left_to_the_checkpoint() -> None:
    assert choose([SegmentUse(3, 100, 0)], newest=9, dead_share_min=0.5) is None


@given(st.integers(MIB, 64 * MIB), st.integers(MIB // 4, 16 * MIB))
def test_data_stops_before_creates(segment_bytes: int, journal_bytes: int) -> None:
    kept = reserves(segment_bytes, journal_bytes)
    assert kept.data_bytes > kept.create_bytes >= 2 * segment_bytes + 4 * journal_bytes


@given(st.integers(0, 100 * TIB))
def test_segments_are_small_beside_the_workspace(capacity: int) -> None:
    size = segment_size(capacity)
    assert SEGMENT_MIN_BYTES <= size <= SEGMENT_MAX_BYTES
    assert size == SEGMENT_MIN_BYTES or size * 128 <= capacity
    assert segment_size(capacity, 5 * GIB) == 5 * GIB


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(1, 3))
def test_usable_bytes_are_what_greedy_placement_reaches(free: list[int], copies: int) -> None:
    left = sorted(free, reverse=True)
    placed = 0
    while len(left) >= copies and left[copies - 1] > 0:
        left = sorted((room - (index < copies) for index, room in enumerate(left)), reverse=True)
        placed += 1
    assert usable_bytes(sorted(free, reverse=True), copies) == placed
