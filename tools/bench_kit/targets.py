"""What is measured: the native filesystem, or one mounted over directories of it.

A `Target` says how to mount, a `Mount` is one mount of it, with the server as a child process whose
CPU can be read. All backing directories lie in one scratch directory, so on the same disk. When a
mount is left (also by Ctrl-C) it is unmounted and its server is gone, by SIGKILL if it hangs.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench_kit import CHECKOUT
from bench_kit.measure import RowFailed, process_cpu_s

MOUNT_LIMIT_S = 60.0
UNMOUNT_LIMIT_S = 120.0
DROP_CACHES = "/proc/sys/vm/drop_caches"


@dataclass(frozen=True, slots=True)
class Place:
    """The directories one mount uses, all below `base`."""

    base: Path

    @property
    def branches(self) -> tuple[Path, Path]:
        return self.base / "a", self.base / "b"

    @property
    def mountpoint(self) -> Path:
        return self.base / "mnt"

    @property
    def config(self) -> Path:
        return self.base / "config.yaml"

    @property
    def log(self) -> Path:
        return self.base / "server.log"

    def make(self) -> None:
        for directory in (*self.branches, self.mountpoint):
            directory.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Target:
    """A filesystem to measure. `command` runs its server in the foreground; None is native."""

    name: str
    options: str
    program: str
    command: Callable[[Place], list[str]] | None
    unmount: Callable[[Place], list[str]]

    def missing(self) -> str | None:
        """Why this target cannot be measured here, if so."""
        if self.command is None:
            return None
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            return "/dev/fuse cannot be opened"
        if self.name == "shmr":
            try:
                found = importlib.util.find_spec("shmr.cli.main")
            except ModuleNotFoundError:
                found = None
            return None if found else "the checkout has no shmr.cli.main"
        if shutil.which(self.program) is None:
            return f"{self.program} is not installed (apt install {self.program})"
        return None


def _fusermount(place: Place) -> list[str]:
    return [shutil.which("fusermount3") or "fusermount", "-u", str(place.mountpoint)]


def _shmr(place: Place) -> list[str]:
    drives = "".join(f"      - {branch}\n" for branch in place.branches)
    place.config.write_text(
        "filesystem: bench\n"
        "same_device: true\n"
        "pools:\n"
        "  - name: bench\n"
        "    priority: 0\n"
        "    scheme: single\n"
        f"    drives:\n{drives}",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "shmr.cli.main", "mount"]
    return [*command, str(place.config), str(place.mountpoint), "--foreground"]


def _shmr_umount(place: Place) -> list[str]:
    return [sys.executable, "-m", "shmr.cli.main", "umount", str(place.mountpoint)]


def _bindfs(*options: str) -> Callable[[Place], list[str]]:
    return lambda place: [
        "bindfs", "-f", *options, str(place.branches[0]), str(place.mountpoint),
    ]  # fmt: skip


_MERGERFS_OPTIONS = "cache.files=partial,category.create=mfs,minfreespace=1G"


def _mergerfs(place: Place) -> list[str]:
    branches = ":".join(map(str, place.branches))
    return ["mergerfs", "-f", "-o", _MERGERFS_OPTIONS, branches, str(place.mountpoint)]


TARGETS = {
    target.name: target
    for target in (
        Target("shmr", "two drives, scheme single", "shmr", _shmr, _shmr_umount),
        Target("native", "the directory itself", "", None, _fusermount),
        Target("bindfs", "-f", "bindfs", _bindfs(), _fusermount),
        Target("bindfs-mt", "-f --multithreaded", "bindfs", _bindfs("--multithreaded"),
               _fusermount),
        Target("bindfs-big", "-f -o big_writes", "bindfs", _bindfs("-o", "big_writes"),
               _fusermount),
        Target("mergerfs", f"two branches, -f -o {_MERGERFS_OPTIONS}", "mergerfs", _mergerfs,
               _fusermount),
    )
}  # fmt: skip


def can_drop_caches() -> bool:
    return os.access(DROP_CACHES, os.W_OK)


def drop_caches() -> None:
    """Write out what is dirty, then forget clean pages, dentries and inodes of the machine."""
    os.sync()
    if can_drop_caches():
        Path(DROP_CACHES).write_text("3\n", encoding="ascii")


def is_mounted(path: Path) -> bool:
    escaped = str(path).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return any(line.split(" ")[4] == escaped for line in file)


class Mount:
    """One mount of a target in a place; `root` is where the work is done."""

    def __init__(self, target: Target, place: Place) -> None:
        self.target = target
        self.place = place
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def is_fuse(self) -> bool:
        return self.target.command is not None

    @property
    def root(self) -> Path:
        return self.place.mountpoint if self.is_fuse else self.place.branches[0]

    @property
    def pid(self) -> int | None:
        return None if self._server is None else self._server.pid

    def cpu_s(self) -> float | None:
        """What the server has used so far; None without one."""
        return None if self._server is None else process_cpu_s(self._server.pid)

    def __enter__(self) -> Mount:
        self.place.make()
        try:
            self.mount()
        except BaseException:
            self.unmount()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unmount()

    def mount(self) -> None:
        """Start the server and wait until the mount is there."""
        if self.target.command is None:
            return
        with open(self.place.log, "ab") as log:
            # A session of its own: the terminal's Ctrl-C is ours to handle, in order.
            self._server = subprocess.Popen(
                self.target.command(self.place),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=CHECKOUT,
            )
        deadline = time.monotonic() + MOUNT_LIMIT_S
        while not is_mounted(self.place.mountpoint):
            if self._server.poll() is not None:
                raise RowFailed(f"the server ended while mounting: {self._last_words()}")
            if time.monotonic() > deadline:
                raise RowFailed(f"not mounted after {MOUNT_LIMIT_S:.0f} s: {self._last_words()}")
            time.sleep(0.01)
        os.statvfs(self.place.mountpoint)

    def unmount(self) -> None:
        """Unmount and wait for the server; force both if they hang."""
        server, self._server = self._server, None
        if server is None:
            return
        deadline = time.monotonic() + UNMOUNT_LIMIT_S
        while is_mounted(self.place.mountpoint) and time.monotonic() < deadline:
            if server.poll() is not None:
                break  # it died and left the mount behind
            if self._unmount_once(deadline - time.monotonic()):
                break
            time.sleep(0.2)  # busy: a worker that was just killed still holds a file
        try:
            server.wait(timeout=max(deadline - time.monotonic(), 1.0))
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if is_mounted(self.place.mountpoint):
            lazy = [*_fusermount(self.place), "-z"]
            subprocess.run(lazy, capture_output=True, check=False, timeout=30)

    def _unmount_once(self, limit_s: float) -> bool:
        try:
            done = subprocess.run(
                self.target.unmount(self.place),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                cwd=CHECKOUT,
                start_new_session=True,
                timeout=max(limit_s, 1.0),
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def make_cold(self) -> None:
        """Forget everything: the server (it is started anew) and the kernel's caches."""
        self.unmount()
        drop_caches()
        self.mount()

    def wait_quiet(self, *, quiet_s: float = 0.8, limit_s: float = 5.0) -> float | None:
        """The server's CPU once it rests, so that work it put off is charged to who caused it."""
        spent = self.cpu_s()
        if spent is None:
            return None
        since = time.monotonic()
        deadline = since + limit_s
        while time.monotonic() - since < quiet_s and time.monotonic() < deadline:
            time.sleep(0.05)
            now = self.cpu_s()
            if now is None or now - spent > 0.002:
                since = time.monotonic()
            spent = now if now is not None else spent
        return spent

    def death(self) -> str:
        """For a failure's message: that the server is gone, with its last words; or nothing."""
        if self._server is None or self._server.poll() is None:
            return ""
        return f"; the server ended with {self._server.returncode}: {self._last_words()}"

    def _last_words(self) -> str:
        lines = self.place.log.read_text(encoding="utf-8", errors="replace").split("\n")
        told = [line for line in lines if line.strip()][-3:]
        return " / ".join(told) or "it said nothing"
