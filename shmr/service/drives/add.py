"""`shmr drive add`: an empty directory becomes a drive of its archive pool.

The first drive of a pool begins it. A drive of the pool stays as it is, so an addition that was cut
off is run again; one that had left it comes back with what it holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from shmr.archive.pool import Pool
from shmr.codec import self_test
from shmr.config import Config, DriveConfig, PoolConfig, load
from shmr.drive.directory import DirectoryDrive
from shmr.errors import DriveError, SetupError
from shmr.format.superblock import Superblock
from shmr.service.drives.find import configured
from shmr.service.offline import unmounted
from shmr.volume import members
from shmr.volume.known_pools import KnownPool, known_pools, remember
from shmr.volume.membership import read_superblock
from shmr.volume.volume import Volume


def drive_add(
    config_path: str | os.PathLike[str], *paths: str | os.PathLike[str]
) -> tuple[str, ...]:
    """The empty directories at `paths`, which the config names, become drives of their pools.

    Returns what to know of it, a sentence each. Those before one that is refused are added.
    Raises SetupError, DriveError.
    """
    config = load(config_path)
    wanted = [configured(config, path) for path in paths]
    for pool, entry in wanted:
        with unmounted(besides(config, entry), read_only=False) as (volume, pools):
            add(config, volume, pools, pool, entry)
    told = [f"{entry.path} is a drive of pool {pool.name!r}" for pool, entry in wanted]
    with unmounted(config, read_only=True) as (_, pools):
        for known in pools:
            if any(pool.name == known.name for pool, _ in wanted) and (
                len(known.drives) < known.width
            ):
                told.append(
                    f"pool {known.name!r} has {len(known.drives)} of the {known.width} drives that "
                    "it needs to be written to: add the others too"
                )
    return tuple(told)


def besides(config: Config, entry: DriveConfig) -> Config:
    """The config without a drive that nobody has used: nothing is degraded by it not being there.

    And without its pool if that has no other.
    """
    try:
        with closing(opened(entry)) as drive:
            used = _superblock(drive) is not None
    except (SetupError, DriveError):
        used = True
    if used:
        return config
    pools = (
        replace(pool, drives=tuple(one for one in pool.drives if one != entry))
        for pool in config.pools
    )
    return replace(config, pools=tuple(pool for pool in pools if pool.drives))


def add(
    config: Config, volume: Volume, pools: Sequence[Pool], wanted: PoolConfig, entry: DriveConfig
) -> None:
    """One drive joins its pool, or begins it. It is not opened by the volume, if it is bare.

    Raises SetupError, DriveError.
    """
    pool = next((pool for pool in pools if pool.name == wanted.name), None)
    with closing(opened(entry)) as drive:
        drive_id = identity(config, volume, pool, drive)
        if drive_id is None:
            return
        if _superblock(drive) is None:
            if not drive.lock():
                raise SetupError(f"{entry.path}: another process holds it")
            # Torn ones are what a cut-off `add` leaves.
            for name in _superblocks(drive):
                drive.discard(name)
        if pool is None:
            remember(volume, _begin(volume, pools, wanted, drive))
            return
        fragments = volume.context.fragments
        known = known_pools(volume.catalog).get(pool.id)
        others = [fragments.drives[one] for one in pool.drives if one in fragments.drives]
        now = members.join(drive, drive_id, others, time.time_ns(), known=known)
        remember(volume, now)


def opened(entry: DriveConfig) -> DirectoryDrive:
    """The directory, to be closed. Raises SetupError."""
    try:
        drive = DirectoryDrive(entry.path, limit_bytes=entry.size_bytes)
    except DriveError as error:
        raise SetupError(f"{entry.path}: {error.cause.strerror}; make the directory") from error
    if entry.mounted and not drive.is_mount_point():
        drive.close()
        raise SetupError(f"{entry.path}: nothing is mounted there; mount its disk first")
    return drive


def identity(
    config: Config, volume: Volume, pool: Pool | None, drive: DirectoryDrive
) -> bytes | None:
    """The id under which the drive joins the pool; None: it is a drive of it already.

    One that left the pool comes back under its own, with what it holds. Raises SetupError where it
    cannot be a drive of it; changes nothing.
    """
    block = _superblock(drive)
    if block is None:
        if not drive.is_empty(besides=_superblocks(drive)):
            raise SetupError(f"{drive.label}: not empty; only an empty directory is added")
    elif pool is None or block.pool != pool.id:
        raise SetupError(
            f"{drive.label}: it was a drive of filesystem "
            f"{block.filesystem_name.decode(errors='replace')!r}, pool "
            f"{block.pool_name.decode(errors='replace')!r}; only an empty directory is added: "
            "empty it first if nothing on it is wanted any more"
        )
    elif block.drive in volume.context.fragments.drives:
        return None
    _check_disk(config, volume, pool, drive)
    return os.urandom(16) if block is None else block.drive


def _check_disk(config: Config, volume: Volume, pool: Pool | None, drive: DirectoryDrive) -> None:
    """Raise SetupError where another drive of the pool is on the same disk."""
    drives = volume.context.fragments.drives
    ids = () if pool is None or config.same_device else pool.drives
    for other in (drives[one] for one in ids if one in drives):
        if other.device() == drive.device():
            raise SetupError(
                f"{drive.label} is on one disk with {other.label}, whose loss would take both; "
                "use another disk, or say `same_device: true` for a trial"
            )


def _superblock(drive: DirectoryDrive) -> Superblock | None:
    """Whose it is; None: nobody's, also where a torn one is alone."""
    try:
        return read_superblock(drive)
    except SetupError:
        if not drive.is_empty(besides=_superblocks(drive)):
            raise
        return None


def _superblocks(drive: DirectoryDrive) -> list[str]:
    return [name for name in drive.names() if name.startswith("superblock-")]


def _begin(
    volume: Volume, pools: Sequence[Pool], wanted: PoolConfig, drive: DirectoryDrive
) -> KnownPool:
    """A pool that the config names and that never was. Raises SetupError."""
    known = known_pools(volume.catalog)
    if any(one.name == wanted.name and one.members for one in known.values()):
        raise SetupError(
            f"pool {wanted.name!r}: no drive of it is there; connect them. If all are lost, give "
            "the pool another name in the config to begin a new one"
        )
    # A filesystem of before the journal knew of pools.
    there = {pool.id for pool in pools} | known.keys()
    segments = volume.catalog.archived_segments()
    strange = sum(archived.pool not in there for _, archived in segments)
    if strange:
        raise SetupError(
            f"pool {wanted.name!r} cannot be begun: {strange} segments lie in a pool of which "
            "no drive is there; connect its drives first"
        )
    self_test(wanted.scheme.k, wanted.scheme.m, wanted.scheme.code)
    like = members.newest_superblock(volume.context.reader.store.drives)
    if like is None:
        raise SetupError("no drive of the workspace has a superblock")
    return members.begin(drive, os.urandom(16), os.urandom(16), wanted.name, like, time.time_ns())
