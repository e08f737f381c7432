"""`shmr drive`: the drives of archive pools join, are emptied, replaced, evened out, and leave.

While nothing is mounted. Redundancy is never lowered silently: what would be is refused with what
it costs, and done with `force`. Everything may be stopped, and goes on when it is run again.

Listing them is `drive_list`; moving the fragments is `shmr.archive.rehouse`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shmr.archive.keep import keeps_snapshot
from shmr.archive.pool import Pool
from shmr.archive.redistribute import Fill, fragments_on, plan_balance, plan_emptying
from shmr.config import Config, DriveConfig, PoolConfig, load
from shmr.core.placement import DriveState
from shmr.drive.directory import DirectoryDrive
from shmr.drive.seam import Drive
from shmr.errors import DriveError, SetupError
from shmr.format.archived import Archived
from shmr.format.superblock import Superblock
from shmr.service.following import Stop, Watcher, nobody_stops
from shmr.service.offline import unmounted
from shmr.service.rehousing import Job, Rehoused, room_of, rows_of
from shmr.volume import members
from shmr.volume.drive_states import state_row
from shmr.volume.known_pools import known_pools, remember
from shmr.volume.membership import read_superblock
from shmr.volume.volume import Volume

_ID_MIN = 4
"""So many digits of an id are enough, where no other begins with them."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A drive that was named: its pool, its id, and the drive itself if it is there."""

    pool: Pool
    drive: bytes
    label: str
    there: Drive | None
    member: bool

    def others(self, volume: Volume) -> list[Drive]:
        """The other drives of the pool that are there."""
        drives = volume.context.fragments.drives
        return [drives[one] for one in self.pool.drives if one in drives and one != self.drive]


# -- joining


def drive_add(config_path: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """The empty directory at `path`, which the config names, becomes a drive of its pool.

    One that is a drive of it already stays as it is. Raises SetupError, DriveError.
    """
    config = load(config_path)
    pool_entry, entry = _configured(config, path)
    with unmounted(config, read_only=False) as (volume, pools):
        pool = _pool(pools, pool_entry.name)
        _add(config, volume, pool, entry)


def _configured(config: Config, path: str | os.PathLike[str]) -> tuple[PoolConfig, DriveConfig]:
    """Where the config has a path. Raises SetupError."""
    wanted = Path(os.path.realpath(path))
    for pool in config.pools:
        for entry in pool.drives:
            if entry.path == wanted:
                if pool is config.workspace:
                    raise _workspace_refusal(str(wanted))
                return pool, entry
    raise SetupError(
        f"{wanted}: the config does not name it; add this line to `drives:` of its pool in "
        f"{config.path}:\n      - {{path: {wanted}}}"
    )


def _workspace_refusal(path: str) -> SetupError:
    return SetupError(
        f"{path} is a drive of the workspace, whose drives cannot be changed yet (they can in "
        "archive pools); a mirror that has lost a drive goes on with `shmr mount --degraded`"
    )


def _add(config: Config, volume: Volume, pool: Pool, entry: DriveConfig) -> None:
    fragments = volume.context.fragments
    try:
        drive = DirectoryDrive(entry.path, limit_bytes=entry.size_bytes)
    except DriveError as error:
        raise SetupError(f"{entry.path}: {error.cause.strerror}; make the directory") from error
    try:
        if entry.mounted and not drive.is_mount_point():
            raise SetupError(f"{entry.path}: nothing is mounted there; mount its disk first")
        block = _superblock(drive)
        if block is not None:
            there = fragments.drives.get(block.drive)
            if there is not None and block.pool == pool.id:
                return
            raise SetupError(
                f"{entry.path}: it was a drive of filesystem "
                f"{block.filesystem_name.decode(errors='replace')!r}, pool "
                f"{block.pool_name.decode(errors='replace')!r}; only an empty directory is added"
            )
        if not drive.is_empty():
            raise SetupError(f"{entry.path}: not empty; only an empty directory is added")
        others = [fragments.drives[one] for one in pool.drives if one in fragments.drives]
        for other in () if config.same_device else others:
            if other.device() == drive.device():
                raise SetupError(
                    f"{entry.path} is on one disk with {other.label}, whose loss would take both; "
                    "use another disk, or say `same_device: true` for a trial"
                )
        known = known_pools(volume.catalog).get(pool.id)
        now = members.join(drive, os.urandom(16), others, time.time_ns(), known=known)
        remember(volume, now)
    finally:
        drive.close()


def _superblock(drive: DirectoryDrive) -> Superblock | None:
    """Whose it is; None: nobody's. A torn one alone is what a cut-off `add` leaves, and goes."""
    try:
        return read_superblock(drive)
    except SetupError:
        torn = [name for name in drive.names() if name.startswith("superblock-")]
        if not drive.is_empty(besides=torn):
            raise
        for name in torn:
            drive.discard(name)
        return None


# -- moving


def drive_drain(
    config_path: str | os.PathLike[str],
    drive: str,
    *,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Rehoused:
    """Every fragment of a drive goes elsewhere, and nothing comes to it any more.

    `drive` is a path of the config, or the beginning of an id. One that is missing is rebuilt from
    the others. Raises SetupError, DriveError, NoSpace, IntegrityError; what was moved stays moved.
    """
    config = load(config_path)
    with unmounted(config, read_only=False) as (volume, pools):
        return _empty(volume, pools, _find(volume, pools, drive, config), watcher, stop)


def drive_replace(
    config_path: str | os.PathLike[str],
    old: str,
    new: str | os.PathLike[str],
    *,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Rehoused:
    """What is on drive `old`, there or not, goes to `new`; then `old` leaves the pool.

    `new` is a path of the config: a drive of the pool, or an empty directory, which is added.
    Raises as `drive_drain` does.
    """
    config = load(config_path)
    pool_entry, entry = _configured(config, new)
    with unmounted(config, read_only=False) as (volume, pools):
        known = _find(volume, pools, old, config)
        if known.pool.name != pool_entry.name:
            raise SetupError(
                f"{entry.path} is for pool {pool_entry.name!r}, {known.label} of pool "
                f"{known.pool.name!r}: name one of the same pool"
            )
        if known.there is not None and known.label == str(entry.path):
            raise SetupError(f"{known.label}: a drive cannot take its own place")
        _add(config, volume, known.pool, entry)
    with unmounted(config, read_only=False) as (volume, pools):
        fragments = volume.context.fragments
        onto = next((i for i, d in fragments.drives.items() if d.label == str(entry.path)), None)
        if onto is None:
            raise SetupError(f"{entry.path}: cannot be used; see the warnings")
        known = _find(volume, pools, known.drive.hex(), config)
        done = _empty(volume, pools, known, watcher, stop, onto=onto)
        if not done.is_complete or not known.member:
            return done
        return replace(done, advice=(_leave(volume, known),))


def _empty(
    volume: Volume,
    pools: Sequence[Pool],
    known: _Known,
    watcher: Watcher | None,
    stop: Stop,
    *,
    onto: bytes | None = None,
) -> Rehoused:
    """Move all fragments off a drive, which is marked first."""
    pool = known.pool
    if known.member:
        volume.context.apply([state_row(known.drive, DriveState.DRAIN)])
        volume.commits.now()
        pool = replace(pool, states={**pool.states, known.drive: DriveState.DRAIN})
    others = [one for one in pools if one.id != pool.id]
    job = Job(volume, [*others, pool], watcher, stop)
    job.recover()
    # What the drive that takes its place cannot have goes to the others.
    for target in (None,) if onto is None else (onto, None):
        plan = plan_emptying(
            rows_of(volume, pool),
            known.drive,
            room_of(volume, pool) if target is None else pool.facts(volume.context.fragments)[0],
            onto=target,
            same_device=pool.same_device,
        )
        job.carry_out(plan)
        if job.rehousing.lost or job.stopped:
            break
    left = _count(rows_of(volume, pool), known.drive)
    if not left:
        job.do(job.rehousing.evacuate(pool, known.drive))
    advice: tuple[str, ...] = ()
    if job.shortage is not None:
        advice = ("add a drive to the pool (`shmr drive add`), or replace this one",)
    elif not left and onto is None:
        verb = "remove" if known.there is not None else "forget"
        advice = (f"nothing is on it any more: `shmr drive {verb}` takes it out of the pool",)
    return job.told(left, advice=advice)


def drive_rebalance(
    config_path: str | os.PathLike[str],
    pool_name: str | None = None,
    *,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Rehoused:
    """Fragments go from fuller drives to emptier ones, in one archive pool or in all.

    Raises as `drive_drain` does.
    """
    config = load(config_path)
    if pool_name == config.workspace.name:
        raise SetupError(f"pool {pool_name!r} is the workspace: all of its drives hold the same")
    with unmounted(config, read_only=False) as (volume, pools):
        job = Job(volume, pools, watcher, stop)
        job.recover()
        for pool in pools if pool_name is None else [_pool(pools, pool_name)]:
            room, rows = room_of(volume, pool), rows_of(volume, pool)
            fills = {fact.drive: _fill(volume, fact.drive) for fact in room}
            whole = all(
                fill.total_bytes - fill.free_bytes >= _count(rows, drive) * pool.zone_bytes
                for drive, fill in fills.items()
            )
            job.carry_out(
                plan_balance(
                    rows,
                    room,
                    fills,
                    zone_bytes=pool.zone_bytes if whole else None,
                    same_device=pool.same_device,
                )
            )
        return job.told(0)


def _fill(volume: Volume, drive: bytes) -> Fill:
    capacity = volume.context.fragments.drives[drive].capacity()
    return Fill(capacity.total_bytes, capacity.free_bytes)


def drive_state(config_path: str | os.PathLike[str], drive: str, state: str) -> None:
    """Say what a drive is meant for: `prefer`, `normal`, `avoid` or `drain`. Raises SetupError."""
    names = {one.name.lower(): one for one in DriveState}
    if state not in names:
        raise SetupError(f"{state!r} is no state: {', '.join(names)}")
    config = load(config_path)
    with unmounted(config, read_only=False) as (volume, pools):
        known = _find(volume, pools, drive, config)
        if not known.member:
            raise SetupError(f"{known.label} is no member of pool {known.pool.name!r}")
        volume.context.apply([state_row(known.drive, names[state])])
        volume.commits.now()


# -- leaving


def drive_remove(
    config_path: str | os.PathLike[str], drive: str, *, force: bool = False
) -> tuple[str, ...]:
    """An empty drive leaves its pool; what to do then, a sentence each. Raises SetupError."""
    return _take_out(config_path, drive, force=force, missing=False)


def drive_forget(
    config_path: str | os.PathLike[str], drive: str, *, force: bool = False
) -> tuple[str, ...]:
    """A drive that will not come back leaves its pool. Raises SetupError."""
    return _take_out(config_path, drive, force=force, missing=True)


def _take_out(
    config_path: str | os.PathLike[str], drive: str, *, force: bool, missing: bool
) -> tuple[str, ...]:
    config = load(config_path)
    with unmounted(config, read_only=False) as (volume, pools):
        known = _find(volume, pools, drive, config)
        if missing and known.there is not None:
            raise SetupError(f"{known.label} is there; `shmr drive remove` takes it out")
        if not missing and known.there is None:
            raise SetupError(
                f"{known.label} is missing; `shmr drive replace` or `drain` rebuilds what it held, "
                "`shmr drive forget` takes it out"
            )
        if not known.member:
            raise SetupError(f"{known.label} is no member of pool {known.pool.name!r} any more")
        job = Job(volume, pools, None, nobody_stops)
        job.recover()
        rows = rows_of(volume, known.pool)
        count = _count(rows, known.drive)
        problems = [] if not count else [_cost(volume, rows, known.drive)]
        left = len(known.pool.drives) - 1
        if left < known.pool.width:
            problems.append(
                f"pool {known.pool.name!r} would have {left} drives, and needs "
                f"{known.pool.width} to be written to"
            )
        if problems and not force:
            raise SetupError(
                f"{known.label}: {'; '.join(problems)}. `shmr drive drain` moves or rebuilds what "
                "it holds, --force takes it out as it is"
            )
        if known.there is not None and not count and keeps_snapshot(known.there):
            pool = replace(known.pool, states={**known.pool.states, known.drive: DriveState.DRAIN})
            job.do(job.rehousing.evacuate(pool, known.drive))
        advice = [_leave(volume, known)]
        if count:
            advice.append(
                f"{count} fragments were on it: `shmr drive drain {config.path} "
                f"{known.drive.hex()[:8]}` rebuilds them on the others, where that can be done"
            )
        return tuple(advice)


def _leave(volume: Volume, known: _Known) -> str:
    """The drive is no member any more; returns what to do with the config."""
    now = members.leave(
        known.drive,
        known.there,
        known.others(volume),
        time.time_ns(),
        known=known_pools(volume.catalog).get(known.pool.id),
    )
    remember(volume, now)
    volume.context.apply([state_row(known.drive, DriveState.NORMAL)])
    volume.commits.now()
    return f"take {known.label} out of the config, if it is there"


def _cost(volume: Volume, rows: dict[int, Archived], drive: bytes) -> str:
    """What taking out a drive with fragments on it would mean."""
    there = volume.context.fragments.drives.keys() - {drive}
    lefts = [
        sum(placed.drive in there for placed in archived.fragments) - archived.k
        for archived in rows.values()
        if drive in {placed.drive for placed in archived.fragments}
    ]
    lost = sum(left < 0 for left in lefts)
    text = f"{len(lefts)} segments have a fragment on it"
    if lost:
        return f"{text}, and {lost} of them would be lost with what they hold"
    return f"{text}, which without it could lose only {min(lefts)} more drives"


# -- finding


def _find(volume: Volume, pools: Sequence[Pool], text: str, config: Config) -> _Known:
    """The drive that is meant by a path of the config or the beginning of an id."""
    wanted = os.path.realpath(text)
    fragments = volume.context.fragments
    for pool in pools:
        for drive in pool.drives:
            there = fragments.drives.get(drive)
            if there is not None and there.label == wanted:
                return _Known(pool, drive, there.label, there, True)
    for entry in config.pools:
        if any(str(drive.path) == wanted for drive in entry.drives):
            if entry is config.workspace:
                raise _workspace_refusal(wanted)
            return _absent(fragments.drives.keys(), _pool(pools, entry.name), wanted)
    candidates: dict[bytes, tuple[Pool, bool]] = {}
    for pool in pools:
        for archived in rows_of(volume, pool).values():
            candidates.update((placed.drive, (pool, False)) for placed in archived.fragments)
        candidates.update((drive, (pool, True)) for drive in pool.drives)
    begins = text.lower()
    found = [one for one in candidates if len(begins) >= _ID_MIN and one.hex().startswith(begins)]
    if len(found) != 1:
        raise SetupError(
            f"{text}: {'no drive' if not found else 'more than one drive'} of an archive pool is "
            "called so; give a path of the config or an id (`shmr drive list` has them)"
        )
    pool, member = candidates[found[0]]
    there = fragments.drives.get(found[0])
    return _Known(pool, found[0], fragments.label(found[0]), there, member)


def _absent(there: Iterable[bytes], pool: Pool, path: str) -> _Known:
    """The drive that was at a path where it is no more: the one that is missing."""
    known = set(there)
    missing = [drive for drive in pool.drives if drive not in known]
    if len(missing) != 1:
        ids = ", ".join(drive.hex()[:8] for drive in missing)
        raise SetupError(
            f"{path}: no drive of the pool is there, and {len(missing)} drives of pool "
            f"{pool.name!r} are missing{': give the id of one, ' + ids if ids else ''}"
        )
    return _Known(pool, missing[0], path, None, True)


def _pool(pools: Iterable[Pool], name: str) -> Pool:
    for pool in pools:
        if pool.name == name:
            return pool
    raise SetupError(f"pool {name!r}: there is none of which a drive is there")


def _count(rows: dict[int, Archived], drive: bytes) -> int:
    return sum(1 for _ in fragments_on(rows, drive))
