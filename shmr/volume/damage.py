"""How much of each archive drive was found damaged, remembered for people.

What reading finds waits in memory for the scrubber (`shmr.log.findings`) and ends with the process.
The most that one process found on a drive is a row like any other, until the drive leaves or
nothing is on it any more.
"""

from __future__ import annotations

from collections import Counter

from shmr.catalog.catalog import Catalog
from shmr.format.rows import Row, Table, encode_number
from shmr.volume.context import Need
from shmr.volume.volume import Volume

PREFIX = b"damage "


def damage_name(drive: bytes) -> bytes:
    """The name of the state row of a drive, by its id."""
    return PREFIX + drive.hex().encode()


def damage_row(drive: bytes, units: int) -> Row:
    """The row that says so; none is needed for nothing."""
    return Row(Table.STATE, damage_name(drive), encode_number(units) if units else None)


def damage_of(catalog: Catalog, drive: bytes) -> int:
    """Units of a drive that were found damaged."""
    return catalog.state(damage_name(drive), 0)


def note_damage(volume: Volume) -> None:
    """Remember what was found since the volume was opened, where anything may be written."""
    context = volume.context
    if volume.read_only is not None or context.allowed_from > Need.DELETE:
        return
    found = Counter(finding.drive for finding in context.gather.findings.all())
    rows = [
        damage_row(drive, units)
        for drive, units in sorted(found.items())
        if units > damage_of(volume.catalog, drive)
    ]
    if rows:
        context.apply(rows)
