"""Who belongs to a filesystem: superblocks read, compared and written.

A drive is what its superblock says, wherever it is mounted. The config names paths; ids decide.
A filesystem is only made where nothing is: no superblock, no catalog, empty directories.

The first pool is the workspace, and what is wrong with a drive of it refuses the mount. A drive of
an archive pool that is absent, bare, unreadable or of another filesystem only counts as missing:
what it held is read from the others, and the mount says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format import superblock
from shmr.format.superblock import Superblock

_NAME = re.compile(r"superblock-(\d{6})")
_HARMLESS = {"lost+found"}
FIRST_SUPERBLOCK = "superblock-000001"


@dataclass(frozen=True, slots=True)
class PoolDrives:
    """A pool's name, its drives in the order of the config, and how many it may do without."""

    name: str
    drives: tuple[Drive, ...]
    spare: int = 0


@dataclass(frozen=True, slots=True)
class ArchivePool:
    """An archive pool: its id, its drives that are there, by id, and the ids of all its members.

    `generation` is that of the superblock which names the members.
    """

    name: str
    pool: bytes
    drives: Mapping[bytes, Drive]
    members: tuple[bytes, ...]
    generation: int = 1

    @property
    def missing(self) -> tuple[bytes, ...]:
        """Members that are not there."""
        return tuple(member for member in self.members if member not in self.drives)


@dataclass(frozen=True, slots=True)
class Membership:
    """The filesystem's id, and the drives of the first pool that are members, with ids.

    `archives` are the other pools by name: those of which a drive is there. `warnings` say what is
    missing of them, a sentence each.
    """

    filesystem: bytes
    workspace: tuple[Drive, ...]
    drive_ids: tuple[bytes, ...]
    created: bool
    missing: tuple[str, ...] = ()
    archives: Mapping[str, ArchivePool] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def archive(self) -> dict[bytes, Drive]:
        """All archive drives that are there, by id."""
        return {
            drive: found for pool in self.archives.values() for drive, found in pool.drives.items()
        }

    @property
    def archive_missing(self) -> tuple[bytes, ...]:
        """The ids of all archive drives that are not there, as far as they are known."""
        return tuple(drive for pool in self.archives.values() for drive in pool.missing)


def read_superblock(drive: Drive) -> Superblock | None:
    """The superblock of the highest generation that verifies; None if there is no file of one.

    Raises SetupError if there are files but none verifies, DriveError.
    """
    names = sorted((n for n in drive.names() if _NAME.fullmatch(n)), reverse=True)
    problem = ""
    for name in names:
        try:
            return superblock.decode(drive.get(name))
        except IntegrityError as error:
            problem = f"{name}: {error}"
    if problem:
        raise SetupError(
            f"{drive.label}: {problem}; `shmr-fsck repair CONFIG` writes it anew where what lies "
            "on the drives proves which one it is"
        )
    return None


def write_superblock(drive: Drive, block: Superblock) -> None:
    """Write a generation as a new file, then discard older ones. Raises DriveError."""
    name = f"superblock-{block.generation:06}"
    old = [n for n in drive.names() if _NAME.fullmatch(n) and n != name]
    if name in drive.names():
        # Left by a crash while this very generation was written: it did not verify.
        drive.discard(name)
    drive.put(name, block.encode())
    for other in old:
        drive.discard(other)


def create(
    name: str,
    pools: Sequence[PoolDrives],
    *,
    catalog_exists: bool,
    random_bytes: Callable[[int], bytes],
    clock: Callable[[], int],
) -> Membership:
    """Make a filesystem on empty drives. Raises SetupError where anything is there already."""
    if catalog_exists:
        raise SetupError(
            "a catalog exists, but no drive has a superblock: these are not this filesystem's "
            "drives, or nothing is mounted where they should be"
        )
    for pool in pools:
        for drive in pool.drives:
            strangers = [n for n in drive.names() if n not in _HARMLESS]
            if strangers:
                raise SetupError(
                    f"{drive.label}: not empty (found {strangers[0]!r}); a filesystem is only "
                    "made on empty directories"
                )
    filesystem = random_bytes(16)
    workspace_ids: tuple[bytes, ...] = ()
    archives: dict[str, ArchivePool] = {}
    # The workspace comes first, so that one without superblocks is never half made: its disk is
    # not mounted.
    for pool in pools:
        pool_id = random_bytes(16)
        ids = tuple(random_bytes(16) for _ in pool.drives)
        for drive, drive_id in zip(pool.drives, ids, strict=True):
            block = Superblock(
                filesystem,
                name.encode(),
                pool_id,
                pool.name.encode(),
                drive_id,
                1,
                superblock.COMPAT,
                superblock.RO_COMPAT,
                superblock.INCOMPAT,
                clock(),
                ids,
            )
            write_superblock(drive, block)
        if pool is pools[0]:
            workspace_ids = ids
        else:
            drives = dict(zip(ids, pool.drives, strict=True))
            archives[pool.name] = ArchivePool(pool.name, pool_id, drives, ids)
    return Membership(filesystem, pools[0].drives, workspace_ids, created=True, archives=archives)


def identify(
    name: str,
    pools: Sequence[PoolDrives],
    *,
    catalog_exists: bool,
    degraded: bool,
    read_only: bool,
    may_create: bool,
    random_bytes: Callable[[int], bytes],
    clock: Callable[[], int],
) -> Membership:
    """Find out which filesystem the drives hold; make one where nothing is and `may_create`.

    Raises SetupError with the reason where the drives do not fit together.
    """
    if may_create and not catalog_exists and _is_half_made(pools):
        _clear(pools)
    blocks, unusable = _superblocks(pools)
    if not blocks:
        if not may_create:
            raise SetupError("no drive has a superblock: run `shmr create CONFIG` first")
        return create(
            name, pools, catalog_exists=catalog_exists, random_bytes=random_bytes, clock=clock
        )
    bare = [drive.label for drive in pools[0].drives if id(drive) not in blocks]
    if bare:
        lost = (
            "; where the whole workspace is lost, `shmr-fsck rebuild-catalog` makes a new one"
            if len(bare) == len(pools[0].drives)
            else "; a new disk in the place of a lost one gets what was on it with `shmr-fsck "
            f"rebuild-drive CONFIG {bare[0]}`"
        )
        raise SetupError(
            f"some drives belong to a filesystem and some have no superblock: {', '.join(bare)}; "
            f"check that the right disks are mounted there{lost}"
        )
    first = blocks[id(pools[0].drives[0])]
    for pool in pools[1:]:
        for drive in pool.drives:
            found = blocks.get(id(drive))
            strange = _strange(found, first.filesystem, read_only=read_only) if found else None
            if strange is not None:
                unusable[id(drive)] = strange
    unusable |= _taken_out(pools[1:], blocks, unusable)
    usable = [
        PoolDrives(p.name, tuple(d for d in p.drives if id(d) not in unusable), p.spare)
        for p in pools
    ]
    _check_features(usable[:1], blocks, read_only=read_only)
    _check(name, usable, blocks)
    membership = _workspace(usable[0], blocks, degraded=degraded, read_only=read_only, clock=clock)
    archives = {pool.name: _archive(pool, blocks) for pool in usable[1:] if pool.drives}
    return replace(
        membership, archives=archives, warnings=tuple(_warnings(pools, archives, unusable))
    )


def _superblocks(pools: Sequence[PoolDrives]) -> tuple[dict[int, Superblock], dict[int, str]]:
    """The superblocks that there are, and why an archive drive has none that can be read."""
    blocks: dict[int, Superblock] = {}
    unusable: dict[int, str] = {}
    for pool in pools:
        for drive in pool.drives:
            try:
                block = read_superblock(drive)
            except (SetupError, DriveError) as error:
                if pool is pools[0]:
                    raise
                unusable[id(drive)] = str(error)
                continue
            if block is not None:
                blocks[id(drive)] = block
            elif pool is not pools[0]:
                unusable[id(drive)] = (
                    "no superblock is on it; mount its disk there, or make it a drive of the pool "
                    "with `shmr drive add`"
                )
    return blocks, unusable


def _strange(block: Superblock, filesystem: bytes, *, read_only: bool) -> str | None:
    """Why an archive drive with this superblock cannot be used, or None."""
    if block.filesystem != filesystem:
        return f"it belongs to another filesystem, {block.filesystem_name.decode()!r}"
    unknown = block.incompat & ~superblock.INCOMPAT
    if unknown or (block.ro_compat & ~superblock.RO_COMPAT and not read_only):
        return "it was written by a newer shmr; update shmr"
    return None


def _taken_out(
    pools: Sequence[PoolDrives], blocks: Mapping[int, Superblock], unusable: Mapping[int, str]
) -> dict[int, str]:
    """Archive drives that were removed from their pool, as a newer superblock of another says.

    Of two of one generation neither says anything about the other: what the journal remembers
    decides (`known_pools`).
    """
    found: dict[int, str] = {}
    for pool in pools:
        there = [d for d in pool.drives if id(d) in blocks and id(d) not in unusable]
        newest = max((blocks[id(d)] for d in there), key=lambda b: b.generation, default=None)
        for drive in there:
            block = blocks[id(drive)]
            assert newest is not None
            if block.generation < newest.generation and block.drive not in newest.members:
                found[id(drive)] = "it was removed from the pool; take it out of the config"
    return found


def _archive(pool: PoolDrives, blocks: dict[int, Superblock]) -> ArchivePool:
    """An archive pool as the newest of its superblocks has it."""
    found = {blocks[id(drive)].drive: drive for drive in pool.drives}
    newest = max((blocks[id(drive)] for drive in pool.drives), key=lambda block: block.generation)
    return ArchivePool(pool.name, newest.pool, found, newest.members, newest.generation)


def _warnings(
    pools: Sequence[PoolDrives], archives: Mapping[str, ArchivePool], unusable: Mapping[int, str]
) -> Iterator[str]:
    """What is missing of the archive, in sentences."""
    for pool in pools[1:]:
        for drive in pool.drives:
            if id(drive) in unusable:
                yield (
                    f"degraded: archive drive {drive.label} of pool {pool.name!r} counts as "
                    f"missing: {unusable[id(drive)]}"
                )
        archive = archives.get(pool.name)
        if archive is None:
            yield f"degraded: no drive of archive pool {pool.name!r} is there"
        elif archive.missing:
            yield (
                f"degraded: {len(archive.missing)} of {len(archive.members)} drives of archive "
                f"pool {pool.name!r} are missing, and it can do without {pool.spare}: "
                + ", ".join(drive.hex() for drive in archive.missing)
                + _more_than_spare(len(archive.missing), pool.spare)
            )


def _is_half_made(pools: Sequence[PoolDrives]) -> bool:
    """Did a power cut end the making of this filesystem before anything was stored in it?

    Then no drive holds more than the superblock of a beginning, and some not even that, but the
    workspace, which comes first, does. (A bare workspace beside others is one that is not mounted.)
    """
    if not any(FIRST_SUPERBLOCK in drive.names() for drive in pools[0].drives):
        return False
    whole = 0
    for pool in pools:
        for drive in pool.drives:
            try:
                if not set(drive.names()) <= {FIRST_SUPERBLOCK, *_HARMLESS}:
                    return False
                whole += read_superblock(drive) is not None
            except DriveError:
                return False
            except SetupError:
                continue
    return whole < sum(len(pool.drives) for pool in pools)


def _clear(pools: Sequence[PoolDrives]) -> None:
    for pool in pools:
        for drive in pool.drives:
            if FIRST_SUPERBLOCK in drive.names():
                drive.discard(FIRST_SUPERBLOCK)


def _check_features(
    pools: Sequence[PoolDrives], blocks: dict[int, Superblock], *, read_only: bool
) -> None:
    """No drive uses what this shmr does not know. Before anything else of a superblock counts."""
    for pool in pools:
        for drive in pool.drives:
            block = blocks[id(drive)]
            if block.incompat & superblock.UNFINISHED:
                raise SetupError(
                    f"{drive.label}: this workspace is being made anew and is not complete; run "
                    "`shmr-fsck rebuild-catalog CONFIG` again"
                )
            if block.incompat & ~superblock.INCOMPAT:
                raise SetupError(f"{drive.label} was written by a newer shmr; update shmr")
            if block.ro_compat & ~superblock.RO_COMPAT and not read_only:
                raise SetupError(
                    f"{drive.label} was written by a newer shmr and can only be read by this one; "
                    "update shmr, or mount with --read-only"
                )


def _check(name: str, pools: Sequence[PoolDrives], blocks: dict[int, Superblock]) -> None:
    """Every drive is of one filesystem, of the pool that names it, and understood."""
    first = blocks[id(pools[0].drives[0])]
    seen: dict[bytes, Drive] = {}
    for pool in pools:
        for drive in pool.drives:
            block = blocks[id(drive)]
            if block.filesystem != first.filesystem:
                raise SetupError(
                    f"{drive.label} belongs to filesystem {block.filesystem_name.decode()!r}, "
                    f"another than {pools[0].drives[0].label}"
                )
            if block.filesystem_name.decode() != name:
                raise SetupError(
                    f"{drive.label} belongs to filesystem {block.filesystem_name.decode()!r}, the "
                    f"config says {name!r}"
                )
            if block.pool_name.decode() != pool.name:
                raise SetupError(
                    f"{drive.label} belongs to pool {block.pool_name.decode()!r}, the config has "
                    f"it in {pool.name!r}"
                )
            if block.drive in seen:
                raise SetupError(
                    f"{drive.label} and {seen[block.drive].label} are one drive (or a copy of it)"
                )
            seen[block.drive] = drive


def _workspace(
    pool: PoolDrives,
    blocks: dict[int, Superblock],
    *,
    degraded: bool,
    read_only: bool,
    clock: Callable[[], int],
) -> Membership:
    """The members of the workspace that are here and current; all of them, or `degraded`."""
    newest = max(blocks[id(drive)].generation for drive in pool.drives)
    latest = next(b for d in pool.drives if (b := blocks[id(d)]).generation == newest)
    for drive in pool.drives:
        block = blocks[id(drive)]
        if block.generation < newest and block.drive in latest.members:
            # A degraded mount was cut off between the superblocks of two survivors.
            raised = block._replace(generation=newest, members=latest.members)
            blocks[id(drive)] = raised
            if not read_only:
                write_superblock(drive, raised)
    current = tuple(d for d in pool.drives if blocks[id(d)].generation == newest)
    stale = [d.label for d in pool.drives if blocks[id(d)].generation < newest]
    if stale:
        raise SetupError(
            f"{', '.join(stale)}: left behind by a degraded mount (generation below {newest}) and "
            "lacks what was written since; take it out of the config"
        )
    block = blocks[id(current[0])]
    parted = [d.label for d in current if blocks[id(d)].members != block.members]
    if parted:
        raise SetupError(
            f"{current[0].label} and {', '.join(parted)}: each was mounted degraded without the "
            "other, and their contents differ; take one of them out of the config"
        )
    ids = tuple(blocks[id(drive)].drive for drive in current)
    missing = tuple(m.hex() for m in block.members if m not in ids)
    if not missing:
        return Membership(block.filesystem, current, ids, created=False)
    if len(missing) > pool.spare:
        raise SetupError(
            f"pool {pool.name!r}: {len(missing)} of {len(block.members)} drives are missing, and "
            f"it can do without {pool.spare}; connect them"
        )
    if not degraded:
        raise SetupError(
            f"pool {pool.name!r}: {len(missing)} drive(s) are missing; connect them, or mount with "
            "--degraded to go on without (what they hold is then out of date for good)"
        )
    if not read_only:
        for drive in current:
            old = blocks[id(drive)]
            raised = old._replace(generation=newest + 1, members=ids, created_ns=clock())
            write_superblock(drive, raised)
    return Membership(block.filesystem, current, ids, created=False, missing=missing)


def _more_than_spare(missing: int, spare: int) -> str:
    if missing <= spare:
        return ""
    return "; files with bytes on more of these than that cannot be read until they are connected"
