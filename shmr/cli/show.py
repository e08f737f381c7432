"""How values are shown: tables whose columns are aligned, ages, JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shmr.units import NS_PER_S

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_GAP = "  "
_AGES = ((2 * 86_400, 86_400, "d"), (2 * 3600, 3600, "h"), (120, 60, "min"), (0, 1, "s"))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows under their heads. A head that begins with `>` is for a column aligned to the right."""
    right = [head.startswith(">") for head in heads]
    lines = [[head.removeprefix(">") for head in heads], *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    shown = []
    for line in lines:
        cells = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=True)
        ]
        shown.append(_GAP.join(cells).rstrip())
    return "\n".join(shown)


def age(age_ns: int) -> str:
    """How long ago, in the largest unit of which there are two: "3 d", "90 min", "0 s"."""
    seconds = max(0, age_ns) // NS_PER_S
    for least, size, unit in _AGES:
        if seconds >= least:
            return f"{seconds // size} {unit}"
    raise AssertionError("no age is negative here")


def as_json(value: DataclassInstance) -> str:
    """A frozen value with the names of its fields."""
    return json.dumps(dataclasses.asdict(value), indent=2)
