"""`shmr drive list`: the drives of all pools, what they hold, and what they are meant for.

Reads the last checkpoint, takes no lock and changes nothing: it works on a mounted filesystem too.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from shmr.config import load
from shmr.core.placement import DriveState
from shmr.service.last_seen import last_seen
from shmr.service.looking.survey import Survey
from shmr.service.looking.whereabouts import looking
from shmr.volume.drive_states import known_state, state_name


@dataclass(frozen=True, slots=True)
class ListedDrive:
    """A drive. `path` is None where the configuration has none for it, `drive` (its id) where there
    is none yet; `missing` says why it is not there. `fragments` are those that it should hold.

    `member`: it belongs to the pool. `state` is None in the workspace. `was_at` is the path where a
    drive without one was last, if that is known.
    """

    pool: str
    path: str | None
    drive: str | None
    member: bool
    state: str | None
    missing: str | None
    fragments: int
    used_bytes: int
    free_bytes: int
    was_at: str | None = None


@dataclass(frozen=True, slots=True)
class DriveList:
    """All drives of a filesystem."""

    filesystem: str
    drives: tuple[ListedDrive, ...]


def drive_list(config_path: str | os.PathLike[str]) -> DriveList:
    """Raises SetupError, IntegrityError."""
    config = load(config_path)
    seen = last_seen(config.catalog)
    with looking(config) as (reading, _, survey):
        fragments: Counter[bytes] = Counter()
        homes: dict[bytes, str] = {}
        for _, archived in reading.archived_segments():
            home = survey.pools.get(archived.pool, archived.pool.hex())
            for placed in archived.fragments:
                fragments[placed.drive] += 1
                homes[placed.drive] = home

        def state(drive: bytes) -> str:
            return known_state(reading.state(state_name(drive), DriveState.NORMAL)).name.lower()

        listed: list[ListedDrive] = []
        for pool in config.pools:
            members = _members(survey, pool.name)
            archive = pool is not config.workspace
            here = [drive for drive in survey.drives if drive.pool == pool.name]
            for drive in here:
                known = drive.drive
                listed.append(
                    ListedDrive(
                        pool.name,
                        drive.path,
                        None if known is None else known.hex(),
                        known in members,
                        state(known) if archive and known is not None else None,
                        drive.missing,
                        0 if known is None else fragments[known],
                        drive.used_bytes,
                        drive.free_bytes,
                    )
                )
            there = {drive.drive for drive in here}
            named = [drive for drive, home in homes.items() if home == pool.name]
            for absent in dict.fromkeys((*members, *named)):
                if absent not in there:
                    held = fragments[absent]
                    what = "missing" if absent in members else "removed, but fragments were on it"
                    meant = state(absent) if archive else None
                    member = absent in members
                    was_at = seen.get(absent)
                    listed.append(
                        ListedDrive(
                            pool.name, None, absent.hex(), member, meant, what, held, 0, 0, was_at
                        )
                    )
        return DriveList(config.filesystem, tuple(listed))


def _members(survey: Survey, pool: str) -> tuple[bytes, ...]:
    """The members of a pool, as the newest superblock has them."""
    there = [drive for drive in survey.drives if drive.pool == pool and drive.members]
    newest = max(there, key=lambda drive: drive.generation, default=None)
    return () if newest is None else newest.members
