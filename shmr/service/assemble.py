"""From a configuration to an open volume: drives opened, locked, identified, recovered."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shmr.catalog import store as catalog_store
from shmr.config import Config, DriveConfig
from shmr.drive.directory import DirectoryDrive
from shmr.drive.seam import Drive
from shmr.errors import DriveError, SetupError
from shmr.log.log import Parallel, in_sequence
from shmr.log.reader import Background
from shmr.volume.membership import FIRST_SUPERBLOCK, Membership, PoolDrives, create, identify
from shmr.volume.volume import MakeWriter, Volume, open_volume

logger = logging.getLogger(__name__)

_CLOCK_REALTIME_COARSE = 5


def kernel_time_ns() -> int:
    """Nanoseconds since 1970 by the clock the kernel stamps files with.

    Its own stamps (of cached writes, of `touch`) and ours meet in one inode: with a finer clock of
    ours, time would seem to run backwards.
    """
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


@dataclass(frozen=True, slots=True)
class Drives:
    """The opened drives of a configuration; `limits` are their sizes as configured."""

    pools: tuple[PoolDrives, ...]
    absent: tuple[str, ...]
    limits: dict[str, int | None]

    def all(self) -> list[DirectoryDrive]:
        drives = [drive for pool in self.pools for drive in pool.drives]
        return [drive for drive in drives if isinstance(drive, DirectoryDrive)]

    def close(self) -> None:
        """Let go of the drives and their locks."""
        for drive in self.all():
            drive.close()


def open_drives(config: Config, *, degraded: bool) -> Drives:
    """Open and lock every drive. Raises SetupError with what to do.

    An archive drive that is absent, or cannot be opened or locked, is left out and named in
    `absent`; an absent workspace drive too, but only when `degraded`. That it is the right drive
    is found out later.
    """
    pools: list[PoolDrives] = []
    absent: list[str] = []
    limits: dict[str, int | None] = {}
    try:
        for pool in config.pools:
            opened: list[DirectoryDrive] = []
            archive = pool is not config.workspace
            may_lack = degraded or archive
            pools.append(PoolDrives(pool.name, (), pool.scheme.m))
            for entry in pool.drives:
                drive = _open_drive(entry, may_lack=may_lack)
                if drive is not None and not _lock(drive, config, archive=archive):
                    drive = None
                if drive is None:
                    absent.append(str(entry.path))
                    continue
                opened.append(drive)
                pools[-1] = PoolDrives(pool.name, tuple(opened), pool.scheme.m)
                limits[str(entry.path)] = entry.size_bytes
            if not opened and not archive:
                raise SetupError(f"pool {pool.name!r}: no drive is there; connect them")
            if not archive:
                _refuse_shared_disks(config, pool.name, opened)
        return Drives(tuple(pools), tuple(absent), limits)
    except BaseException:
        Drives(tuple(pools), (), limits).close()
        raise


def _open_drive(entry: DriveConfig, *, may_lack: bool) -> DirectoryDrive | None:
    try:
        drive = DirectoryDrive(entry.path, limit_bytes=entry.size_bytes)
    except DriveError as error:
        if may_lack:
            logger.warning("drive %s is missing: %s", entry.path, error)
            return None
        raise SetupError(
            f"drive {entry.path}: {error.cause.strerror}; make the directory, mount its disk or "
            "correct the config"
        ) from error
    if entry.mounted and not _is_mounted(drive):
        drive.close()
        if may_lack:
            logger.warning("drive %s is missing: nothing is mounted there", entry.path)
            return None
        raise SetupError(f"drive {entry.path}: nothing is mounted there; mount its disk first")
    return drive


def _is_mounted(drive: DirectoryDrive) -> bool:
    try:
        return drive.is_mount_point()
    except DriveError as error:
        logger.warning("%s", error)
        return False


def _refuse_shared_disks(config: Config, pool: str, drives: Iterable[Drive]) -> None:
    """No two drives of a pool on one disk, unless the configuration allows it.

    Asked of archive drives when it is known that they are no directories where disks are not
    mounted, which are all on one.
    """
    seen: dict[int, str] = {}
    for drive in () if config.same_device else drives:
        other = seen.setdefault(drive.device(), drive.label)
        if other != drive.label:
            raise SetupError(
                f"pool {pool!r}: {other} and {drive.label} are on one disk, whose loss would "
                "take both; use different disks, or say `same_device: true` for a trial"
            )


def _lock(drive: DirectoryDrive, config: Config, *, archive: bool) -> bool:
    """Hold the drive, or let go of it. False, and a warning, for an archive drive.

    The workspace comes first: whoever has that works with the filesystem, and who holds an archive
    drive then works with another one.
    """
    try:
        held = drive.lock()
    except DriveError as error:
        drive.close()
        if not archive:
            raise SetupError(f"{error}; is the drive writable?") from error
        logger.warning("drive %s is missing: %s", drive.label, error)
        return False
    if held:
        return True
    drive.close()
    if not archive:
        raise SetupError(
            f"filesystem {config.filesystem!r} is in use: another process holds {drive.label}; "
            "it is mounted already (see `findmnt -t fuse.shmr`) or being worked on"
        )
    logger.warning("drive %s is missing: another process holds it", drive.label)
    return False


def create_filesystem(config: Config) -> None:
    """Make the filesystem on empty drives. Raises SetupError where anything is there."""
    drives = open_drives(config, degraded=False)
    try:
        if drives.absent:
            raise SetupError(f"drive {drives.absent[0]} is missing; connect it first")
        _refuse_strangers(drives, config)
        for pool in drives.pools:
            _refuse_shared_disks(config, pool.name, pool.drives)
        membership = create(
            config.filesystem,
            drives.pools,
            catalog_exists=catalog_store.exists(config.catalog),
            random_bytes=os.urandom,
            clock=time.time_ns,
        )
        _open(config, drives, membership, read_only=False, parallel=in_sequence).close()
    finally:
        drives.close()


def _refuse_strangers(drives: Drives, config: Config) -> None:
    """A filesystem is only made where there is nothing to lose, also in subdirectories."""
    for drive in drives.all():
        if not drive.is_empty():
            raise SetupError(
                f"{drive.label}: not empty; a filesystem is only made on empty directories"
            )


def open_filesystem(
    config: Config,
    drives: Drives,
    *,
    read_only: bool,
    degraded: bool,
    parallel: Parallel = in_sequence,
    make_writer: MakeWriter | None = None,
    background: Background | None = None,
) -> Volume:
    """Identify the drives and open the volume on them; the first time, make it.

    Raises SetupError, DriveError, NoSpace.
    """
    fresh = not read_only and not drives.absent and _is_fresh(drives)
    if fresh:
        for pool in drives.pools:
            _refuse_shared_disks(config, pool.name, pool.drives)
    membership = identify(
        config.filesystem,
        drives.pools,
        catalog_exists=catalog_store.exists(config.catalog),
        degraded=degraded,
        read_only=read_only,
        may_create=fresh,
        random_bytes=os.urandom,
        clock=time.time_ns,
    )
    for missing in membership.missing:
        logger.warning("degraded: workspace drive %s is missing", missing)
    for warning in membership.warnings:
        logger.warning("%s", warning)
    for archive in membership.archives.values():
        _refuse_shared_disks(config, archive.name, archive.drives.values())
    return _open(
        config,
        drives,
        membership,
        read_only=read_only,
        parallel=parallel,
        make_writer=make_writer,
        background=background,
    )


def _is_fresh(drives: Drives) -> bool:
    """Is there nothing but what a making that was cut off leaves?"""
    try:
        return all(drive.is_empty(besides=(FIRST_SUPERBLOCK,)) for drive in drives.all())
    except DriveError:
        return False


def _open(
    config: Config,
    drives: Drives,
    membership: Membership,
    *,
    read_only: bool,
    parallel: Parallel,
    make_writer: MakeWriter | None = None,
    background: Background | None = None,
) -> Volume:
    pool = config.workspace
    return open_volume(
        membership.filesystem,
        membership.workspace,
        Path(config.catalog),
        clock=kernel_time_ns,
        copies=pool.scheme.copies,
        segment_bytes=pool.segment_size_bytes,
        read_only=read_only,
        parallel=parallel,
        make_writer=make_writer,
        background=background,
        archive=membership.archive,
        archive_missing=membership.archive_missing,
    )
