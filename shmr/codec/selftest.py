"""Whether a scheme survives what it promises, on this machine, with this library.

Tried before a pool relies on a scheme: k data units, their parity, and then every way to be left
with k units of k+m, or, where those are too many, the worst ones and a fixed sample. Each must give
all the others back. It is not enough that a code ought to: isa_l_rs_vand decodes 4+2 and cannot
decode some losses of 6+5.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations
from math import comb

from shmr.codec.codec import Codec, CodecError
from shmr.errors import SetupError
from shmr.format.fragment import BLOCK, Code

ALL_MAX = 5000
"""Where there are no more losses than this, all are tried: 8+3 has 165, 10+4 1001, 16+4 4845."""
SAMPLE = 2048
"""How many are tried where there are more."""


def self_test(k: int, m: int, code: str | None) -> int:
    """Try the scheme; how many losses were tried. Raises SetupError with the reason it fails.

    `code` is the name of a code, None for single and mirror.
    """
    codec = Codec(k, m, known_code(code))
    rng = random.Random(k * 1000 + m)
    data = [rng.randbytes(BLOCK) for _ in range(k)]
    name = f"{code or 'copies'} {k}+{m}"
    try:
        stripe = [*data, *codec.encode(data)]
        tried = 0
        for lost in losses(k, m):
            left = {index: unit for index, unit in enumerate(stripe) if index not in lost}
            found = codec.decode(left, lost)
            if any(found[index] != stripe[index] for index in lost):
                raise SetupError(f"{name}: the loss of units {list(lost)} decodes to wrong bytes")
            tried += 1
    except CodecError as error:
        raise SetupError(f"{name}: {error}") from error
    return tried


def known_code(name: str | None) -> Code:
    """The code called `name`; None: copies. Raises SetupError with the reason for any other."""
    if name is None:
        return Code.COPIES
    codes = {code.name.lower(): code for code in Code if code is not Code.COPIES}
    if name == "isa_l_rs_vand":
        raise SetupError(
            "isa_l_rs_vand cannot decode every loss of m units (6+5 and 22+4, for example): "
            "use isa_l_rs_cauchy"
        )
    if name not in codes:
        raise SetupError(f"{name} is no code that shmr knows: use {' or '.join(codes)}")
    return codes[name]


def losses(k: int, m: int) -> Iterator[tuple[int, ...]]:
    """Ways to lose m of k+m units, each once: all of them, or a choice when they are many.

    Losses of fewer are among these: decoding never uses more than k units. The choice has, for
    every unit, losses with it; runs of neighbours, all around; the most data that can be lost.
    """
    width = k + m
    if comb(width, m) <= ALL_MAX:
        yield from combinations(range(width), m)
        return
    rng = random.Random(k * 1000 + m)
    seen: set[tuple[int, ...]] = set()

    def candidates() -> Iterator[list[int]]:
        for start in range(width):
            yield [(start + step) % width for step in range(m)]
        for _ in range(SAMPLE // 4):
            if m <= k:
                yield rng.sample(range(k), m)
            else:
                yield [*range(k), *rng.sample(range(k, width), m - k)]
        while True:
            yield rng.sample(range(width), m)

    for candidate in candidates():
        lost = tuple(sorted(candidate))
        if lost not in seen:
            seen.add(lost)
            yield lost
        if len(seen) == SAMPLE:
            return
