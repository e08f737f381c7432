"""Rules: a table of what each condition means, and what holds for any rules and any files."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.policy import (
    Choice,
    Decision,
    FileFacts,
    PoolFacts,
    Rule,
    choose,
    decide,
    default_rules,
    needs_paths,
)
from shmr.policy.glob import matches
from shmr.units import GIB, MIB, NS_PER_S

DAY_NS = 86_400 * NS_PER_S
NOW_NS = 1_800_000_000 * NS_PER_S

FILE = FileFacts(
    inode=7,
    size_bytes=5 * MIB,
    written_ns=NOW_NS - 40 * DAY_NS,
    accessed_ns=NOW_NS - 3 * DAY_NS,
    pool_bytes={"ssd": 5 * MIB},
    paths=("photos/2019/rome.raw", "best/rome.raw"),
)
SSD = PoolFacts("ssd", 0, total_bytes=10 * GIB, free_bytes=2 * GIB, used_bytes=8 * GIB)
SMR = PoolFacts("smr", 10, total_bytes=90 * GIB, free_bytes=80 * GIB, used_bytes=10 * GIB)
COLD = PoolFacts("cold", 20, total_bytes=900 * GIB, free_bytes=900 * GIB, used_bytes=0)
POOLS = (SSD, SMR, COLD)


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        (Rule("smr"), True),
        (Rule("smr", older_than_ns=39 * DAY_NS), True),
        (Rule("smr", older_than_ns=40 * DAY_NS), False),
        (Rule("smr", not_read_for_ns=2 * DAY_NS), True),
        (Rule("smr", not_read_for_ns=3 * DAY_NS), False),
        (Rule("smr", larger_than_bytes=5 * MIB - 1), True),
        (Rule("smr", larger_than_bytes=5 * MIB), False),
        (Rule("smr", smaller_than_bytes=5 * MIB + 1), True),
        (Rule("smr", smaller_than_bytes=5 * MIB), False),
        (Rule("smr", paths=("photos/**",)), True),
        (Rule("smr", paths=("best/*",)), True),
        (Rule("smr", paths=("music/**", "**/*.raw")), True),
        (Rule("smr", paths=("*.raw",)), False),
        (Rule("smr", min_free=0.21), True),
        (Rule("smr", min_free=0.2), False),
        (Rule("smr", min_free=0.1), False),
        (Rule("smr", older_than_ns=DAY_NS, larger_than_bytes=MIB, paths=("best/*",)), True),
        (Rule("smr", older_than_ns=DAY_NS, larger_than_bytes=MIB, paths=("worst/*",)), False),
    ],
)
def test_all_conditions_of_a_rule_have_to_hold(rule: Rule, holds: bool) -> None:
    expected = Decision("smr", rule) if holds else Decision()
    assert decide(FILE, SSD, [rule], NOW_NS) == expected


def test_a_pin_keeps_what_a_later_rule_would_move() -> None:
    pin, move = Rule("ssd", keep=True, paths=("photos/**",)), Rule("smr")
    assert decide(FILE, SSD, [pin, move], NOW_NS) == Decision(None, pin)
    other = replace(FILE, paths=("music/a",))
    assert decide(other, SSD, [pin, move], NOW_NS) == Decision("smr", move)


def test_a_time_that_is_still_to_come_is_not_long_ago() -> None:
    file = replace(FILE, written_ns=NOW_NS + DAY_NS, accessed_ns=NOW_NS + DAY_NS)
    rules = [Rule("smr", older_than_ns=0), Rule("smr", not_read_for_ns=0)]
    assert decide(file, SSD, rules, NOW_NS) == Decision()


def test_a_pool_without_any_room_is_full() -> None:
    assert replace(SSD, total_bytes=0, free_bytes=0).free_share == 0.0


def test_the_default_empties_the_workspace_to_the_next_pool() -> None:
    (rule,) = default_rules(SSD, POOLS)
    assert rule == Rule("smr", older_than_ns=DAY_NS, min_free=0.5)
    assert default_rules(SMR, POOLS) == default_rules(COLD, POOLS) == ()
    assert default_rules(SSD, [SSD]) == ()


def test_paths_are_needed_only_where_a_rule_asks_for_them() -> None:
    assert not needs_paths([None, (), (Rule("smr"),)])
    assert needs_paths([None, (Rule("smr"), Rule("ssd", keep=True, paths=("a",)))])


# -- choosing among all files


def file(inode: int, *, age_days: int, size_bytes: int = GIB, pool: str = "ssd") -> FileFacts:
    written_ns = NOW_NS - age_days * DAY_NS
    return FileFacts(inode, size_bytes, written_ns, written_ns, {pool: size_bytes})


def test_by_default_the_oldest_go_until_half_is_free() -> None:
    files = [file(inode, age_days=inode) for inode in range(9)]
    chosen = choose(files, POOLS, {}, NOW_NS)
    # Three files of 1 GiB bring 2 GiB free of 10 to 5.
    assert [choice.file.inode for choice in chosen] == [8, 7, 6]
    assert {(choice.source, choice.target) for choice in chosen} == {("ssd", "smr")}


def test_by_default_nothing_moves_from_a_workspace_that_is_half_empty() -> None:
    pools = (replace(SSD, free_bytes=5 * GIB, used_bytes=5 * GIB), SMR)
    assert choose([file(1, age_days=99)], pools, {}, NOW_NS) == []


def test_by_default_what_was_written_today_stays_however_full_it_is() -> None:
    pools = (replace(SSD, free_bytes=0), SMR)
    assert choose([file(1, age_days=0), file(2, age_days=1)], pools, {}, NOW_NS) == []


def test_an_empty_list_of_rules_moves_nothing() -> None:
    assert choose([file(1, age_days=99)], POOLS, {"ssd": ()}, NOW_NS) == []


def test_files_of_one_age_go_in_the_order_of_their_inodes() -> None:
    files = [file(inode, age_days=9) for inode in (3, 1, 2)]
    chosen = choose(files, POOLS, {"ssd": [Rule("smr")]}, NOW_NS)
    assert [choice.file.inode for choice in chosen] == [1, 2, 3]


def test_each_part_of_a_file_follows_the_rules_of_its_pool() -> None:
    parts = replace(file(1, age_days=9), pool_bytes={"ssd": 3, "smr": 5, "cold": 0})
    rules = {"ssd": [Rule("smr")], "smr": [Rule("cold")], "cold": [Rule("ssd")]}
    first, second = choose([parts], POOLS, rules, NOW_NS)
    assert (first.source, first.target, first.size_bytes) == ("ssd", "smr", 3)
    assert (second.source, second.target, second.size_bytes) == ("smr", "cold", 5)


def test_files_come_back_to_a_faster_pool_if_a_rule_says_so() -> None:
    back = Rule("ssd", paths=("hot/**",))
    hot = replace(file(1, age_days=1, pool="smr"), paths=("hot/a",))
    cold = replace(file(2, age_days=1, pool="smr"), paths=("b",))
    assert choose([hot, cold], POOLS, {"smr": [back]}, NOW_NS) == [
        Choice(hot, "smr", "ssd", GIB, back)
    ]


# -- what holds for any rules and files

names = st.sampled_from(["ssd", "smr", "cold"])
globs = st.sampled_from(["a", "a/*", "a/**", "**", "**/b", "*", "b?", "[ab]/x"])
paths = st.sampled_from(["a", "b", "a/b", "a/x/b", "b/x", "bb"])
ages = st.none() | st.integers(0, 5)


@st.composite
def a_rule(draw: st.DrawFn, pool: str) -> Rule:
    age, idle = draw(ages), draw(ages)
    keep = draw(st.booleans())
    others = [name for name in ("ssd", "smr", "cold") if name != pool]
    return Rule(
        pool if keep else draw(st.sampled_from(others)),
        keep=keep,
        older_than_ns=None if age is None else age * DAY_NS,
        not_read_for_ns=None if idle is None else idle * DAY_NS,
        larger_than_bytes=draw(ages),
        smaller_than_bytes=draw(ages),
        paths=tuple(draw(st.lists(globs, max_size=2))),
        min_free=None if keep else draw(st.none() | st.floats(0.01, 0.99)),
    )


@st.composite
def a_file(draw: st.DrawFn, inode: int) -> FileFacts:
    parts = draw(st.dictionaries(names, st.integers(0, 5), max_size=3))
    return FileFacts(
        inode=inode,
        size_bytes=sum(parts.values()),
        written_ns=NOW_NS - draw(st.integers(-1, 6)) * DAY_NS,
        accessed_ns=NOW_NS - draw(st.integers(-1, 6)) * DAY_NS,
        pool_bytes=parts,
        paths=tuple(draw(st.lists(paths, max_size=2))),
    )


@st.composite
def a_case(
    draw: st.DrawFn,
) -> tuple[list[FileFacts], tuple[PoolFacts, ...], dict[str, list[Rule]]]:
    files = [draw(a_file(inode)) for inode in range(draw(st.integers(0, 8)))]
    pools = []
    for priority, name in enumerate(("ssd", "smr", "cold")):
        used = sum(f.pool_bytes.get(name, 0) for f in files)
        total = used + draw(st.integers(0, 40))
        pools.append(PoolFacts(name, priority, total, total - used, used))
    rules = {name: draw(st.lists(a_rule(name), max_size=4)) for name in ("ssd", "smr", "cold")}
    return files, tuple(pools), rules


@given(a_case())
def test_a_choice_is_what_its_file_and_its_pool_decide_at_its_turn(
    case: tuple[list[FileFacts], tuple[PoolFacts, ...], dict[str, list[Rule]]],
) -> None:
    """Replayed one by one, with a decision written as the documentation says it."""
    files, pools, rules = case
    state = {pool.name: pool for pool in pools}
    expected = []
    for one in sorted(files, key=lambda f: (f.written_ns, f.inode)):
        for name in ("ssd", "smr", "cold"):
            size = one.pool_bytes.get(name, 0)
            rule = next((r for r in rules[name] if holds(r, one, state[name])), None)
            if size and rule is not None and not rule.keep:
                expected.append(Choice(one, name, rule.pool, size, rule))
                for changed, more in ((name, -size), (rule.pool, size)):
                    old = state[changed]
                    state[changed] = replace(
                        old, free_bytes=old.free_bytes - more, used_bytes=old.used_bytes + more
                    )
    assert choose(files, pools, rules, NOW_NS) == expected


def holds(rule: Rule, one: FileFacts, pool: PoolFacts) -> bool:
    found = []
    if rule.min_free is not None:
        free = pool.free_bytes / pool.total_bytes if pool.total_bytes > 0 else 0.0
        found.append(free < rule.min_free)
    if rule.older_than_ns is not None:
        found.append(one.written_ns < NOW_NS - rule.older_than_ns)
    if rule.not_read_for_ns is not None:
        found.append(one.accessed_ns < NOW_NS - rule.not_read_for_ns)
    if rule.larger_than_bytes is not None:
        found.append(one.size_bytes > rule.larger_than_bytes)
    if rule.smaller_than_bytes is not None:
        found.append(one.size_bytes < rule.smaller_than_bytes)
    if rule.paths:
        found.append(any(matches(p, g) for p in one.paths for g in rule.paths))
    return all(found)


@given(a_case(), st.randoms(use_true_random=False))
def test_the_order_in_which_files_are_told_does_not_matter(
    case: tuple[list[FileFacts], tuple[PoolFacts, ...], dict[str, list[Rule]]],
    random: Random,
) -> None:
    files, pools, rules = case
    shuffled = list(files)
    random.shuffle(shuffled)
    assert choose(shuffled, pools, rules, NOW_NS) == choose(files, pools, rules, NOW_NS)


# -- patterns


@pytest.mark.parametrize(
    ("pattern", "path", "matched"),
    [
        ("a", "a", True),
        ("a", "b/a", False),
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", False),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("**", "a", True),
        ("**/a", "a", True),
        ("**/a", "x/y/a", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/x/y/c", False),
        ("**/x/**/b", "x/x/b", True),
        ("**/x/**", "a/x", False),
        ("*.raw", "Rome.RAW", False),
        ("*.raw", ".raw", True),
        ("[!a]?", "bc", True),
        ("a.c", "abc", False),
        ("\udcff*", "\udcffx", True),
    ],
)
def test_patterns(pattern: str, path: str, matched: bool) -> None:
    assert matches(path, pattern) is matched


parts = st.sampled_from(["a", "b", "ab", "*", "?", "a*", "[ab]", "**"])


@given(st.lists(parts, min_size=1, max_size=6), st.text("ab/", max_size=12))
def test_a_pattern_matches_what_its_regular_expression_does(pattern: list[str], text: str) -> None:
    path = re.sub("/+", "/", text).strip("/") or "a"
    assert matches(path, "/".join(pattern)) == bool(re.fullmatch(as_regex(pattern), path))


def as_regex(pattern: list[str]) -> str:
    """`**` and the slash behind it are any number of names, each with its slash."""
    pieces = []
    whole = [*pattern, "*"] if pattern[-1] == "**" else pattern
    for index, part in enumerate(whole):
        if part == "**":
            pieces.append("(?:[^/]+/)*")
        else:
            inner = part.replace("*", "[^/]*").replace("?", "[^/]")
            pieces.append(inner)
            if index + 1 < len(whole):
                pieces.append("/")
    return "".join(pieces)


def test_a_pattern_of_many_stars_ends_soon() -> None:
    path = "/".join("a" * 30 for _ in range(60))
    assert not matches(path, "**/a*/" * 20 + "*a*a*a*a*a*a*a*b")
