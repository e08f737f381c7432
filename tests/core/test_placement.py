"""Placement: distinct drives, in proportion, to the last zone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmr.core.placement import DriveFacts, DriveState, Shortage, place, segments_left


def drive(
    number: int, free: int = 10, device: int | None = None, state: DriveState = DriveState.NORMAL
) -> DriveFacts:
    disk = 100 + number if device is None else device
    return DriveFacts(identity(number), f"/drives/{number}", disk, free, state)


def identity(number: int) -> bytes:
    return bytes([number + 1]) * 16


def placed(drives: list[DriveFacts], width: int, turn: int, **options: Any) -> set[int]:
    found = place(drives, width, turn, **options)
    assert isinstance(found, tuple), str(found)
    assert len(set(found)) == len(found) == width
    return {one[0] - 1 for one in found}


def refused(drives: list[DriveFacts], width: int, turn: int, **options: Any) -> Shortage:
    found = place(drives, width, turn, **options)
    assert isinstance(found, Shortage)
    return found


def filled(free: list[int], width: int) -> tuple[list[Counter[int]], list[int]]:
    """Place segments until none fits; who took part in each, and what is left."""
    left = list(free)
    history: list[Counter[int]] = []
    while True:
        found = place([drive(n, zones) for n, zones in enumerate(left)], width, len(history))
        if isinstance(found, Shortage):
            return history, left
        history.append(Counter(one[0] - 1 for one in found))
        for one in found:
            left[one[0] - 1] -= 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=9), st.integers(1, 5))
def test_no_choice_costs_a_segment(free: list[int], width: int) -> None:
    """The optimum is known: the largest N with sum(min(free, N)) >= width * N."""
    history, left = filled(free, width)
    usable = [max(0, zones - 1) for zones in free]
    best = max(n for n in range(200) if sum(min(zones, n) for zones in usable) >= width * n)
    assert len(history) == best
    assert all(zones >= min(1, before) for zones, before in zip(left, free, strict=True))


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 5), st.integers())
def test_drives_are_distinct_and_have_room(free: list[int], width: int, turn: int) -> None:
    facts = [drive(n, zones) for n, zones in enumerate(free)]
    found = place(facts, width, turn)
    if isinstance(found, Shortage):
        assert sum(zones > 1 for zones in free) == found.found < width
    else:
        assert len(set(found)) == width
        assert all(free[one[0] - 1] > 1 for one in found)
        assert place(facts, width, turn) == found


def test_drives_of_mixed_size_fill_in_proportion() -> None:
    free = [400, 400, 200, 200, 200, 100]
    history, left = filled(free, 3)
    half = sum(history[: len(history) // 2], Counter())
    for number, zones in enumerate(free):
        assert half[number] == pytest.approx(zones / 2, rel=0.1)
    assert sum(left) <= 6 + 2


def test_equal_drives_meet_in_every_combination() -> None:
    history, _ = filled([60] * 6, 3)
    pairs = Counter((a, b) for members in history for a in members for b in members if a < b)
    assert len(pairs) == 15
    assert min(pairs.values()) > 0.4 * max(pairs.values())


def test_every_drive_takes_part_where_there_are_no_others() -> None:
    assert placed([drive(n) for n in range(6)], 6, 17) == set(range(6))


def test_one_zone_stays_in_reserve_unless_one_cleans() -> None:
    facts = [drive(0, 1), drive(1, 1)]
    shortage = refused(facts, 2, 0)
    assert str(shortage) == (
        "2 different drives are needed, 0 can take a fragment; "
        "/drives/0: full but for the reserve of 1 zone; "
        "/drives/1: full but for the reserve of 1 zone"
    )
    assert placed(facts, 2, 0, cleaning=True) == {0, 1}
    assert refused([drive(0, 0), drive(1)], 2, 0, cleaning=True).refused == (("/drives/0", "full"),)


def test_two_drives_on_one_disk_count_once_unless_that_is_allowed() -> None:
    facts = [drive(0, 9, device=7), drive(1, 5, device=7), drive(2)]
    assert placed(facts, 2, 0) == {0, 2}
    assert refused(facts, 3, 0).refused == (("/drives/1", "on one disk with /drives/0"),)
    assert placed(facts, 3, 0, same_device=True) == {0, 1, 2}


def test_a_drive_that_cannot_take_part_does_not_stand_in_for_its_disk() -> None:
    facts = [drive(0, 9, device=7, state=DriveState.DRAIN), drive(1, 5, device=7), drive(2)]
    assert placed(facts, 2, 0) == {1, 2}


def test_states_are_obeyed() -> None:
    states = [DriveState.AVOID, DriveState.NORMAL, DriveState.PREFER, DriveState.DRAIN]
    facts = [drive(n, 10, state=state) for n, state in enumerate(states)]
    for turn in range(20):
        assert placed(facts, 1, turn) == {2}
        assert placed(facts, 2, turn) == {1, 2}
        assert placed(facts, 3, turn) == {0, 1, 2}
    shortage = refused(facts, 4, 0)
    assert (shortage.wanted, shortage.found) == (4, 3)
    assert shortage.refused == (("/drives/3", "is being drained"),)


def test_a_fragment_written_anew_keeps_away_from_its_siblings_and_their_disks() -> None:
    facts = [drive(0), drive(1), drive(2, 50, device=101), drive(3, 2)]
    taken = {identity(0), identity(1)}
    assert placed(facts, 1, 0, taken=taken) == {3}
    assert placed(facts, 1, 0, taken=taken, same_device=True) <= {2, 3}
    assert refused(facts, 2, 0, taken=taken).refused == (
        ("/drives/2", "on one disk with /drives/1"),
        ("/drives/0", "holds another fragment of the segment"),
        ("/drives/1", "holds another fragment of the segment"),
    )


@given(st.lists(st.integers(0, 10**6), max_size=9), st.integers(1, 6))
def test_segments_left_is_the_largest_that_fits(free: list[int], width: int) -> None:
    count = segments_left(free, width)
    assert sum(min(zones, count) for zones in free) >= width * count
    assert sum(min(zones, count + 1) for zones in free) < width * (count + 1)
