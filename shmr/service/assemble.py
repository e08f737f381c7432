"""From a configuration to an open volume: drives opened, locked, identified, recovered."""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from shmr.catalog import store as catalog_store
from shmr.codec import self_test
from shmr.config import Config, DriveConfig, PoolConfig
from shmr.drive.directory import DirectoryDrive
from shmr.drive.holder import holder_of, pid_of
from shmr.drive.impatient import CLOSING_S, Answer, ImpatientDrive
from shmr.drive.seam import Drive
from shmr.errors import DriveError, SetupError
from shmr.log.gather import PATIENCE
from shmr.log.log import Parallel, in_sequence
from shmr.log.reader import Background
from shmr.service.last_seen import last_seen, note_places
from shmr.service.lineage import keep_unknown, refuse_older
from shmr.units import NS_PER_S
from shmr.volume.known_pools import reconcile
from shmr.volume.membership import FIRST_SUPERBLOCK, Membership, PoolDrives, create, identify
from shmr.volume.volume import First, MakeWriter, Volume, nothing_first, open_volume

logger = logging.getLogger(__name__)

_CLOCK_REALTIME_COARSE = 5
_DAEMON = b"shmr.service.mounted.daemon"
"""The module of a mount; its one argument says what is mounted where."""


def kernel_time_ns() -> int:
    """Nanoseconds since 1970 by the clock the kernel stamps files with.

    Its own stamps (of cached writes, of `touch`) and ours meet in one inode: with a finer clock of
    ours, time would seem to run backwards.
    """
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


@dataclass(frozen=True, slots=True)
class Drives:
    """The opened drives of a configuration; `limits` are their sizes as configured, `absent` the
    paths of those that are not there, `why` by path."""

    pools: tuple[PoolDrives, ...]
    absent: tuple[str, ...]
    limits: dict[str, int | None]
    why: dict[str, str] = field(default_factory=dict)

    def all(self) -> list[DirectoryDrive]:
        drives = [drive for pool in self.pools for drive in pool.drives]
        return [drive for drive in drives if isinstance(drive, DirectoryDrive)]

    def let_go(self, background: Background) -> None:
        """What the workspace discards is freed in the background: nobody waits for it."""
        for drive in self.pools[0].drives:
            if isinstance(drive, DirectoryDrive):
                drive.let_go = background

    def close(self) -> None:
        """Let go of the drives and their locks, side by side: one that hangs is left behind."""
        answers = [Answer(f"closing {drive.label}", drive.close) for drive in self.all()]
        until = time.monotonic() + 2 * CLOSING_S
        for answer in answers:
            with suppress(TimeoutError):
                answer.within(until - time.monotonic())


def patience_of(config: Config) -> float:
    """Seconds for which a drive is waited for where nothing stands in for it."""
    return PATIENCE * config.read_deadline_ns / NS_PER_S


class InUse(SetupError):
    """Another process holds the filesystem: it is mounted, or being worked on."""


def open_drives(
    config: Config, *, degraded: bool, lock: bool = True, quiet: bool = False
) -> Drives:
    """Open and lock every drive. Raises InUse, SetupError with what to do.

    Without `lock` whoever opens them may look, and change nothing.

    An archive drive that is absent, or cannot be opened or locked, or does not answer, is left out
    and named in `absent`; an absent workspace drive too, but only when `degraded`. That it is the
    right drive is found out later. Each is warned of, unless it is to be `quiet`.
    """
    workspace = config.workspace
    pools = [PoolDrives(workspace.name, (), workspace.scheme.m)]
    absent: dict[str, str] = {}
    try:
        # The workspace comes first: who has that works with the filesystem.
        for drive in _open_workspace(workspace, absent, degraded=degraded):
            pools[0] = replace(pools[0], drives=(*pools[0].drives, drive))
            if lock:
                _lock_workspace(drive, config)
        if not pools[0].drives:
            raise SetupError(f"pool {workspace.name!r}: no drive is there; connect them")
        _refuse_shared_disks(config, workspace.name, pools[0].drives)
        pools += _open_archive(config, absent, lock=lock)
        limits = {str(d.path): d.size_bytes for pool in config.pools for d in pool.drives}
        return Drives(tuple(pools), tuple(absent), limits, absent)
    except BaseException:
        Drives(tuple(pools), (), {}).close()
        raise
    finally:
        for path, why in () if quiet else absent.items():
            logger.warning("drive %s is missing: %s", path, why)


def _open_workspace(
    pool: PoolConfig, absent: dict[str, str], *, degraded: bool
) -> Iterator[DirectoryDrive]:
    """The drives of the workspace, one by one; those that a degraded mount lacks are `absent`."""
    for entry in pool.drives:
        try:
            drive = DirectoryDrive(entry.path, limit_bytes=entry.size_bytes)
        except DriveError as error:
            if not degraded:
                raise SetupError(
                    f"drive {entry.path}: {error.cause.strerror}; make the directory, mount its "
                    "disk or correct the config"
                ) from error
            absent[str(entry.path)] = str(error)
            continue
        if entry.mounted and not _is_mounted(drive):
            drive.close()
            if not degraded:
                raise SetupError(
                    f"drive {entry.path}: nothing is mounted there; mount its disk first"
                )
            absent[str(entry.path)] = "nothing is mounted there"
            continue
        yield drive


def _open_archive(config: Config, absent: dict[str, str], *, lock: bool) -> Iterator[PoolDrives]:
    """The archive pools, all drives opened, and locked, side by side: each disk may have to wake.

    One that cannot be had, or has not answered in time, is `absent`.
    """
    patience_s = patience_of(config)
    opening = {
        entry.path: Answer(
            f"opening {entry.path}", partial(_open_archive_drive, entry, patience_s, lock)
        )
        for pool in config.pools[1:]
        for entry in pool.drives
    }
    until = time.monotonic() + patience_s
    for pool in config.pools[1:]:
        drives: list[DirectoryDrive] = []
        for entry in pool.drives:
            try:
                drives.append(opening.pop(entry.path).within(until - time.monotonic()))
                continue
            except TimeoutError:
                why = f"it has not answered within {patience_s:g} s; mount again when it does"
            except (DriveError, _Unusable) as error:
                why = str(error)
            absent[str(entry.path)] = why
        yield PoolDrives(pool.name, tuple(drives), pool.scheme.m)


class _Unusable(Exception):
    """Why an archive drive that can be opened counts as missing."""


def _open_archive_drive(entry: DriveConfig, patience_s: float, lock: bool) -> DirectoryDrive:
    """Open it, and `lock` it. Raises DriveError, _Unusable. Closed when nobody waits any more."""
    drive = ImpatientDrive(entry.path, limit_bytes=entry.size_bytes, patience_s=patience_s)
    try:
        if entry.mounted and not drive.is_mount_point():
            raise _Unusable("nothing is mounted there")
        if lock and not drive.lock():
            raise _Unusable("another process holds it")
    except BaseException:
        drive.close()
        raise
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


def _lock_workspace(drive: DirectoryDrive, config: Config) -> None:
    """Hold the drive. Raises InUse where another process does, SetupError."""
    try:
        held = drive.lock()
    except DriveError as error:
        raise SetupError(f"{error}; is the drive writable?") from error
    if not held:
        place = _mounted_by(pid_of(drive.label))
        if place:
            raise InUse(
                f"filesystem {config.filesystem!r} is in use: {holder_of(drive.label)} has it "
                f"mounted at {place}; run `shmr umount {shlex.quote(place)}` first"
            )
        raise InUse(
            f"filesystem {config.filesystem!r} is in use: {holder_of(drive.label)} works on it; "
            "wait until that has ended"
        )


def _mounted_by(pid: int) -> str:
    """Where this process, a daemon of ours, has a filesystem mounted; nothing if it is none."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        place = json.loads(words[words.index(_DAEMON) + 1])["mountpoint"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""  # it is another program, or ended
    return place if isinstance(place, str) else ""


def create_filesystem(config: Config) -> None:
    """Make the filesystem on empty drives. Raises SetupError where anything is there."""
    drives = open_drives(config, degraded=False)
    try:
        if drives.absent:
            raise SetupError(f"drive {drives.absent[0]} is missing; connect it first")
        _refuse_strangers(drives, config)
        for pool in drives.pools:
            _refuse_shared_disks(config, pool.name, pool.drives)
        _try_schemes(config)
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


def _try_schemes(config: Config) -> None:
    """Every scheme survives the losses that it promises, on this machine. Raises SetupError."""
    for pool in config.pools[1:]:
        self_test(pool.scheme.k, pool.scheme.m, pool.scheme.code)


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
    first: First = nothing_first,
    cut_log: bool = False,
) -> Volume:
    """Identify the drives and open the volume on them; the first time, make it.

    `first` and `cut_log` are for `open_volume`.

    Raises SetupError, DriveError, NoSpace.
    """
    fresh = not read_only and not drives.absent and _is_fresh(drives)
    if fresh:
        for pool in drives.pools:
            _refuse_shared_disks(config, pool.name, pool.drives)
        _try_schemes(config)
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
    seen = last_seen(config.catalog)
    for one in membership.archive_missing:
        if one in seen:
            logger.warning("drive %s was last at %s", one.hex(), seen[one])
    volume = _open(
        config,
        drives,
        membership,
        read_only=read_only,
        parallel=parallel,
        make_writer=make_writer,
        background=background,
        first=first,
        cut_log=cut_log,
    )
    try:
        if cut_log:
            keep_unknown(volume)
        elif not read_only:
            refuse_older(volume)
    except BaseException:
        volume.abandon()
        raise
    if not read_only:
        note_places(config.catalog, {one: d.label for one, d in membership.archive.items()})
    try:
        for warning in reconcile(volume, membership.archives.values()):
            logger.warning("%s", warning)
    except BaseException:
        volume.close()
        raise
    return volume


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
    first: First = nothing_first,
    cut_log: bool = False,
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
        deadline_s=config.read_deadline_ns / NS_PER_S,
        first=first,
        cut_log=cut_log,
    )
