"""The rules of a pool: which of its files go to another pool, and which stay.

Rules are read pool by pool (`read_rules`), and then compared with the names of all pools
(`check_rules`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shmr.config.document import Problems, Value, below, describe, shown
from shmr.config.fields import FieldReader
from shmr.config.values import PoolConfig, Rule

_ACTIONS = ("to", "keep")
_KEYS = (
    "older_than",
    "not_read_for",
    "larger_than",
    "smaller_than",
    "path",
    "min_free",
    *_ACTIONS,
)
_PATTERN_MAX = 4096


def read_rules(reader: FieldReader, value: Value, place: str) -> tuple[Rule, ...]:
    """The rules in a list, which may be empty: then nothing of the pool moves by itself."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        reader.report(place, f"expected a list of rules, found {describe(value)}")
        return ()
    for index, item in enumerate(value[:-1]):
        if isinstance(item, Mapping) and set(item) <= set(_ACTIONS):
            reader.report(
                f"{place}[{index}]", "matches every file: the rules behind it are never reached"
            )
    return tuple(_read(reader, item, f"{place}[{index}]") for index, item in enumerate(value))


def _read(reader: FieldReader, value: Value, place: str) -> Rule:
    fields = reader.fields(value, place, _KEYS, required=())
    keep, to = "keep" in fields, "to" in fields
    if isinstance(value, Mapping) and keep == to:
        found = "found both" if keep else "found neither"
        reader.report(place, f"expected either to: POOL or keep: POOL, {found}")
    larger = reader.amount(fields, "larger_than", place)
    smaller = reader.amount(fields, "smaller_than", place)
    if larger is not None and smaller is not None and larger + 1 >= smaller:
        reader.report(place, "no file is larger and smaller than that: the rule matches nothing")
    min_free = reader.share(fields, "min_free", place)
    if keep and "min_free" in fields:
        reader.report(below(place, "min_free"), "has no meaning with keep; it ends a move")
    # The names are checked where those of all pools are known.
    pool = reader.name(fields, "keep" if keep else "to", place)
    return Rule(
        pool=pool,
        keep=keep,
        older_than_ns=reader.age(fields, "older_than", place),
        not_read_for_ns=reader.age(fields, "not_read_for", place),
        larger_than_bytes=larger,
        smaller_than_bytes=smaller,
        paths=_patterns(reader, fields["path"], below(place, "path")) if "path" in fields else (),
        min_free=min_free,
    )


def _patterns(reader: FieldReader, value: Value, place: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return _pattern(reader, value, place)
    items = reader.list_of(value, place, "pattern")
    return tuple(
        pattern
        for index, item in enumerate(items)
        for pattern in _pattern(reader, item, f"{place}[{index}]")
    )


def _pattern(reader: FieldReader, value: Value, place: str) -> tuple[str, ...]:
    """One pattern, without the slash it may begin with; nothing after a mistake."""
    if not isinstance(value, str) or not value.strip("/"):
        reader.report(place, f"expected a pattern such as photos/**, found {describe(value)}")
        return ()
    if len(value) > _PATTERN_MAX or "\0" in value:
        reader.report(place, f"not a pattern that a path can match: {shown(value)}")
        return ()
    pattern = value.removeprefix("/")
    parts = pattern.split("/")
    if pattern.endswith("/"):
        reader.report(
            place, f"files match, and no directories: write {shown(value + '**')} for all in it"
        )
    elif {"", ".", ".."} & set(parts):
        reader.report(place, f"no path has an empty part, . or .. in it: {shown(value)}")
    elif any("**" in part and part != "**" for part in parts):
        reader.report(place, f"** stands alone between slashes: {shown(value)}")
    else:
        return (pattern,)
    return ()


def check_rules(pools: Sequence[PoolConfig], problems: Problems) -> None:
    """Rules name pools that exist: another one to move to, their own to stay in."""
    names = {pool.name for pool in pools if pool.name}
    for pool_index, pool in enumerate(pools):
        for index, rule in enumerate(pool.rules or ()):
            if rule.pool:
                place = f"pools[{pool_index}].rules[{index}]"
                _check_pool(rule, pool, names, place, problems)


def _check_pool(
    rule: Rule, pool: PoolConfig, names: set[str], place: str, problems: Problems
) -> None:
    key = "keep" if rule.keep else "to"
    if rule.pool not in names:
        known = ", ".join(sorted(names))
        problems.add(below(place, key), f"no pool is called {rule.pool}; there are {known}")
    elif rule.keep and rule.pool != pool.name:
        problems.add(
            below(place, key),
            f"this rule is for what lies in {pool.name}: keep: {pool.name} keeps it there, "
            f"to: {rule.pool} moves it",
        )
    elif not rule.keep and rule.pool == pool.name:
        problems.add(below(place, key), f"is this very pool; write keep: {pool.name}")
