"""Drives that cannot say who they are: their superblock is damaged or gone, what they hold is not.

A mount refuses a workspace drive without one, and takes an archive drive for missing. Who it is can
be proved: where one bit of the superblock flipped, its checksum tells which; fragments name the
drive that they were written for, segments their filesystem; the other drives of the pool and the
journal name its members. Only where all of that leaves one answer is a
superblock written anew, word for word as the others of its pool have it. A drive that is no member
any more proves nothing, and neither does an empty one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from os import urandom
from pathlib import Path
from time import time_ns
from typing import NamedTuple

from shmr.catalog.reading import open_reading
from shmr.config import Config
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format import superblock
from shmr.format.fragment import BLOCK, decode_header
from shmr.format.frame import Kind as FrameKind
from shmr.format.records import decode_opening
from shmr.format.superblock import Superblock
from shmr.fsck.checking.superblocks import ANEW, newest
from shmr.fsck.findings import Finding, Kind, Report, Where
from shmr.log import walk
from shmr.log.fragments import parse_name
from shmr.service.assemble import Drives, InUse, open_drives
from shmr.volume.known_pools import KnownPool, pools_in
from shmr.volume.membership import PoolDrives, write_superblock

_SEGMENT = re.compile(r"(journal|data|snapshot)-(\d{12})")
_SUPERBLOCK = re.compile(r"superblock-(\d{6,})")
_BENT_MAX = 655
"""Bytes of a superblock of which CRC-32C tells five flipped bits from none (its distance is 6 up to
5,243 bits; P. Koopman, "32-Bit Cyclic Redundancy Codes for Internet Applications", 2002)."""
_WITNESSES = 16
"""Files of a drive that are asked who it is; all have to say the same."""


class Proved(NamedTuple):
    """A drive without a superblock, and the one that it has to have."""

    pool: str
    drive: Drive
    problem: str
    block: Superblock


class Nameless(NamedTuple):
    """A drive that is there and cannot say who it is, and what is to be told of it."""

    drive: bytes
    finding: Finding


def nameless(config: Config) -> list[Nameless]:
    """What `restore` would put right. Nothing is changed; the filesystem may be mounted.

    Raises SetupError where the drives cannot be opened.
    """
    try:
        with _opened(config, lock=True) as (drives, known):
            found = list(proved(config.filesystem, drives.pools, known))
    except InUse:
        with _opened(config, lock=False) as (drives, known):
            found = list(proved(config.filesystem, drives.pools, known))
    return [
        Nameless(
            one.block.drive,
            Finding(
                Kind.SUPERBLOCK_DAMAGED,
                f"{one.drive.label}: {one.problem}; by what lies on it, it is drive "
                f"{one.block.drive.hex()} of pool {one.pool!r}",
                Where(one.drive.label),
                ANEW,
            ),
        )
        for one in found
    ]


def tell(report: Report, found: Sequence[Nameless]) -> None:
    """Drives that are there are not told of as missing, but of what keeps them from being used."""
    there = {one.drive.hex() for one in found} | {one.finding.where.drive for one in found}
    labels = {f"archive drive {one.finding.where.drive} " for one in found}
    labels |= {one.drive.hex() for one in found}
    report.notes = [n for n in report.notes if not any(one in n for one in labels)]
    for finding in [*report.findings]:
        if finding.kind is Kind.DRIVE_MISSING and finding.where.drive in there:
            report.findings.remove(finding)
            report.counts[finding.kind] -= 1
            report.notes.append(
                f"what lies on drive {finding.where.drive} was not looked at: it can be when its "
                "superblock is repaired"
            )
    report.counts = +report.counts
    for one in found:
        report.find(one.finding)


def restore(config: Config) -> None:
    """Write the superblocks of drives that have none and whose identity is proved.

    Raises InUse, SetupError, DriveError.
    """
    with _opened(config, lock=True) as (drives, known):
        for one in proved(config.filesystem, drives.pools, known):
            write_superblock(one.drive, one.block)


@contextmanager
def _opened(config: Config, *, lock: bool) -> Iterator[tuple[Drives, list[KnownPool]]]:
    """The drives, and what the last checkpoint remembers of pools, if there is one."""
    drives = open_drives(config, degraded=True, lock=lock, quiet=True)
    try:
        known: list[KnownPool] = []
        try:
            with open_reading(Path(config.catalog), live=not lock) as reading:
                known = list(pools_in(reading.states).values())
        except (SetupError, IntegrityError):
            pass  # other drives may know
        yield drives, known
    finally:
        drives.close()


def proved(
    name: str,
    pools: Sequence[PoolDrives],
    known: Iterable[KnownPool],
    *,
    random_bytes: Callable[[int], bytes] = urandom,
    clock: Callable[[], int] = time_ns,
) -> Iterator[Proved]:
    """The drives that lack a superblock and whose identity is proved, with what they have to have.

    `pools` as the configuration has them, the workspace first; `known` as the journal does.
    """
    looked = {drive.label: newest(drive) for pool in pools for drive in pool.drives}
    blocks = {label: block for label, (block, _) in looked.items() if block is not None}
    filesystem = _filesystem(name, pools[0], blocks)
    if filesystem is None:
        return
    remembered = {pool.name: pool for pool in known}
    for pool in pools:
        bare = [drive for drive in pool.drives if drive.label not in blocks]
        there = [blocks[drive.label] for drive in pool.drives if drive.label in blocks]
        if not bare or any(block.incompat for block in there):
            continue
        is_workspace = pool is pools[0]
        if is_workspace and not there and len(pool.drives) == 1:
            # Nobody else knows its ids, and nothing refers to them.
            drive_id = random_bytes(16)
            now = KnownPool(random_bytes(16), pool.name, 1, (drive_id,))
        else:
            found = _now(pool.name, there, remembered)
            if found is None:
                continue
            now = found
        missing = [one for one in now.members if one not in {block.drive for block in there}]
        for drive in bare:
            bent = _with_a_bit_flipped(drive, filesystem, pool.name)
            mine = (
                bent.drive
                if bent is not None and bent.drive in missing
                else _identity(drive, filesystem, missing, bare, is_workspace=is_workspace)
            )
            if mine is None or mine not in missing:
                continue
            generation = now.generation
            if is_workspace and not there:
                generation = max([generation, *_generations(drive)])
            lying = set(_generations(drive))
            if generation in lying:
                # A file of its own: the bent one, which may be all that tells who this is, goes
                # only when that is durable.
                generation = max(lying) + 1
            block = Superblock(
                filesystem, name.encode(), now.pool, pool.name.encode(), mine, generation,
                superblock.COMPAT, superblock.RO_COMPAT, superblock.INCOMPAT, clock(), now.members,
            )  # fmt: skip
            problem = looked[drive.label][1] or "no superblock is on it"
            yield Proved(pool.name, drive, problem, block)


def _filesystem(name: str, workspace: PoolDrives, blocks: Mapping[str, Superblock]) -> bytes | None:
    """Which filesystem it is: as all superblocks say that there are, or the workspace's segments.

    None where they do not agree.
    """
    ids = {b.filesystem for b in blocks.values() if b.filesystem_name == name.encode()}
    for drive in workspace.drives:
        if drive.label not in blocks:
            ids |= _filesystems_of(drive)
    return ids.pop() if len(ids) == 1 else None


def _now(
    name: str, there: Sequence[Superblock], remembered: Mapping[str, KnownPool]
) -> KnownPool | None:
    """A pool as it is now, by those of its superblocks that are there, and the journal."""
    known = remembered.get(name)
    if not there:
        return known
    last = max(there, key=lambda block: block.generation)
    seen = KnownPool(last.pool, name, last.generation, last.members)
    return seen if known is None or known.generation < seen.generation else known


def _with_a_bit_flipped(drive: Drive, filesystem: bytes, pool: str) -> Superblock | None:
    """What the newest superblock was before a bit of it flipped, if that is what happened.

    No guess: the checksum tells up to five bits in so few bytes from each other, so that two
    superblocks that verify differ in more than one bit from whatever lies between them.
    """
    try:
        names = [name for name in drive.names() if _SUPERBLOCK.fullmatch(name)]
        content = bytearray(drive.get(max(names))) if names else bytearray()
    except DriveError:
        return None
    for at in range(8 * len(content) if len(content) <= _BENT_MAX else 0):
        content[at // 8] ^= 1 << at % 8
        try:
            block = superblock.decode(bytes(content))
        except IntegrityError:
            content[at // 8] ^= 1 << at % 8
            continue
        return block if (block.filesystem, block.pool_name) == (filesystem, pool.encode()) else None
    return None


def _identity(
    drive: Drive,
    filesystem: bytes,
    missing: Sequence[bytes],
    bare: Sequence[Drive],
    *,
    is_workspace: bool,
) -> bytes | None:
    """Which drive this is, if what lies on it leaves one answer."""
    if not is_workspace:
        found = _drives_of(drive, filesystem)
        return found.pop() if len(found) == 1 else None
    # Segments do not name their drive: the one that is missing, if one is.
    ours = _filesystems_of(drive) == {filesystem}
    return missing[0] if ours and len(missing) == len(bare) == 1 else None


def _filesystems_of(drive: Drive) -> set[bytes]:
    """The filesystems that the segments of a workspace drive are of; none if it cannot be read."""
    found: set[bytes] = set()
    try:
        names = sorted((n for n in drive.names() if _SEGMENT.fullmatch(n)), reverse=True)
        for name in names[:_WITNESSES]:
            file = drive.open(name)
            try:
                header = walk.header_of((file,), 0)
                if header is None or header.kind != FrameKind.SEGMENT:
                    continue
                payload = walk.payload_of((file,), walk.Found(0, header))
                if payload is not None:
                    found.add(decode_opening(payload).filesystem)
            except IntegrityError:
                continue
            finally:
                file.close()
    except DriveError:
        return set()
    return found


def _drives_of(drive: Drive, filesystem: bytes) -> set[bytes]:
    """The drives for which the fragments on a drive were written; none if it cannot be read."""
    found: set[bytes] = set()
    try:
        names = (name for name in sorted(drive.names()) if parse_name(name) is not None)
        for name in islice(names, _WITNESSES):
            file = drive.open(name)
            try:
                header = decode_header(file.read(0, BLOCK))
            except IntegrityError:
                continue
            finally:
                file.close()
            ours = header.filesystem == filesystem
            found.add(header.drives[header.fragment] if ours else b"")
    except DriveError:
        return set()
    return found


def _generations(drive: Drive) -> Iterator[int]:
    """Those that the names of its superblocks say."""
    for name in drive.names():
        match = _SUPERBLOCK.fullmatch(name)
        if match is not None:
            yield int(match[1])
