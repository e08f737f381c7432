"""Fragments that reads found damaged: rows like any other, for whoever mends them, and people.

What reading finds waits in memory, unit by unit (`shmr.log.findings`). Here it is kept fragment by
fragment, because that is how it is mended, and outlives the process. A row goes when its fragment
is no longer the one that the catalog means. There are few of them at most: a scrub, which looks at
everything, finds the rest.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shmr.catalog.catalog import Catalog
from shmr.errors import IntegrityError
from shmr.format.archived import Placed
from shmr.format.rows import Row, Table, decode_number, encode_number
from shmr.volume.context import Context, Need

logger = logging.getLogger(__name__)

PREFIX = b"damage "
DAMAGED_MAX = 4096
"""Fragments that are remembered."""


class DamagedFragment(NamedTuple):
    """A fragment, by what the catalog knows of it."""

    drive: bytes
    segment: int
    fragment: int
    generation: int

    def row(self, units: int) -> Row:
        """The row that says of how many units it is known; none of none."""
        numbers = b"%d %d %d" % self[1:]
        name = PREFIX + self.drive.hex().encode() + b" " + numbers
        return Row(Table.STATE, name, encode_number(units) if units else None)


def damaged(states: Iterable[tuple[bytes, int]]) -> dict[DamagedFragment, int]:
    """Units that one process found damaged at most, out of the state rows that begin with PREFIX.

    Raises IntegrityError.
    """
    found = {}
    for name, units in states:
        words = name.removeprefix(PREFIX).split(b" ")
        try:
            drive, numbers = bytes.fromhex(words[0].decode()), [int(word) for word in words[1:]]
            found[DamagedFragment(drive, *numbers)] = units
        except (ValueError, TypeError):
            raise IntegrityError(f"state row {name!r}: no fragment is meant by it") from None
    return found


def damaged_in(catalog: Catalog) -> dict[DamagedFragment, int]:
    """`damaged`, of a volume's catalog. Raises IntegrityError."""
    rows = catalog.scan(Table.STATE, PREFIX, PREFIX)
    return damaged((name, decode_number(value)) for name, value in rows)


def mended_rows(catalog: Catalog, drive: bytes) -> list[Row]:
    """Rows that say no longer that anything is damaged on a drive."""
    return [one.row(0) for one in damaged_in(catalog) if one.drive == drive]


def note_damage(context: Context) -> None:
    """Remember what was found since the volume was opened, where anything may be written."""
    if context.read_only is not None or context.allowed_from > Need.DELETE:
        return
    catalog = context.catalog
    try:
        known = damaged_in(catalog)
    except IntegrityError as error:
        logger.error("%s", error)
        return
    found = Counter(DamagedFragment(*one[:4]) for one in context.gather.findings.all())
    rows = [one.row(0) for one in known if not _is_meant(catalog, one)]
    room = DAMAGED_MAX - len(known)
    for one, units in found.items():
        if units <= known.get(one, 0) or not _is_meant(catalog, one):
            continue
        room -= one not in known
        if one in known or room >= 0:
            rows.append(one.row(units))
    for some in _slices(rows):
        context.apply(some)


def _is_meant(catalog: Catalog, one: DamagedFragment) -> bool:
    """Is it a fragment that is read, and was not replaced or retired?"""
    archived = catalog.archived(one.segment)
    if archived is None or one.fragment >= len(archived.fragments):
        return False
    return archived.fragments[one.fragment] == Placed(one.drive, one.generation)


def _slices(rows: list[Row], size: int = 1024) -> Iterator[list[Row]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
