"""`shmr drive state`: what an archive drive is meant for."""

from __future__ import annotations

import os

from shmr.config import load
from shmr.core.placement import DriveState
from shmr.errors import SetupError
from shmr.service.drives.find import find_drive
from shmr.service.offline import unmounted
from shmr.volume.drive_states import state_row


def drive_state(config_path: str | os.PathLike[str], drive: str, state: str) -> None:
    """Say what a drive is meant for: `prefer`, `normal`, `avoid` or `drain`. Raises SetupError."""
    names = {one.name.lower(): one for one in DriveState}
    if state not in names:
        raise SetupError(f"{state!r} is no state: {', '.join(names)}")
    config = load(config_path)
    with unmounted(config, read_only=False) as (volume, pools):
        found = find_drive(volume, pools, drive, config)
        if not found.member:
            raise SetupError(f"{found.label} is no member of pool {found.pool.name!r}")
        volume.context.apply([state_row(found.drive, names[state])])
        volume.commits.now()
