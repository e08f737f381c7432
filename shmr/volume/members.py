"""Archive drives join their pool, and leave it: superblocks of a new generation, one after another.

The newest superblock that is found says who belongs to a pool. So the first one that is written
makes the change, and a crash behind it loses nothing: the next change writes the others too. What
the journal remembers (`known_pools`) counts instead where it is newer. Only archive pools: what the
workspace holds is on all of its members.
"""

from __future__ import annotations

from collections.abc import Iterable

from shmr.drive.seam import Drive
from shmr.errors import SetupError
from shmr.format import superblock
from shmr.format.superblock import Superblock
from shmr.volume.known_pools import KnownPool
from shmr.volume.membership import read_superblock, write_superblock


def newest_superblock(drives: Iterable[Drive]) -> Superblock | None:
    """The one that counts among the drives of a pool. Raises SetupError, DriveError."""
    blocks = [block for drive in drives if (block := read_superblock(drive)) is not None]
    return max(blocks, key=lambda block: block.generation, default=None)


def begin(
    drive: Drive, drive_id: bytes, pool: bytes, pool_name: str, like: Superblock, clock_ns: int
) -> KnownPool:
    """An empty drive is the first of a new pool, in the filesystem that `like` is of.

    `pool` and `drive_id` are ids that were never used.
    """
    block = like._replace(
        pool=pool,
        pool_name=pool_name.encode(),
        drive=drive_id,
        generation=1,
        compat=superblock.COMPAT,
        ro_compat=superblock.RO_COMPAT,
        incompat=superblock.INCOMPAT,
        created_ns=clock_ns,
        members=(drive_id,),
    )
    write_superblock(drive, block)
    return _known(block)


def join(
    drive: Drive,
    drive_id: bytes,
    others: Iterable[Drive],
    clock_ns: int,
    *,
    known: KnownPool | None = None,
) -> KnownPool:
    """A drive becomes a member. Raises SetupError.

    An empty one under an id that was never used; one that had left the pool under its own.
    """
    others = list(others)
    newest = _newest(others, known)
    if newest is None:
        raise SetupError("no drive of the pool is there; connect one of them")
    members = (*(member for member in newest.members if member != drive_id), drive_id)
    block = newest._replace(
        drive=drive_id, generation=newest.generation + 1, members=members, created_ns=clock_ns
    )
    write_superblock(drive, block)
    _raise(others, block)
    return _known(block)


def leave(
    drive_id: bytes,
    drive: Drive | None,
    others: Iterable[Drive],
    clock_ns: int,
    *,
    known: KnownPool | None = None,
) -> KnownPool:
    """A drive is a member no more; `others` are. One that is there loses its superblock.

    Raises SetupError.
    """
    others = list(others)
    newest = _newest(others, known)
    if newest is None:
        raise SetupError("it is the only drive of the pool that is there; connect another")
    if drive_id in newest.members:
        members = tuple(member for member in newest.members if member != drive_id)
        newest = newest._replace(
            generation=newest.generation + 1, members=members, created_ns=clock_ns
        )
    _raise(others, newest)
    if drive is not None:
        end(drive)
    return _known(newest)


def end(drive: Drive) -> None:
    """The only member of a pool in which nothing is leaves it: the pool is no more."""
    for name in drive.names():
        if name.startswith("superblock-"):
            drive.discard(name)


def _newest(drives: Iterable[Drive], known: KnownPool | None) -> Superblock | None:
    """The superblock that counts, as of what is remembered where that is newer."""
    block = newest_superblock(drives)
    if block is None or known is None or known.generation < block.generation:
        return block
    return block._replace(generation=known.generation, members=known.members)


def _known(block: Superblock) -> KnownPool:
    name = block.pool_name.decode(errors="replace")
    return KnownPool(block.pool, name, block.generation, block.members)


def _raise(drives: Iterable[Drive], newest: Superblock) -> None:
    """The superblocks of these drives become of the newest generation."""
    for drive in drives:
        block = read_superblock(drive)
        if block is not None and block.generation < newest.generation:
            write_superblock(drive, newest._replace(drive=block.drive))
