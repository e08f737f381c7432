"""Which of all files go where, oldest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from shmr.config.values import Rule
from shmr.policy.facts import FileFacts, PoolFacts
from shmr.policy.rules import decide, default_rules


@dataclass(frozen=True, slots=True)
class Choice:
    """`size_bytes` of a file are to go from pool `source` to pool `target`, because of `rule`."""

    file: FileFacts
    source: str
    target: str
    size_bytes: int
    rule: Rule


def choose(
    files: Iterable[FileFacts],
    pools: Iterable[PoolFacts],
    rules: Mapping[str, Sequence[Rule] | None],
    now_ns: int,
) -> list[Choice]:
    """What the rules of all pools move: oldest write first, then by inode, then by priority.

    `rules` by the pool's name; None or no entry: the default. What was chosen counts as moved for
    what comes after it, so a rule with `min_free` ends when enough is free. What arrives in a pool
    by one choice is not moved on by another, and whether it finds room there is not asked here.
    """
    now = {pool.name: pool for pool in pools}
    order = sorted(now.values(), key=lambda pool: pool.priority)
    given = {
        pool.name: default_rules(pool, order) if of_pool is None else tuple(of_pool)
        for pool in order
        for of_pool in (rules.get(pool.name),)
    }
    ruled = [pool.name for pool in order if given[pool.name]]
    chosen: list[Choice] = []
    for file in sorted(files, key=lambda file: (file.written_ns, file.inode)):
        for name in ruled:
            size_bytes = file.pool_bytes.get(name, 0)
            if size_bytes <= 0:
                continue
            decision = decide(file, now[name], given[name], now_ns)
            if decision.to is not None and decision.rule is not None and decision.to in now:
                chosen.append(Choice(file, name, decision.to, size_bytes, decision.rule))
                now[name] = _changed(now[name], -size_bytes)
                now[decision.to] = _changed(now[decision.to], size_bytes)
    return chosen


def _changed(pool: PoolFacts, more_bytes: int) -> PoolFacts:
    """The pool with so much more in it."""
    return replace(
        pool,
        free_bytes=pool.free_bytes - more_bytes,
        used_bytes=pool.used_bytes + more_bytes,
    )
