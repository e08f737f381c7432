"""What each archive drive is meant for: prefer, normal, avoid, drain.

It belongs to the filesystem and not to the configuration: a row like any other, so that a drain
that was begun is known wherever the drives go. A drive without a row is `normal`.
"""

from __future__ import annotations

from collections.abc import Collection

from shmr.catalog.catalog import Catalog
from shmr.core.placement import DriveState
from shmr.format.rows import Row, Table, encode_number

_PREFIX = b"drive "


def state_name(drive: bytes) -> bytes:
    """The name of the state row of a drive, by its id."""
    return _PREFIX + drive.hex().encode()


def state_row(drive: bytes, state: DriveState) -> Row:
    """The row that says so; `normal` needs none."""
    value = None if state is DriveState.NORMAL else encode_number(int(state))
    return Row(Table.STATE, state_name(drive), value)


def states(catalog: Catalog, drives: Collection[bytes]) -> dict[bytes, DriveState]:
    """What these drives are meant for. A number that this version does not know is `normal`."""
    return {drive: known_state(catalog.state(state_name(drive), 1)) for drive in drives}


def known_state(number: int) -> DriveState:
    """The state that a row's number stands for."""
    known = {int(state): state for state in DriveState}
    return known.get(number, DriveState.NORMAL)
