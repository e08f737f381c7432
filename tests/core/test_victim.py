"""Victims: what is worth cleaning, no more of it than needed, and never more than there is room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.core.victim import SegmentUse, choose, rest_wins, to_clean, winning

SIZE = 1000
NEWEST = 100


@st.composite
def pools(draw: st.DrawFn) -> list[SegmentUse]:
    lives = draw(st.lists(st.integers(0, SIZE), max_size=NEWEST))
    return [SegmentUse(number, SIZE, live) for number, live in enumerate(lives, 1)]


def cleaned(
    uses: list[SegmentUse],
    *,
    wanted: int = 10**9,
    room: int = 10**9,
    at_least: float = 0.0,
    fill: int = SIZE,
) -> list[SegmentUse]:
    numbers = to_clean(
        uses,
        newest=NEWEST,
        dead_share_min=at_least,
        wanted_bytes=wanted,
        room_bytes=room,
        fill_bytes=fill,
    )
    assert len(set(numbers)) == len(numbers)
    by_number = {use.number: use for use in uses}
    return [by_number[number] for number in numbers]


def live_in(uses: list[SegmentUse]) -> int:
    return sum(use.live_bytes for use in uses)


def dead_in(uses: list[SegmentUse]) -> int:
    return sum(use.size_bytes - use.live_bytes for use in uses)


@given(pools(), st.floats(0.0, 1.0))
def test_only_segments_with_dead_and_live_bytes_are_victims(
    uses: list[SegmentUse], at_least: float
) -> None:
    expected = {
        use.number
        for use in uses
        if 0 < use.live_bytes < use.size_bytes and use.dead_share >= at_least
    }
    assert {use.number for use in cleaned(uses, at_least=at_least)} == expected


@given(pools(), st.integers(1, 20 * SIZE))
def test_what_is_wanted_is_won_where_it_can_be_and_with_whole_new_segments(
    uses: list[SegmentUse], wanted: int
) -> None:
    found = cleaned(uses, wanted=wanted)
    everything = cleaned(uses)
    if dead_in(everything) < wanted:
        assert found == everything
        return
    assert dead_in(found) >= wanted
    # Without the last it is too little: of dead bytes, or to fill the new segments.
    without = found[:-1]
    need = next(n for n in range(1, len(found) + 1) if dead_in(found[:n]) >= wanted)
    whole = -(-live_in(found[:need]) // SIZE) * SIZE
    assert dead_in(without) < wanted or live_in(without) < whole


@given(pools(), st.integers(0, 10 * SIZE))
def test_no_victim_is_begun_when_the_room_is_used_up(uses: list[SegmentUse], room: int) -> None:
    found = cleaned(uses, room=room)
    assert live_in(found[:-1]) < room or not found
    assert found == cleaned(uses)[: len(found)]


@given(pools(), st.integers(0, 10 * SIZE), st.integers(1, 10 * SIZE))
def test_where_new_segments_may_be_short_all_that_lives_fits_and_nothing_is_taken_in_vain(
    uses: list[SegmentUse], room: int, wanted: int
) -> None:
    found = cleaned(uses, room=room, wanted=wanted, fill=0)
    assert live_in(found) <= room
    assert not found or dead_in(found[:-1]) < wanted


@given(pools(), st.integers(1, 5 * SIZE))
def test_the_order_in_which_segments_are_named_does_not_matter(
    uses: list[SegmentUse], wanted: int
) -> None:
    assert cleaned(uses[::-1], wanted=wanted) == cleaned(uses, wanted=wanted)


@given(st.integers(1, SIZE - 1), st.integers(1, SIZE - 1))
def test_the_deader_and_older_goes_first(live: int, other: int) -> None:
    deader, fuller = sorted((live, other))
    worst, best = SegmentUse(2, SIZE, fuller), SegmentUse(1, SIZE, deader)
    assert cleaned([worst, best]) == [best, worst]
    old, new = SegmentUse(1, SIZE, live), SegmentUse(2, SIZE, live)
    assert cleaned([new, old]) == [old, new]


def test_nothing_wanted_or_no_room_is_nothing_to_clean() -> None:
    uses = [SegmentUse(1, SIZE, 500)]
    assert cleaned(uses, wanted=0) == []
    assert cleaned(uses, room=0) == []


@given(pools())
def test_the_workspace_s_victim_is_one_with_enough_dead(uses: list[SegmentUse]) -> None:
    found = choose(uses, newest=NEWEST, dead_share_min=0.3)
    able = {use.number for use in uses if use.live_bytes and use.dead_share >= 0.3}
    assert found in able if able else found is None


def zones(uses: list[SegmentUse], *, flush: bool) -> int:
    """How many zones it wins to write what lives in these: full segments, or all of it."""
    whole, rest = divmod(live_in(uses), SIZE)
    emptied = max(n for n in range(len(uses) + 1) if live_in(uses[:n]) <= whole * SIZE)
    everything = len(uses) - whole - bool(rest)
    return everything if flush else max(emptied - whole, everything)


@given(pools(), st.booleans())
def test_victims_together_win_a_zone_and_all_that_do_are_taken(
    uses: list[SegmentUse], flush: bool
) -> None:
    uses = [use for use in uses if use.live_bytes]
    numbers = winning(uses, fill_bytes=SIZE, room_bytes=10**9, flush=flush)
    assert numbers == [use.number for use in uses[: len(numbers)]]
    assert not numbers or zones(uses[: len(numbers)], flush=flush) > 0
    for count in range(len(numbers) + 1, len(uses) + 1):
        assert zones(uses[:count], flush=flush) <= 0


@given(pools())
def test_what_does_not_fill_a_segment_is_written_only_where_nothing_else_wins(
    uses: list[SegmentUse],
) -> None:
    lives = [use.live_bytes for use in uses if use.live_bytes]
    whole, rest = divmod(sum(lives), SIZE)
    if rest_wins(lives, SIZE):
        assert len(lives) > whole + bool(rest)
        assert not any(sum(lives[:n]) <= whole * SIZE for n in range(whole + 1, len(lives) + 1))


@given(pools(), st.integers(1, 10 * SIZE))
def test_where_room_is_short_it_is_enough_that_the_last_has_less_in_it(
    uses: list[SegmentUse], room: int
) -> None:
    found = winning(uses, fill_bytes=SIZE, room_bytes=room)
    if live_in(uses) >= room and len(uses) > 1:
        assert len(found) == len(uses)


@pytest.mark.parametrize(
    ("lives", "won"),
    [
        ([], 0),
        ([10], 0),  # waits: nothing is won by a segment for a segment
        ([400, 500], 2),
        ([600, 600], 0),
        ([700, 700, 700], 0),  # two are written, the rest stays in the third
        ([700, 700, 700, 700], 4),  # three are written
        ([100, 900, 50, 700], 4),  # one is written, and three are emptied
        ([100, 100, 100], 3),
    ],
)
def test_zones_count_not_bytes(lives: list[int], won: int) -> None:
    uses = [SegmentUse(number, SIZE, live) for number, live in enumerate(lives, 1)]
    found = winning(uses, fill_bytes=SIZE, room_bytes=10**9)
    assert len(found) == won, found
