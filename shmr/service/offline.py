"""A filesystem that is not mounted, opened to be worked on: by whoever moves what is archived.

The drives' locks tell whether it is in use; they are held until the work is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shmr.archive.pool import Pool
from shmr.codec.selftest import known_code
from shmr.config import Config
from shmr.errors import DriveError, SetupError
from shmr.service.assemble import Drives, open_drives, open_filesystem
from shmr.volume.drive_states import states
from shmr.volume.known_pools import KnownPool, current
from shmr.volume.membership import FIRST_SUPERBLOCK, read_superblock
from shmr.volume.volume import First, Volume, nothing_first


@contextmanager
def unmounted(
    config: Config,
    *,
    read_only: bool,
    first: First = nothing_first,
    cut_log: bool = False,
) -> Iterator[tuple[Volume, list[Pool]]]:
    """The volume, and the archive pools of which a drive is there. Closed cleanly at the end.

    `first` and `cut_log` are for `open_volume`.
    Raises SetupError with what to do: it is mounted, or was never made, or cannot be changed.
    """
    drives = open_drives(config, degraded=False)
    try:
        refuse_untouched(drives)
        volume = open_filesystem(
            config,
            drives,
            read_only=read_only,
            degraded=False,
            first=first,
            cut_log=cut_log,
        )
        try:
            if volume.read_only is not None and not read_only:
                raise SetupError(f"it cannot be changed: {volume.read_only}")
            yield volume, archive_pools(config, drives, volume)
        except Exception:
            volume.close()
            raise
        except BaseException:
            # Ctrl-C came in the middle of anything: half an operation must never become durable.
            volume.abandon()
            raise
        volume.close()
    finally:
        drives.close()


def refuse_untouched(drives: Drives) -> None:
    """Raises SetupError if nothing was ever made here: opening would, and nobody asked for that."""
    try:
        untouched = all(drive.is_empty(besides=(FIRST_SUPERBLOCK,)) for drive in drives.all())
    except DriveError:
        return
    if untouched:
        raise SetupError(
            "there is no filesystem yet: mount it, or run `shmr create CONFIG`, and fill it"
        )


def archive_pools(config: Config, drives: Drives, volume: Volume) -> list[Pool]:
    """The archive pools, as their superblocks and the configuration have them."""
    there = {id(drive) for drive in volume.context.fragments.drives.values()}
    pools = []
    for entry, opened in zip(config.pools[1:], drives.pools[1:], strict=True):
        blocks = [read_superblock(drive) for drive in opened.drives if id(drive) in there]
        known = [block for block in blocks if block is not None]
        if not known:
            continue
        newest = max(known, key=lambda block: block.generation)
        ids = tuple(block.drive for block in known)
        now = current(
            volume.catalog, KnownPool(newest.pool, entry.name, newest.generation, newest.members)
        )
        missing = tuple(member for member in now.members if member not in ids)
        pools.append(
            Pool(
                newest.pool,
                entry.name,
                entry.scheme.k,
                entry.scheme.m,
                known_code(entry.scheme.code),
                entry.zone_size_bytes,
                (*ids, *missing),
                clean_at=entry.clean_at,
                same_device=config.same_device,
                states=states(volume.catalog, (*ids, *missing)),
            )
        )
    return pools
