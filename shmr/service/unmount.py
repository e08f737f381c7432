"""`shmr umount`: unmount, and return when the daemon has written everything and is gone."""

from __future__ import annotations

import errno
import os
import select

from shmr.errors import SetupError
from shmr.fuse import device

TIMEOUT_S = 600


def unmount(mountpoint: str | os.PathLike[str]) -> None:
    """Unmount `mountpoint`; waits for its daemon to end. Raises SetupError."""
    place = os.path.abspath(mountpoint)
    there = device.mounted_filesystem(place)
    if there is None:
        raise SetupError(f"{place}: nothing is mounted there")
    if there.filesystem_type != "fuse.shmr":
        raise SetupError(f"{place}: {there.filesystem_type} is mounted there, not shmr")
    daemon = _daemon_of(place)
    try:
        device.unmount(place, lazy=device.is_dead_mount(place))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SetupError(
                f"{place}: in use; `fuser -vm {place}` tells by whom; close that and try again"
            ) from error
        raise SetupError(f"{place}: cannot be unmounted: {error.strerror}") from error
    if daemon is not None:
        _await_end(daemon, place)


def _daemon_of(place: str) -> int | None:
    """A pidfd of the process that serves `place`, found by its command line; None if there is
    none that we may see (a mount in the foreground is waited for by who started it)."""
    wanted = [b"shmr.service.daemon", os.fsencode(place)]
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if all(word in words for word in wanted):
                return os.pidfd_open(int(name))
        except OSError:
            continue
    return None


def _await_end(daemon: int, place: str) -> None:
    try:
        poll = select.poll()
        poll.register(daemon, select.POLLIN)
        if not poll.poll(TIMEOUT_S * 1000):
            raise SetupError(
                f"{place} is unmounted, but its daemon still writes after {TIMEOUT_S} s; wait for "
                "it before you switch off"
            )
    finally:
        os.close(daemon)
