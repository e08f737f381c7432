"""The drives of a configuration as they are now, looked at without a lock and without a change.

So the filesystem may be mounted meanwhile. A drive that is not there, or is not what the
configuration says, is reported and never an error. Listing an archive drive may wake it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from shmr.config import Config, DriveConfig, PoolConfig
from shmr.drive.directory import DirectoryDrive
from shmr.drive.impatient import Answer
from shmr.errors import DriveError, SetupError
from shmr.service.assemble import patience_of
from shmr.volume.membership import read_superblock


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A drive. `missing` says why it is not there; then there are no files and no numbers.

    `files` are the sizes of its files by name, `members` the drives of its pool as of superblocks
    of this `generation`.
    """

    pool: str
    path: str
    drive: bytes | None = None
    missing: str | None = None
    total_bytes: int = 0
    free_bytes: int = 0
    files: Mapping[str, int] = field(default_factory=dict)
    generation: int = 0
    members: tuple[bytes, ...] = ()

    @property
    def used_bytes(self) -> int:
        return sum(self.files.values())


@dataclass(frozen=True, slots=True)
class Survey:
    """All drives, in the order of the configuration, and the pools' names by id."""

    drives: tuple[Surveyed, ...]
    pools: Mapping[bytes, str]

    def by_id(self) -> dict[bytes, Surveyed]:
        """Those that are there."""
        return {d.drive: d for d in self.drives if d.drive is not None and d.missing is None}


def survey(config: Config, filesystem: bytes) -> Survey:
    """Look at every drive of `config`; `filesystem` is the id that they should have.

    Side by side: each may have to wake, and one that hangs is waited for as a mount does.
    """
    pools: dict[bytes, str] = {}
    looks = [
        (pool.name, path, Answer(f"look at {path}", partial(_look, pool, entry, filesystem, pools)))
        for pool in config.pools
        for entry in pool.drives
        for path in (str(entry.path),)
    ]
    patience_s = patience_of(config)
    until = time.monotonic() + patience_s
    drives = []
    for pool_name, path, look in looks:
        try:
            drives.append(look.within(until - time.monotonic()))
        except TimeoutError:
            why = f"does not answer (for {patience_s:g} s and more)"
            drives.append(Surveyed(pool_name, path, missing=why))
    return Survey(tuple(drives), dict(pools))


def _look(
    pool: PoolConfig, entry: DriveConfig, filesystem: bytes, pools: dict[bytes, str]
) -> Surveyed:
    path = str(entry.path)
    try:
        drive = DirectoryDrive(path, limit_bytes=entry.size_bytes)
    except DriveError as error:
        return Surveyed(pool.name, path, missing=error.cause.strerror or str(error.cause))
    try:
        if entry.mounted and not drive.is_mount_point():
            return Surveyed(pool.name, path, missing="nothing is mounted there")
        block = read_superblock(drive)
        if block is None:
            return Surveyed(pool.name, path, missing="has no superblock")
        if block.filesystem != filesystem:
            name = block.filesystem_name.decode(errors="replace")
            return Surveyed(pool.name, path, missing=f"belongs to another filesystem, {name!r}")
        if block.pool_name.decode(errors="replace") != pool.name:
            name = block.pool_name.decode(errors="replace")
            return Surveyed(pool.name, path, missing=f"belongs to pool {name!r}")
        pools[block.pool] = pool.name
        capacity = drive.capacity()
        return Surveyed(
            pool.name,
            path,
            block.drive,
            None,
            capacity.total_bytes,
            capacity.free_bytes,
            _sizes(drive),
            block.generation,
            block.members,
        )
    except DriveError as error:
        return Surveyed(pool.name, path, missing=error.cause.strerror or str(error.cause))
    except SetupError as error:
        return Surveyed(pool.name, path, missing=str(error))
    finally:
        drive.close()


def _sizes(drive: DirectoryDrive) -> dict[str, int]:
    sizes = {}
    for name in drive.names():
        # A mounted filesystem removes files while we look.
        with suppress(DriveError):
            sizes[name] = drive.size(name)
    return sizes
