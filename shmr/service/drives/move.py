"""`shmr drive drain`, `replace` and `rebalance`: fragments go from archive drives to others.

While nothing is mounted. All of it may be stopped or killed, and goes on when it is run again.
Left to others: which goes where (`shmr.archive.redistribute`), how (`shmr.archive.rehouse`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

from shmr.archive.exposure import Whole
from shmr.archive.pool import Pool
from shmr.archive.redistribute import Fill, fragments_on, plan_balance, plan_emptying
from shmr.config import Config, DriveConfig, PoolConfig, load
from shmr.core.placement import DriveState
from shmr.errors import SetupError
from shmr.format.fragment import BLOCK
from shmr.service.drives.add import add, besides, identity, opened
from shmr.service.drives.find import (
    FoundDrive,
    NoMember,
    configured,
    count_on,
    find_drive,
    pool_named,
    the_missing,
)
from shmr.service.drives.leave import leave
from shmr.service.drives.rehousing import Job, Rehoused, rows_of, whole_now
from shmr.service.following import Stop, Terms, Watcher, nobody_stops
from shmr.service.last_seen import last_seen
from shmr.service.offline import unmounted
from shmr.volume.damage import mended_rows
from shmr.volume.drive_states import state_row
from shmr.volume.volume import Volume


def drive_drain(
    config_path: str | os.PathLike[str],
    drive: str,
    *,
    dry_run: bool = False,
    limit_rate: int | None = None,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
    lost: bool = False,
) -> Rehoused:
    """Every fragment of a drive goes elsewhere, and nothing comes to it any more.

    `drive` is a path of the config, or the beginning of an id. One that is missing is rebuilt from
    the others. `limit_rate` is in bytes per second. `lost`: what is on the drive counts as lost,
    also where it can be read, in what is told of the risk.
    Raises SetupError, DriveError, NoSpace, IntegrityError; what was moved stays moved.
    """
    config, terms = load(config_path), Terms(watcher, stop, limit_rate, dry_run)
    with unmounted(config, read_only=dry_run) as (volume, pools):
        found = find_drive(volume, pools, drive, config)
        name = "rebuild" if lost else "drain"
        return _empty(name, config, volume, pools, found, terms, lost=lost)


def drive_replace(
    config_path: str | os.PathLike[str],
    old: str,
    new: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    limit_rate: int | None = None,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
    lost: bool = False,
) -> Rehoused:
    """What is on drive `old`, there or not, goes to `new`; then `old` leaves the pool.

    `new` is a path of the config: a drive of the pool, or an empty directory, which is added.
    `lost` is as of `drive_drain`. Raises as `drive_drain` does.
    """
    config, terms = load(config_path), Terms(watcher, stop, limit_rate, dry_run)
    name = "rebuild" if lost else "replace"
    pool_entry, entry = configured(config, new)
    with unmounted(besides(config, entry), read_only=dry_run) as (volume, pools):
        try:
            found = _old(config, volume, pools, old, pool_entry, entry)
        except NoMember as error:
            if not _at(volume, entry):
                raise
            # What was cut off at its very end is run again, and there is nothing left to do.
            return Rehoused(advice=(str(error),), dry_run=dry_run)
        if dry_run:
            with _imagined(config, volume, found.pool, entry) as (pool, place):
                found = replace(found, pool=pool)
                return _empty(name, config, volume, pools, found, terms, onto=place, lost=lost)
        add(config, volume, pools, pool_entry, entry)
    with unmounted(config, read_only=False) as (volume, pools):
        onto = _at(volume, entry)
        if onto is None:
            raise SetupError(f"{entry.path}: cannot be used; see the warnings")
        found = find_drive(volume, pools, found.drive.hex(), config)
        done = _empty(name, config, volume, pools, found, terms, onto=onto, lost=lost)
        if not done.is_complete or not found.member:
            return done
        return replace(done, advice=(leave(volume, found),))


def _old(
    config: Config,
    volume: Volume,
    pools: Sequence[Pool],
    old: str,
    pool: PoolConfig,
    entry: DriveConfig,
) -> FoundDrive:
    """The drive that is to be replaced by the one at `entry`. Raises SetupError, NoMember."""
    # Where NEW is bare, that is no sign of a drive that is missing.
    same = os.path.realpath(old) == str(entry.path)
    found = find_drive(volume, pools, old, config if same else besides(config, entry))
    if found.pool.name != pool.name:
        raise SetupError(
            f"{entry.path} is for pool {pool.name!r}, {found.label} of pool "
            f"{found.pool.name!r}: name one of the same pool"
        )
    if found.there is not None and found.label == str(entry.path):
        return _predecessor(volume, found, pool, last_seen(config.catalog))
    return found


def _predecessor(
    volume: Volume, found: FoundDrive, entry: PoolConfig, seen: Mapping[bytes, str]
) -> FoundDrive:
    """Whose place a drive of the pool takes at its path, in a run that was cut off.

    Raises SetupError where that is not known, NoMember where that was all.
    """
    there = volume.context.fragments.drives
    missing = [drive for drive in found.pool.drives if drive not in there]
    if not missing:
        raise NoMember(
            f"{found.label} is a drive of pool {found.pool.name!r}, and none is missing: nothing "
            "is left to be done"
        )
    try:
        return the_missing(there, found.pool, entry, found.label, seen)
    except SetupError as error:
        ids = ", ".join(drive.hex()[:8] for drive in missing)
        raise SetupError(
            f"{found.label} is a drive of pool {found.pool.name!r}; to have it take the place of "
            f"another give the id of that: {ids}"
        ) from error


def _at(volume: Volume, entry: DriveConfig) -> bytes | None:
    """The drive of an archive pool that is at a path."""
    drives = volume.context.fragments.drives
    return next((one for one, drive in drives.items() if drive.label == str(entry.path)), None)


@contextmanager
def _imagined(
    config: Config, volume: Volume, pool: Pool, entry: DriveConfig
) -> Iterator[tuple[Pool, bytes]]:
    """For a dry run: the pool as if the drive at `entry` were in it. Nothing is written."""
    there = _at(volume, entry)
    if there is not None:
        yield pool, there
        return
    # Its superblock takes a block.
    size = None if entry.size_bytes is None else entry.size_bytes - BLOCK
    with closing(opened(replace(entry, size_bytes=size))) as drive:
        imagined = identity(config, volume, pool, drive)
        assert imagined is not None, "it would be there"
        volume.context.fragments.drives[imagined] = drive
        try:
            yield replace(pool, drives=(*pool.drives, imagined)), imagined
        finally:
            del volume.context.fragments.drives[imagined]


def _empty(
    name: str,
    config: Config,
    volume: Volume,
    pools: Sequence[Pool],
    found: FoundDrive,
    terms: Terms,
    *,
    onto: bytes | None = None,
    lost: bool = False,
) -> Rehoused:
    """Move all fragments off a drive, which is marked first."""
    pool = found.pool
    if onto is not None:
        _refuse_siblings(volume, found, onto)
    if found.member:
        if not terms.dry_run:
            volume.context.apply([state_row(found.drive, DriveState.DRAIN)])
            volume.commits.now()
        pool = replace(pool, states={**pool.states, found.drive: DriveState.DRAIN})
    others = [one for one in pools if one.id != pool.id]
    with Job(name, config, volume, [*others, pool], terms) as job:
        whole = whole_now(volume, without=found.drive if lost else None)
        job.watch(pool, whole)
        # What the drive that takes its place cannot have goes to the others.
        for target in (None,) if onto is None else (onto, None):
            _carry_off(job, pool, found.drive, target, whole)
        left = count_on(job.rows(pool), found.drive)
        if not left:
            job.do(job.rehousing.evacuate(pool, found.drive))
        if not left and not terms.dry_run:
            volume.context.apply(mended_rows(volume.catalog, found.drive))
        advice: tuple[str, ...] = ()
        if job.shortage is not None:
            other = "replace this one" if onto is None else "replace it by a larger one"
            advice = (f"add a drive to the pool (`shmr drive add`), or {other}; then run it again",)
            if found.member and not terms.dry_run:
                advice += ("it is given nothing more until `shmr drive state` says `normal`",)
        elif not left and onto is None and not terms.dry_run:
            verb = "remove" if found.there is not None else "forget"
            command = f"shmr drive {verb} {config.path} {found.drive.hex()}"
            advice = (f"nothing is on it any more: `{command}` takes it out of the pool",)
        return job.told(left, advice=advice)


def _carry_off(job: Job, pool: Pool, drive: bytes, onto: bytes | None, whole: Whole) -> None:
    """Every fragment of a drive that can be restored goes to the others, or `onto` one of them.

    What was meant for a drive that fails is planned anew, without that one.
    """
    failed: set[bytes] | None = None
    while not job.stopped and failed != job.rehousing.failed.keys():
        failed = set(job.rehousing.failed)
        if onto in failed:
            return
        lost = job.lost_segments
        plan = plan_emptying(
            {number: row for number, row in job.rows(pool).items() if number not in lost},
            drive,
            job.room(pool, whole=onto is not None),
            onto=onto,
            same_device=pool.same_device,
            whole=whole,
        )
        job.carry_out(pool, plan)


def _refuse_siblings(volume: Volume, found: FoundDrive, onto: bytes) -> None:
    """Raise SetupError where no fragment of the drive may be on the one that is to have them.

    Not where that was begun: then the rest goes to others.
    """
    if found.pool.states.get(found.drive) is DriveState.DRAIN:
        return
    rows = rows_of(volume, found.pool)
    numbers = [number for number, _ in fragments_on(rows, found.drive)]
    if numbers and all(
        onto in {placed.drive for placed in rows[number].fragments} for number in numbers
    ):
        raise SetupError(
            f"{volume.context.fragments.label(onto)} holds another fragment of every segment that "
            f"{found.label} has one of, and may not hold two: name an empty directory or another "
            "drive; nothing was changed"
        )


def drive_rebalance(
    config_path: str | os.PathLike[str],
    pool_name: str | None = None,
    *,
    dry_run: bool = False,
    limit_rate: int | None = None,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Rehoused:
    """Fragments go from fuller drives to emptier ones, in one archive pool or in all.

    Raises as `drive_drain` does.
    """
    config, terms = load(config_path), Terms(watcher, stop, limit_rate, dry_run)
    with unmounted(config, read_only=dry_run) as (volume, pools):
        wanted = pools if pool_name is None else [pool_named(config, pools, pool_name)]
        with Job("rebalance", config, volume, pools, terms) as job:
            for pool in wanted:
                room, rows = job.room(pool), job.rows(pool)
                fills = {fact.drive: _fill(volume, fact.drive) for fact in room}
                whole = all(
                    fill.total_bytes - fill.free_bytes >= count_on(rows, drive) * pool.zone_bytes
                    for drive, fill in fills.items()
                )
                plan = plan_balance(
                    rows,
                    room,
                    fills,
                    zone_bytes=pool.zone_bytes if whole else None,
                    same_device=pool.same_device,
                )
                job.carry_out(pool, plan)
            return job.told(len(job.rehousing.undone))


def _fill(volume: Volume, drive: bytes) -> Fill:
    capacity = volume.context.fragments.drives[drive].capacity()
    return Fill(capacity.total_bytes, capacity.free_bytes)
