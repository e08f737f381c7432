"""Archive drives join their pool, and leave it: superblocks of a new generation, one after another.

The newest superblock that is found says who belongs to a pool. So the first one that is written
makes the change, and a crash behind it loses nothing: the next change writes the others too. Only
archive pools: what the workspace holds is on all of its members.
"""

from __future__ import annotations

from collections.abc import Iterable

from shmr.drive.seam import Drive
from shmr.errors import SetupError
from shmr.format.superblock import Superblock
from shmr.volume.membership import read_superblock, write_superblock


def newest_superblock(drives: Iterable[Drive]) -> Superblock | None:
    """The one that counts among the drives of a pool. Raises SetupError, DriveError."""
    blocks = [block for drive in drives if (block := read_superblock(drive)) is not None]
    return max(blocks, key=lambda block: block.generation, default=None)


def join(drive: Drive, drive_id: bytes, others: Iterable[Drive], clock_ns: int) -> None:
    """An empty drive becomes a member, under an id that was never used. Raises SetupError."""
    others = list(others)
    newest = newest_superblock(others)
    if newest is None:
        raise SetupError("no drive of the pool is there; connect one of them")
    members = (*newest.members, drive_id)
    block = newest._replace(
        drive=drive_id, generation=newest.generation + 1, members=members, created_ns=clock_ns
    )
    write_superblock(drive, block)
    _raise(others, block)


def leave(drive_id: bytes, drive: Drive | None, others: Iterable[Drive], clock_ns: int) -> None:
    """A drive is a member no more; `others` are. One that is there loses its superblock.

    Raises SetupError.
    """
    others = list(others)
    newest = newest_superblock(others)
    if newest is None:
        raise SetupError("it is the only drive of the pool that is there; connect another")
    if drive_id in newest.members:
        members = tuple(member for member in newest.members if member != drive_id)
        newest = newest._replace(
            generation=newest.generation + 1, members=members, created_ns=clock_ns
        )
    _raise(others, newest)
    if drive is not None:
        for name in drive.names():
            if name.startswith("superblock-"):
                drive.discard(name)


def _raise(drives: Iterable[Drive], newest: Superblock) -> None:
    """The superblocks of these drives become of the newest generation."""
    for drive in drives:
        block = read_superblock(drive)
        if block is not None and block.generation < newest.generation:
            write_superblock(drive, newest._replace(drive=block.drive))
