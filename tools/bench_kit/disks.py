"""Equal slow disks for a benchmark, made of memory: a loop device on a tmpfs file, with ext4 on it,
held to a rate by the kernel's throttle for block devices.

Reads and writes are throttled apart, each to the rate: a disk that does both at once does twice as
much as one with a single head would. There are no seeks. Of version 1 of the blkio controller the
root group is used, where this process has to be; of version 2 one of our own, which this process
enters (tried with version 1 only). Needs root and util-linux. Everything is undone at the end,
whatever happens.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shmr.units import MIB

MEMORY_MAX_BYTES = 7 * 1024 * MIB
_TOOLS = ("losetup", "mkfs.ext4", "mount", "umount", "fstrim")


class CannotMakeDisks(Exception):
    """This machine has not what it takes; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted disk. `device` is its "major:minor"."""

    mountpoint: Path
    device: str


class Throttle:
    """Sets how fast a block device may be read and written, each; None: as fast as it is."""

    def __init__(self) -> None:
        self._old = _mounted("cgroup", "blkio")
        self._group: Path | None = None
        if self._old is not None:
            if ("blkio", "/") not in _own_groups():
                raise CannotMakeDisks("this process is not in the root group of blkio")
            return
        root = _mounted("cgroup2", "")
        if root is None or "io" not in _words(root / "cgroup.controllers"):
            raise CannotMakeDisks(
                "there is no io controller: mount -t cgroup -o blkio none /sys/fs/cgroup/blkio"
            )
        self._root = root
        self._before = root / next((path for name, path in _own_groups() if not name), "/")[1:]
        self._group = root / f"shmr-bench-{os.getpid()}"

    def __enter__(self) -> Throttle:
        if self._group is not None:
            (self._root / "cgroup.subtree_control").write_text("+io")
            self._group.mkdir()
            try:
                (self._group / "cgroup.procs").write_text(str(os.getpid()))
            except OSError:
                self._group.rmdir()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._group is not None:
            with suppress(OSError):
                (self._before / "cgroup.procs").write_text(str(os.getpid()))
                self._group.rmdir()

    def limit(self, disk: Disk, rate: int | None) -> None:
        if self._group is not None:
            word = "max" if rate is None else str(rate)
            (self._group / "io.max").write_text(f"{disk.device} rbps={word} wbps={word}")
            return
        assert self._old is not None
        for direction in ("read", "write"):
            file = self._old / f"blkio.throttle.{direction}_bps_device"
            file.write_text(f"{disk.device} {rate or 0}")


class Disks:
    """`slow` disks of one rate, and one, `fast`, that has none. Made by `disks`."""

    def __init__(self, fast: Disk, slow: list[Disk], throttle: Throttle, rate: int) -> None:
        self.fast = fast
        self.slow = slow
        self._throttle = throttle
        self._rate = rate

    def limit(self) -> None:
        for disk in self.slow:
            self._throttle.limit(disk, self._rate)

    def unlimit(self) -> None:
        for disk in self.slow:
            self._throttle.limit(disk, None)

    def trim(self) -> None:
        """Give the memory of what was deleted back."""
        for disk in (self.fast, *self.slow):
            _run("fstrim", str(disk.mountpoint))


@contextmanager
def disks(
    base: Path, count: int, rate: int, *, slow_bytes: int, fast_bytes: int
) -> Iterator[Disks]:
    """`count` slow disks and a fast one, mounted below `base`. Raises CannotMakeDisks."""
    if os.geteuid():
        raise CannotMakeDisks("only root can make disks")
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise CannotMakeDisks(f"not installed: {', '.join(missing)} (util-linux, e2fsprogs)")
    if not os.path.exists("/dev/loop-control"):
        raise CannotMakeDisks("there are no loop devices (modprobe loop)")
    with ExitStack() as undo:
        throttle = undo.enter_context(Throttle())
        memory = base / "memory"
        memory.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={MEMORY_MAX_BYTES}", "none", str(memory))
        undo.callback(_unmount, memory)
        sizes = [fast_bytes, *[slow_bytes] * count]
        made = [
            _disk(undo, throttle, memory / f"{index}", base / f"disk{index}", size)
            for index, size in enumerate(sizes)
        ]
        yield Disks(made[0], made[1:], throttle, rate)


def _disk(undo: ExitStack, throttle: Throttle, image: Path, mountpoint: Path, size: int) -> Disk:
    """One disk; how it is undone is on the stack before the next step is taken."""
    with open(image, "wb") as file:
        file.truncate(size)
    loop = _run("losetup", "--find", "--show", str(image)).strip()
    undo.callback(_run, "losetup", "--detach", loop)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", loop)
    mountpoint.mkdir()
    _run("mount", "-o", "noatime", loop, str(mountpoint))
    undo.callback(_unmount, mountpoint)
    number = os.stat(loop).st_rdev
    disk = Disk(mountpoint, f"{os.major(number)}:{os.minor(number)}")
    undo.callback(throttle.limit, disk, None)
    return disk


def _unmount(mountpoint: Path) -> None:
    with suppress(CannotMakeDisks):
        _run("umount", str(mountpoint))
        return
    # Somebody still has a file open there: out of sight at least, and gone when it is closed.
    _run("umount", "--lazy", str(mountpoint))


def _run(*command: str) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True
    )
    if done.returncode:
        raise CannotMakeDisks(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _mounted(kind: str, option: str) -> Path | None:
    """Where a cgroup hierarchy is mounted."""
    with open("/proc/mounts", encoding="ascii") as lines:
        for line in lines:
            _, path, found, options = line.split()[:4]
            if found == kind and (not option or option in options.split(",")):
                return Path(path)
    return None


def _own_groups() -> list[tuple[str, str]]:
    """The controllers of each hierarchy (empty: version 2), and this process's group there."""
    groups = []
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, names, path = line.split(":", 2)
        groups += [(name, path) for name in names.split(",")]
    return groups


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split() if path.exists() else []
