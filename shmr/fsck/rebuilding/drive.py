"""`shmr-fsck rebuild-drive`: what was on a lost drive, written anew.

An archive drive: every fragment that was on it is decoded from its siblings and proved, or read if
the drive is there and still gives it; written to the others of the pool or to one new drive, read
back, and only then meant by the catalog. What is closest to loss comes first. May be stopped or
killed at any point, and goes on where it was. It is what `shmr drive drain` and `replace` do, told
as a rebuild: what is on the drive counts as lost until it is elsewhere.

A drive of a mirrored workspace: `rebuild_workspace`.
"""

from __future__ import annotations

import os

from shmr.config import load
from shmr.errors import SetupError
from shmr.fsck.rebuilding.workspace import rebuild_workspace_drive
from shmr.service.drives.move import drive_drain, drive_replace
from shmr.service.drives.rehousing import Rehoused
from shmr.service.following import Stop, Terms, Watcher, nobody_stops


def rebuild_drive(
    config_path: str | os.PathLike[str],
    drive: str,
    *,
    onto: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    limit_rate: int | None = None,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Rehoused:
    """All fragments of drive `drive` (a path of the config, or the beginning of an id) anew.

    On the other drives of its pool; or `onto` one, a path of the config: an empty directory, which
    becomes a drive of the pool, or one that is. Then the lost drive leaves the pool. `limit_rate`
    is in bytes per second.
    Raises SetupError with what to do, DriveError, NoSpace, IntegrityError; what was written anew
    stays.
    """
    config = load(config_path)
    if os.path.realpath(drive) in {str(entry.path) for entry in config.workspace.drives}:
        if onto is not None and os.path.realpath(onto) != os.path.realpath(drive):
            raise SetupError(
                f"{drive} is a drive of the workspace: make an empty directory in its place, or "
                f"put {os.fspath(onto)} into the config instead of it, and name that as DRIVE"
            )
        return rebuild_workspace_drive(config, drive, Terms(watcher, stop, limit_rate, dry_run))
    if onto is None:
        return drive_drain(
            config_path,
            drive,
            dry_run=dry_run,
            limit_rate=limit_rate,
            watcher=watcher,
            stop=stop,
            lost=True,
        )
    return drive_replace(
        config_path,
        drive,
        onto,
        dry_run=dry_run,
        limit_rate=limit_rate,
        watcher=watcher,
        stop=stop,
        lost=True,
    )
