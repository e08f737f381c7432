"""Superblocks: does each drive say of itself what the others and the journal say of it?

Who a drive is was found out when the filesystem was opened; a drive without a superblock that can
be read is not among those that are looked at here, but missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError
from shmr.format import superblock
from shmr.format.superblock import Superblock
from shmr.fsck.findings import Finding, Kind, Where
from shmr.fsck.opening import View
from shmr.volume.known_pools import KnownPool, pools_in

ANEW = "write its superblock anew"
REBUILD = (
    "write what was on it anew into an empty directory in its place, with `shmr-fsck rebuild-drive "
    "CONFIG PATH`"
)
_NAME = re.compile(r"superblock-(\d{6,})")


def superblock_findings(view: View) -> Iterator[Finding]:
    """What is wrong with the superblocks. Raises IntegrityError for a damaged row."""
    known = pools_in(view.reading.states)
    yield from _workspace(view)
    for archive in view.archives:
        now = KnownPool(archive.pool, archive.name, archive.generation, archive.members)
        remembered = known.get(archive.pool)
        if remembered is not None and remembered.generation >= now.generation:
            now = remembered
        for drive_id, drive in archive.drives.items():
            if drive_id in now.members:
                yield from _one(view.filesystem, drive, drive_id, now)


def _workspace(view: View) -> Iterator[Finding]:
    """The drives of the workspace: all say the same of each other."""
    blocks = {drive.label: newest(drive) for drive in view.store.drives}
    there = [block for block, _ in blocks.values() if block is not None]
    if not there:
        return
    last = max(there, key=lambda block: block.generation)
    now = KnownPool(last.pool, "", last.generation, last.members)
    for drive in view.store.drives:
        block, _ = blocks[drive.label]
        drive_id = last.drive if block is None else block.drive
        yield from _one(view.filesystem, drive, drive_id, now)
    yield from _twice(view.store.drives)
    for drive_id in sorted(set(last.members) - {block.drive for block in there}):
        name = last.pool_name.decode(errors="replace")
        place = f" ({view.places[drive_id]})" if drive_id in view.places else ""
        message = (
            f"drive {drive_id.hex()} of the workspace {name!r} is missing{place}: what the others "
            "hold has a copy less; connect it if it is not lost"
        )
        yield Finding(Kind.DRIVE_MISSING, message, Where(drive_id.hex()), REBUILD)


def _twice(drives: Iterable[Drive]) -> Iterator[Finding]:
    """Two drives under one id: one is a copy of the other."""
    seen: dict[bytes, str] = {}
    for drive in drives:
        block, _ = newest(drive)
        if block is None:
            continue
        other = seen.setdefault(block.drive, drive.label)
        if other != drive.label:
            message = f"{drive.label} and {other} have one id, {block.drive.hex()}"
            yield Finding(Kind.SUPERBLOCK_FOREIGN, message, Where(drive.label))


def _one(filesystem: bytes, drive: Drive, drive_id: bytes, now: KnownPool) -> Iterator[Finding]:
    """The superblock of one drive, of a pool as it is now."""
    where = Where(drive.label)
    block, problem = newest(drive)
    if problem is not None:
        yield Finding(Kind.SUPERBLOCK_DAMAGED, f"{drive.label}: {problem}", where, ANEW)
    if block is None:
        return
    if (block.filesystem, block.pool, block.drive) != (filesystem, now.pool, drive_id):
        message = (
            f"{drive.label}: its superblock is of filesystem {block.filesystem.hex()}, pool "
            f"{block.pool.hex()}, drive {block.drive.hex()}"
        )
        yield Finding(Kind.SUPERBLOCK_FOREIGN, message, where)
    elif block.generation < now.generation:
        message = (
            f"{drive.label}: its superblock is of generation {block.generation}, its pool's is "
            f"{now.generation}"
        )
        yield Finding(Kind.SUPERBLOCK_OLD, message, where, ANEW)
    elif block.members != now.members:
        message = f"{drive.label}: its superblock names other members than its pool has"
        yield Finding(Kind.SUPERBLOCK_OLD, message, where, ANEW)


def newest(drive: Drive) -> tuple[Superblock | None, str | None]:
    """The superblock of a drive that counts, and what is wrong with one that would instead.

    Neither, where there is no file of one.
    """
    problem: str | None = None
    try:
        names = sorted((n for n in drive.names() if _NAME.fullmatch(n)), reverse=True)
        for name in names:
            try:
                return superblock.decode(drive.get(name)), problem
            except IntegrityError as error:
                problem = problem or f"{name}: {error}"
    except DriveError as error:
        problem = problem or str(error)
    return None, problem
