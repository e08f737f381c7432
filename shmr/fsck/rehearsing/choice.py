"""Which drives a drill pretends to be gone: as many of each pool as it may lose.

Decided by a seed alone. Seeds that follow each other go through all choices of a pool, in an order
of their own for each time round, so that a drill every day meets them all.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Sequence
from itertools import combinations, islice
from math import comb
from typing import TypeVar

D = TypeVar("D", bound=Hashable)

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: multiples of it spread evenly."""
_CHOICES_MAX = 1 << 20
"""Of more choices than this some are never met."""


def chosen(
    drives: Sequence[D], spare: int, seed: int, *, gone: Collection[D] = ()
) -> tuple[D, ...]:
    """`spare` of the drives, those that are `gone` in fact among them; in the order of `drives`."""
    there = [drive for drive in drives if drive not in gone]
    wanted = min(max(0, spare - len(gone)), len(there))
    if not wanted:
        return ()
    count = min(comb(len(there), wanted), _CHOICES_MAX)
    turn, place = divmod(seed, count)
    order = list(range(count))
    random.Random(turn).shuffle(order)
    return next(islice(combinations(there, wanted), order[place], None))


def is_sampled(number: int, share: float, seed: int) -> bool:
    """Is this one of the `share` of all numbers that a drill with this seed looks at?

    Seeds that follow each other take different ones.
    """
    spread = (number * _GOLDEN) & _MASK
    start = int(seed * share * (1 << 64)) & _MASK
    return ((spread - start) & _MASK) < share * (1 << 64)
