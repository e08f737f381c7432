"""Lookup counts against a plain Counter."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shmr.fuse.lookups import FULL, PAGE, LookupCounts

INODES = st.sampled_from([1, 2, PAGE - 1, PAGE, PAGE * 1000, 2**61 - 1])
STEPS = st.lists(st.tuples(INODES, st.sampled_from([1, 2, FULL, FULL + 40]), st.booleans()))


@given(STEPS)
def test_counts_are_those_of_a_counter(steps: list[tuple[int, int, bool]]) -> None:
    counts, model = LookupCounts(), Counter[int]()
    for inode, times, adds in steps:
        if adds:
            for _ in range(times):
                counts.add(inode)
            model[inode] += times
        else:
            dropped = min(times, model[inode])
            model[inode] -= dropped
            assert counts.drop(inode, dropped) == (dropped > 0 and model[inode] == 0)
        assert {number: counts[number] for number in model} == dict(model)
    assert counts.page_count == len({inode // PAGE for inode in model if model[inode]})


def test_forgetting_more_than_was_told_leaves_nothing() -> None:
    counts = LookupCounts()
    counts.add(7)
    assert counts.drop(7, 1000)
    assert counts[7] == 0
    assert not counts.drop(7, 1)
    assert counts.page_count == 0


def test_inodes_in_sequence_share_pages() -> None:
    counts = LookupCounts()
    for inode in range(100 * PAGE):
        counts.add(inode)
    assert counts.page_count == 100
