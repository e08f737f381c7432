"""Superblocks that do not verify, or say less than the others, written anew: the next generation.

Of all drives of a pool that are there, and what the journal remembers after them. Cut off in
between, the newest one counts, which names the same members; the next run, or mount, goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from shmr.archive.control import Control
from shmr.archive.pool import Pool
from shmr.drive.seam import Drive
from shmr.format.superblock import Superblock
from shmr.fsck.findings import Finding, Kind
from shmr.fsck.mending.mender import Mender
from shmr.volume.cleaner import Work
from shmr.volume.known_pools import KnownPool, current, remember
from shmr.volume.membership import read_superblock, write_superblock
from shmr.volume.volume import Volume

KINDS = frozenset({Kind.SUPERBLOCK_DAMAGED, Kind.SUPERBLOCK_OLD})
"""What is mended here."""
_NAME = re.compile(r"superblock-(\d{6,})")


def mend(
    volume: Volume, pools: Sequence[Pool], findings: Sequence[Finding], control: Control
) -> Work[list[str]]:
    """Write anew the superblocks of the pools that these findings tell of.

    Raises SetupError, DriveError, Stopped.
    """
    labels = {f.where.drive for f in findings if f.kind in KINDS and not f.is_loss}
    workspace = volume.context.reader.store.drives
    if any(drive.label in labels for drive in workspace):
        control.check()
        yield partial(_write, _blocks(workspace), workspace, 0, None, volume.context.clock())
    there = volume.context.fragments.drives
    for pool in pools:
        drives = [there[one] for one in pool.drives if one in there]
        if not any(drive.label in labels for drive in drives):
            continue
        control.check()
        blocks = _blocks(drives)
        newest = max(blocks.values(), key=lambda block: block.generation)
        seen = KnownPool(newest.pool, pool.name, newest.generation, newest.members)
        now = current(volume.catalog, seen)
        generation = yield partial(
            _write, blocks, drives, now.generation, now.members, volume.context.clock()
        )
        remember(volume, KnownPool(now.pool, now.name, generation, now.members))
    return []


def _blocks(drives: Iterable[Drive]) -> dict[str, Superblock]:
    """The superblocks that count, by the drives' labels. Raises SetupError, DriveError."""
    found = {drive.label: read_superblock(drive) for drive in drives}
    return {label: block for label, block in found.items() if block is not None}


def _write(
    blocks: Mapping[str, Superblock],
    drives: Sequence[Drive],
    known: int,
    members: tuple[bytes, ...] | None,
    clock_ns: int,
) -> int:
    """Superblocks of one generation above all that is `known` or lies there; which.

    `members` are those of the newest if none are given. Blocking.
    """
    newest = max(blocks.values(), key=lambda block: block.generation)
    # Those that do not verify count too: their names are taken.
    lying = [int(m[1]) for drive in drives for n in drive.names() if (m := _NAME.fullmatch(n))]
    generation = 1 + max(known, newest.generation, *lying)
    for drive in drives:
        block = blocks.get(drive.label)
        if block is not None:
            write_superblock(
                drive,
                newest._replace(
                    drive=block.drive,
                    generation=generation,
                    members=newest.members if members is None else members,
                    created_ns=clock_ns,
                ),
            )
    return generation


MENDERS = (Mender(KINDS, "write superblocks anew", mend),)
