"""`shmr drive remove` and `forget`: a drive leaves its archive pool.

Redundancy is never lowered silently: what would be lost is told, and needs `force`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace

from shmr.archive.keep import copies_on, copy_number, keeps_snapshot
from shmr.archive.leave import take_from
from shmr.config import load
from shmr.core.placement import DriveState
from shmr.errors import SetupError
from shmr.format.archived import Archived
from shmr.service.drives.find import FoundDrive, NoMember, count_on, find_drive
from shmr.service.drives.rehousing import Job
from shmr.service.following import Terms
from shmr.service.offline import unmounted
from shmr.volume import members
from shmr.volume.damage import mended_rows
from shmr.volume.drive_states import state_row
from shmr.volume.known_pools import forget, known_pools, remember
from shmr.volume.volume import Volume


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
        try:
            found = find_drive(volume, pools, drive, config)
        except NoMember as error:
            # What was cut off at its very end is run again, and there is nothing left to do.
            return (str(error),)
        _check_presence(found, missing=missing)
        with Job("remove", config, volume, pools, Terms()) as job:
            rows = job.rows(found.pool)
            count = count_on(rows, found.drive)
            problems = _problems(volume, rows, found)
            if problems and not force:
                raise SetupError(
                    f"{found.label}: {'; '.join(problems)}. `shmr drive drain` moves or rebuilds "
                    "what it holds, --force takes it out as it is"
                )
            if len(found.pool.drives) == 1:
                return (_end(volume, rows, found),)
            if found.there is not None and not count and keeps_snapshot(found.there):
                states = {**found.pool.states, found.drive: DriveState.DRAIN}
                pool = replace(found.pool, states=states)
                job.do(job.rehousing.evacuate(pool, found.drive))
            # One with something on it keeps its superblock: so it can come back.
            there = found.there if not count else None
            advice = [leave(volume, replace(found, there=there))]
            if count and found.there is not None:
                advice.append(
                    f"{count} fragments are on it: `shmr drive add` takes it in again with them, "
                    f"`shmr drive drain {config.path} {found.drive.hex()[:8]}` rebuilds them on "
                    "the others, where that can be done"
                )
            elif count:
                advice.append(
                    f"{count} fragments were on it: `shmr drive drain {config.path} "
                    f"{found.drive.hex()[:8]}` rebuilds them on the others, where that can be done"
                )
            return tuple(advice)


def _check_presence(found: FoundDrive, *, missing: bool) -> None:
    if missing and found.there is not None:
        raise SetupError(f"{found.label} is there; `shmr drive remove` takes it out")
    if not missing and found.there is None:
        raise SetupError(
            f"{found.label} is missing; `shmr drive replace` or `drain` rebuilds what it held, "
            "`shmr drive forget` takes it out"
        )
    if not found.member:
        raise SetupError(f"{found.label} is no member of pool {found.pool.name!r} any more")


def _end(volume: Volume, rows: Mapping[int, Archived], found: FoundDrive) -> str:
    """The last drive leaves, and with it the pool ends; returns what to do with the config."""
    if rows or found.there is None:
        raise SetupError(
            f"{found.label} is the only drive of pool {found.pool.name!r}, and "
            f"{_count(len(rows), 'segment')} of the pool would be lost: move what they hold first "
            f"(`shmr-compact --all --from {found.pool.name} --to POOL`)"
        )
    # The journal first: a drive that is left over would be remembered again.
    forget(volume, found.pool.id)
    # Copies of snapshots have nowhere to go.
    for name in found.there.names():
        if name.startswith("snapshot-"):
            found.there.discard(name)
    take_from(found.there)
    members.end(found.there)
    return f"pool {found.pool.name!r} is no more: take it out of the config"


def leave(volume: Volume, found: FoundDrive) -> str:
    """The drive is no member any more; returns what to do with the config.

    With `found.there` it is left as an empty directory, that any filesystem may take.
    """
    if found.there is not None:
        # Before the superblock goes: a run that is cut off can be run again.
        take_from(found.there)
    now = members.leave(
        found.drive,
        found.there,
        found.others(volume),
        time.time_ns(),
        known=known_pools(volume.catalog).get(found.pool.id),
    )
    remember(volume, now)
    rows = mended_rows(volume.catalog, found.drive)
    volume.context.apply([state_row(found.drive, DriveState.NORMAL), *rows])
    volume.commits.now()
    return f"take {found.label} out of the config, if it is there"


def _problems(volume: Volume, rows: Mapping[int, Archived], found: FoundDrive) -> list[str]:
    """What taking out the drive would cost, a clause each."""
    there = volume.context.fragments.drives.keys() - {found.drive}
    lefts = [
        sum(placed.drive in there for placed in archived.fragments) - archived.k
        for archived in rows.values()
        if found.drive in {placed.drive for placed in archived.fragments}
    ]
    problems = []
    lost = sum(left < 0 for left in lefts)
    if lefts:
        text = f"{_count(len(lefts), 'segment')} of the pool have a fragment on it"
        text += (
            f", and {lost} of them would be lost with what they hold"
            if lost
            else f", and without it could lose {_count(min(lefts), 'more drive', 'only ')}"
        )
        problems.append(text)
    unknown = _unknown(volume, found)
    if unknown:
        problems.append(
            f"{_count(unknown, 'file')} on it may be all that is left of a workspace that was lost "
            "(`shmr-fsck check` tells of them)"
        )
    left = len(found.pool.drives) - 1
    if left < found.pool.width:
        problems.append(
            f"pool {found.pool.name!r} would have {_count(left, 'drive')}, and needs "
            f"{found.pool.width} to be written to"
        )
    return problems


def _unknown(volume: Volume, found: FoundDrive) -> int:
    """How many files on the drive nothing but a log that is lost may have known."""
    gaps, fragments = volume.archive.gaps(), volume.context.fragments
    if not gaps or found.there is None:
        return 0
    copies = sum(copy_number(name) in gaps for name in copies_on(found.there))
    there = volume.archive.unknown_in(fragments.scan())
    return copies + sum(drive == found.drive for drive, _ in there)


def _count(number: int, noun: str, only: str = "") -> str:
    return f"{only}{number} {noun}{'' if number == 1 else 's'}"
