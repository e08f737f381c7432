"""Which drive somebody means: by a path of the configuration, or the beginning of an id."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shmr.archive.pool import Pool
from shmr.archive.redistribute import fragments_on
from shmr.config import Config, DriveConfig, PoolConfig
from shmr.drive.seam import Drive
from shmr.errors import SetupError
from shmr.format.archived import Archived
from shmr.service.drives.rehousing import rows_of
from shmr.service.last_seen import last_seen
from shmr.volume.volume import Volume

_ID_MIN = 4
"""So many digits of an id are enough, where no other begins with them."""


class NoMember(SetupError):
    """The path is one of the configuration, but no drive of the pool is meant by it, nor missing.

    So it has left the pool already, or has not joined it yet.
    """


@dataclass(frozen=True, slots=True)
class FoundDrive:
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


def find_drive(volume: Volume, pools: Sequence[Pool], text: str, config: Config) -> FoundDrive:
    """The drive that is meant by a path of the config or the beginning of an id.

    Raises SetupError; NoMember of a path where none is and none is missing.
    """
    wanted = os.path.realpath(text)
    fragments = volume.context.fragments
    for pool in pools:
        for drive in pool.drives:
            there = fragments.drives.get(drive)
            if there is not None and there.label == wanted:
                return FoundDrive(pool, drive, there.label, there, True)
    for entry in config.pools:
        if any(str(drive.path) == wanted for drive in entry.drives):
            if entry is config.workspace:
                raise workspace_refusal(wanted)
            pool = pool_named(config, pools, entry.name)
            seen = last_seen(config.catalog)
            return the_missing(fragments.drives, pool, entry, wanted, seen)
    candidates: dict[bytes, tuple[Pool, bool]] = {}
    for pool in pools:
        for archived in rows_of(volume, pool).values():
            candidates.update((placed.drive, (pool, False)) for placed in archived.fragments)
        candidates.update((drive, (pool, True)) for drive in pool.drives)
    begins = text.lower()
    found = [one for one in candidates if len(begins) >= _ID_MIN and one.hex().startswith(begins)]
    if len(found) != 1:
        raise SetupError(
            f"{text!r}: {'no drive' if not found else 'more than one drive'} of an archive pool is "
            "called so; give a path of the config or an id (`shmr drive list` has them)"
        )
    pool, member = candidates[found[0]]
    there = fragments.drives.get(found[0])
    return FoundDrive(pool, found[0], fragments.label(found[0]), there, member)


def the_missing(
    there: Mapping[bytes, Drive],
    pool: Pool,
    entry: PoolConfig,
    path: str,
    seen: Mapping[bytes, str],
) -> FoundDrive:
    """The one drive of the pool that is missing: it was at a path where it is no more.

    `seen` are the paths where drives were last, by their ids, as far as they are known.
    Raises SetupError where that may be another path of the pool as well, or another drive.
    """
    missing = [drive for drive in pool.drives if drive not in there]
    were = [drive for drive in missing if seen.get(drive) == path]
    if len(were) == 1:
        return FoundDrive(pool, were[0], path, None, True)
    taken = {there[drive].label for drive in pool.drives if drive in there}
    bare = [str(one.path) for one in entry.drives if str(one.path) not in {*taken, path}]
    if not missing:
        raise NoMember(
            f"{path}: no drive of pool {pool.name!r} is there, and none is missing: take its line "
            "out of the config, or make it a drive with `shmr drive add`"
        )
    if len(missing) != 1 or bare:
        ids = ", ".join(_told(drive, seen) for drive in missing)
        beside = f"; no drive is at {', '.join(bare)} either" if bare else ""
        raise SetupError(
            f"{path}: which drive was there is not known{beside}. Give the id of the one that is "
            f"meant, of those that pool {pool.name!r} lacks: {ids}"
        )
    return FoundDrive(pool, missing[0], path, None, True)


def _told(drive: bytes, seen: Mapping[bytes, str]) -> str:
    """The beginning of the id, and where the drive was."""
    short = drive.hex()[:8]
    return f"{short} (last at {seen[drive]})" if drive in seen else short


def configured(config: Config, path: str | os.PathLike[str]) -> tuple[PoolConfig, DriveConfig]:
    """Where the config has a path. Raises SetupError."""
    wanted = Path(os.path.realpath(path))
    for pool in config.pools:
        for entry in pool.drives:
            if entry.path == wanted:
                if pool is config.workspace:
                    raise workspace_refusal(str(wanted))
                return pool, entry
    raise SetupError(
        f"{wanted}: the config does not name it; add this line to `drives:` of its pool in "
        f"{config.path}:\n      - {{path: {wanted}}}"
    )


def workspace_refusal(path: str) -> SetupError:
    return SetupError(
        f"{path} is a drive of the workspace, whose drives cannot be changed yet (they can in "
        "archive pools); a mirror that has lost a drive goes on with `shmr mount --degraded`"
    )


def pool_named(config: Config, pools: Iterable[Pool], name: str) -> Pool:
    """The archive pool of this name. Raises SetupError with what to do."""
    for pool in pools:
        if pool.name == name:
            return pool
    names = [entry.name for entry in config.pools[1:]]
    if name == config.workspace.name:
        raise SetupError(
            f"pool {name!r} is the workspace, whose drives all hold the same; give an archive "
            f"pool: {', '.join(names) or 'there is none'}"
        )
    if name not in names:
        raise SetupError(
            f"the config has no pool {name!r}; its archive pools: {', '.join(names) or 'none'}"
        )
    raise SetupError(
        f"pool {name!r}: no drive of it is there; connect them, or if it is new make its first "
        "with `shmr drive add`"
    )


def count_on(rows: Mapping[int, Archived], drive: bytes) -> int:
    """How many fragments are on a drive, or would be were it there."""
    return sum(1 for _ in fragments_on(rows, drive))
