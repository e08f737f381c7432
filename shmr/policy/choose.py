"""Which of all files go where, oldest first.

In two steps, so that a million files need not be in memory: each file is looked at by itself and
becomes candidates, if any rule could move it; candidates in their order are then decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from shmr.config.values import Rule
from shmr.policy.facts import FileFacts, PoolFacts
from shmr.policy.rules import counts, default_rules, fits


@dataclass(frozen=True, slots=True)
class Choice:
    """`size_bytes` of a file are to go from pool `source` to pool `target`, because of `rule`."""

    file: FileFacts
    source: str
    target: str
    size_bytes: int
    rule: Rule


class Candidate(NamedTuple):
    """What a file has in one pool, if rules could move it. Their order is that of deciding.

    `pool` counts the pools that have rules, by priority; bit i of `rules` stands for the pool's
    rule i, which holds if `min_free` does.
    """

    written_ns: int
    inode: int
    pool: int
    size_bytes: int
    rules: int


class Verdict(NamedTuple):
    """Where a candidate goes, from where, and why."""

    source: str
    target: str
    rule: Rule


class Chooser:
    """Decides for all files of some pools.

    `rules` by the pool's name; None or no entry: the default. What was chosen counts as moved for
    what comes after it, so a rule with `min_free` ends when enough is free. What arrives in a pool
    by one choice is not moved on by another, and whether it finds room there is not asked here.
    """

    def __init__(
        self,
        pools: Iterable[PoolFacts],
        rules: Mapping[str, Sequence[Rule] | None],
        now_ns: int,
    ) -> None:
        self._now = {pool.name: pool for pool in pools}
        self._now_ns = now_ns
        order = sorted(self._now.values(), key=lambda pool: pool.priority)
        given = {
            pool.name: default_rules(pool, order) if of_pool is None else tuple(of_pool)
            for pool in order
            for of_pool in (rules.get(pool.name),)
        }
        self._ruled = [(name, of_pool) for name, of_pool in given.items() if of_pool]
        self.rules_max = max((len(of_pool) for _, of_pool in self._ruled), default=0)
        """The bits of `Candidate.rules`."""

    def candidates(self, file: FileFacts) -> Iterator[Candidate]:
        """In any order of files."""
        for index, (name, rules) in enumerate(self._ruled):
            size_bytes = file.pool_bytes.get(name, 0)
            if size_bytes <= 0:
                continue
            found = 0
            for number, rule in enumerate(rules):
                if fits(rule, file, self._now_ns):
                    found |= 1 << number
                    if rule.min_free is None:
                        # It decides, whatever comes behind it.
                        break
            if found:
                yield Candidate(file.written_ns, file.inode, index, size_bytes, found)

    def decide(self, candidate: Candidate) -> Verdict | None:
        """Candidates in their order, each once. None: it stays."""
        name, rules = self._ruled[candidate.pool]
        source = self._now[name]
        for number, rule in enumerate(rules):
            if candidate.rules >> number & 1 and counts(rule, source):
                break
        else:
            return None
        if rule.keep or rule.pool not in self._now:
            return None
        self._now[name] = _changed(source, -candidate.size_bytes)
        self._now[rule.pool] = _changed(self._now[rule.pool], candidate.size_bytes)
        return Verdict(name, rule.pool, rule)


def choose(
    files: Iterable[FileFacts],
    pools: Iterable[PoolFacts],
    rules: Mapping[str, Sequence[Rule] | None],
    now_ns: int,
) -> list[Choice]:
    """What the rules of all pools move: oldest write first, then by inode, then by priority.

    As `Chooser` does, for as many files as may be in memory.
    """
    chooser = Chooser(pools, rules, now_ns)
    found = [(candidate, file) for file in files for candidate in chooser.candidates(file)]
    found.sort(key=lambda one: one[0])
    chosen: list[Choice] = []
    for candidate, file in found:
        verdict = chooser.decide(candidate)
        if verdict is not None:
            source, target, rule = verdict
            chosen.append(Choice(file, source, target, candidate.size_bytes, rule))
    return chosen


def _changed(pool: PoolFacts, more_bytes: int) -> PoolFacts:
    """The pool with so much more in it."""
    return replace(
        pool,
        free_bytes=pool.free_bytes - more_bytes,
        used_bytes=pool.used_bytes + more_bytes,
    )
