"""`shmr umount`: unmount, and return when the daemon has written everything and is gone.

Or as good as gone: a thread that waits for a disk that hangs keeps the process there for as long,
whatever it or the kernel does. By then it has let go of all drives, which is what counts.
"""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path
from typing import NamedTuple

from shmr.errors import SetupError
from shmr.fuse import device
from shmr.service.mounted.daemon import Order
from shmr.service.mounted.note import note_beside

TIMEOUT_S = 600
LOOK_S = 1
"""Between looks whether the daemon still holds a drive."""


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
        await_end(daemon, place)
        _ask_how_it_ended(daemon, place)


def _ask_how_it_ended(daemon: Daemon, place: str) -> None:
    """Raises SetupError if the daemon could not write the last changes."""
    if daemon.log is not None and note_beside(daemon.log).exists():
        raise SetupError(
            f"{place} is unmounted, but what was changed last and not fsynced could not be written:"
            f" {daemon.log} says why. What was fsynced is safe, and the next mount recovers it"
        )


class Daemon(NamedTuple):
    """The process that serves a mount."""

    pid: int
    descriptor: int
    """A pidfd: the number alone may soon be another's."""
    log: Path | None = None
    """Where it writes its log, beside its catalog; None if it may not change the filesystem."""


def _daemon_of(place: str) -> Daemon | None:
    """The process that serves `place`, found by its command line; None if there is none that we
    may see (a mount in the foreground is waited for by who started it)."""
    wanted = [b"shmr.service.mounted.daemon", os.fsencode(place)]
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if all(word in words for word in wanted):
                return Daemon(int(name), os.pidfd_open(int(name)), _log_of(words))
        except OSError:
            continue
    return None


def _log_of(words: list[bytes]) -> Path | None:
    """From the daemon's command line: ... ORDER PIPE MOUNTPOINT LOG."""
    order, _, _, log = (os.fsdecode(word) for word in words[-5:-1])
    return None if Order.decode(order).read_only else Path(log)


def await_end(daemon: Daemon, place: str, limit_s: int = TIMEOUT_S) -> None:
    """Wait until it has ended, or holds no drive any more. Raises SetupError after `limit_s`."""
    try:
        poll = select.poll()
        poll.register(daemon.descriptor, select.POLLIN)
        for _ in range(limit_s // LOOK_S):
            if poll.poll(LOOK_S * 1000) or not _holds_drives(daemon.pid):
                return
        raise SetupError(
            f"{place} is unmounted, but its daemon still writes after {limit_s} s; wait for it "
            "before you switch off"
        )
    finally:
        os.close(daemon.descriptor)


def _holds_drives(pid: int) -> bool:
    """Whether the daemon has a drive locked (flock), as it has until all is written: proc_locks(5).

    Not looked for in /proc/PID: of a process that ends and cannot, that is empty.
    """
    with open("/proc/locks", encoding="ascii") as locks:
        lines = [line.split() for line in locks]
    return any(words[1] == "FLOCK" and words[4] == str(pid) for words in lines)
