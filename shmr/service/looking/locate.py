"""From what a person names to an inode: a number, a path inside a mount, a path from the top."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator

from shmr.catalog.reading import Reading
from shmr.config import Config, load
from shmr.errors import ConfigError, SetupError
from shmr.format.rows import Inode
from shmr.service.mounted.daemon import Order

_MOUNT_TYPE = b"fuse.shmr"
_DAEMON = b"shmr.service.mounted.daemon"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_GONE = {errno.ENOTCONN, errno.EIO, errno.EACCES}


def mount_points(config: Config) -> tuple[str, ...]:
    """Where the filesystem is mounted, without touching the mounts.

    Two filesystems may share a name: those whose daemon has another catalog are left out, where
    there is a daemon that we may see.
    """
    with open("/proc/self/mountinfo", "rb") as lines:
        named = parse_mounts(lines.read(), config.filesystem)
    if not named:
        return ()
    orders = dict(_orders())
    return tuple(place for place in named if _is_of(config, orders.get(place)))


def _orders() -> Iterator[tuple[str, str]]:
    """Mount point and configuration of each daemon that we may see, from its command line."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            order = Order.decode(words[words.index(_DAEMON) + 1].decode())
        except (OSError, ValueError, TypeError, LookupError):
            continue  # it is another program, or ended
        yield order.mountpoint, order.config


def _is_of(config: Config, other: str | None) -> bool:
    if other is None:
        return True
    try:
        return load(other).catalog == config.catalog
    except ConfigError:
        return True


def parse_mounts(mountinfo: bytes, filesystem: str) -> tuple[str, ...]:
    """The mount points of a mountinfo text (proc_pid_mountinfo(5)) that show `filesystem`."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(b" - ")
        fields, tail = before.split(b" "), after.split(b" ")
        whole = len(fields) > 4 and len(tail) > 1
        if whole and tail[0] == _MOUNT_TYPE and _unescape(tail[1]) == os.fsencode(filesystem):
            found.append(os.fsdecode(_unescape(fields[4])))
    return tuple(found)


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda digits: bytes([int(digits[1], 8) & 0xFF]), field)


def locate(what: str, reading: Reading, mounts: tuple[str, ...]) -> Inode:
    """The inode that `what` means: digits are a number, everything else is a path.

    A path that leads into one of `mounts` is asked for there; any other begins at the top of the
    filesystem. Raises SetupError when the last checkpoint does not know it.
    """
    if what.isascii() and what.isdigit():
        return _known(int(what), what, reading)
    place = os.path.realpath(what)
    for mount in sorted(mounts, key=len, reverse=True):
        if place != mount and not place.startswith(mount.rstrip("/") + "/"):
            continue
        number = _mounted_inode(place)
        if number is not None:
            return _known(number, what, reading)
        what = place[len(mount) :] or "/"
        break
    found = reading.find(os.fsencode(what))
    if found is None:
        raise SetupError(
            f"{what}: the last checkpoint knows no such path; give a path inside a mount, a path "
            "from the top of the filesystem, or the number of an inode"
        )
    return _known(found, what, reading)


def _mounted_inode(place: str) -> int | None:
    """What the mount says; None if it is dead or not ours to enter. Raises SetupError."""
    try:
        return os.lstat(place).st_ino
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise SetupError(f"{place}: {error.strerror}") from error


def _known(number: int, what: str, reading: Reading) -> Inode:
    inode = reading.inode(number) if number < 2**64 else None
    if inode is None:
        raise SetupError(
            f"{what}: the last checkpoint knows no inode {number}; a checkpoint is made within ten "
            "seconds of a change, so try again if it is new"
        )
    if not stat.S_ISREG(inode.mode):
        raise SetupError(f"{what}: not a regular file; only these have bytes that lie somewhere")
    return inode
