"""What the rules of a pool say about one file: the first that matches decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shmr.config.values import Rule
from shmr.policy.facts import FileFacts, PoolFacts
from shmr.policy.glob import matches
from shmr.units import NS_PER_S

DEFAULT_AGE_NS = 86_400 * NS_PER_S
DEFAULT_MIN_FREE = 0.5


@dataclass(frozen=True, slots=True)
class Decision:
    """Where the bytes that a file has in one pool belong.

    `to` is the pool to move them to; None: they stay. `rule` is what said so; None: no rule
    matched.
    """

    to: str | None = None
    rule: Rule | None = None


def decide(file: FileFacts, pool: PoolFacts, rules: Iterable[Rule], now_ns: int) -> Decision:
    """What `rules`, those of `pool`, say about what the file has there."""
    for rule in rules:
        if counts(rule, pool) and fits(rule, file, now_ns):
            return Decision(None if rule.keep else rule.pool, rule)
    return Decision()


def default_rules(pool: PoolFacts, pools: Iterable[PoolFacts]) -> tuple[Rule, ...]:
    """The rules of a pool for which none are given.

    While less than half of the workspace is free, files not written for a day go to the pool of
    the next priority. All other pools keep what they have.
    """
    behind = [other for other in pools if other.priority > pool.priority]
    if pool.priority != 0 or not behind:
        return ()
    following = min(behind, key=lambda other: other.priority)
    return (Rule(following.name, older_than_ns=DEFAULT_AGE_NS, min_free=DEFAULT_MIN_FREE),)


def needs_paths(rules: Iterable[Sequence[Rule] | None]) -> bool:
    """Does any rule of any pool ask for the paths of files? Finding them takes its time."""
    return bool(patterns(rules))


def patterns(rules: Iterable[Sequence[Rule] | None]) -> list[str]:
    """The patterns of paths in all rules, each once."""
    every = (glob for of_pool in rules for rule in of_pool or () for glob in rule.paths)
    return list(dict.fromkeys(every))


def fits(rule: Rule, file: FileFacts, now_ns: int) -> bool:
    """All conditions that are about the file. The cheap ones are asked first."""
    return (
        (rule.older_than_ns is None or now_ns - file.written_ns > rule.older_than_ns)
        and (rule.not_read_for_ns is None or now_ns - file.accessed_ns > rule.not_read_for_ns)
        and (rule.larger_than_bytes is None or file.size_bytes > rule.larger_than_bytes)
        and (rule.smaller_than_bytes is None or file.size_bytes < rule.smaller_than_bytes)
        and (
            not rule.paths
            or not file.matched.isdisjoint(rule.paths)
            or any(matches(path, glob) for glob in rule.paths for path in file.paths)
        )
    )


def counts(rule: Rule, pool: PoolFacts) -> bool:
    """Is so little free in the pool that the rule counts?"""
    return rule.min_free is None or pool.free_share < rule.min_free
