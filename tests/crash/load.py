"""A filesystem under load: workers that write and fsync on a mount, and the judging afterwards."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

from tests.crash.worker import KINDS
from tests.mounted import CHECKOUT, MountedFilesystem, wait_until

PROGRESS_LIMIT_S = 60.0
READ_MAX_BYTES = 1 << 28
"""Files beyond this are holes, more or less."""

_libc = ctypes.CDLL(None, use_errno=True)


class Load:
    """Workers of every kind on one mounted filesystem, `each` of each kind."""

    def __init__(self, filesystem: MountedFilesystem, *, each: int = 2) -> None:
        self._filesystem = filesystem
        self._names = [f"{kind}-{number}" for kind in KINDS for number in range(each)]
        self._running: list[subprocess.Popen[bytes]] = []

    def _told_by(self, name: str) -> Path:
        return self._filesystem.base / f"acknowledged-{name}"

    def count(self) -> int:
        """Acknowledged changes so far, of all rounds."""
        paths = (self._told_by(name) for name in self._names)
        return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())

    def begin(self) -> None:
        """Start the workers; they go on where those of the last round ended."""
        for name in self._names:
            place = self._filesystem.path / name
            place.mkdir(exist_ok=True)
            command = ["-m", "tests.crash.worker", name.partition("-")[0], place]
            self._running.append(
                subprocess.Popen(
                    [sys.executable, *command, self._told_by(name)],
                    cwd=CHECKOUT,
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )

    def run_for(self, changes: int) -> None:
        """Return when `changes` more have been acknowledged."""
        wanted = self.count() + changes
        assert wait_until(lambda: self.count() >= wanted, PROGRESS_LIMIT_S), (
            f"only {self.count()} of {wanted} changes were acknowledged"
        )

    def end(self) -> None:
        """Wait for the workers, whose mount is gone; end those that still live."""
        for worker in self._running:
            worker.send_signal(signal.SIGKILL)
            worker.wait(timeout=PROGRESS_LIMIT_S)
        self._running.clear()

    def lost(self) -> list[str]:
        """What was acknowledged and is not there; and whatever else is wrong with the tree."""
        complaints: list[str] = []
        for name in self._names:
            told = self._told_by(name)
            # A line that was cut is no acknowledgement.
            lines = told.read_text().rpartition("\n")[0].split("\n") if told.exists() else []
            place = self._filesystem.path / name
            try:
                complaints += KINDS[name.partition("-")[0]].judge(place, [w for w in lines if w])
            except (OSError, ValueError) as error:
                complaints.append(f"{place}: {error!r}")
        return complaints + inconsistencies(self._filesystem.path)


def inconsistencies(top: Path) -> list[str]:
    """Whatever below `top` cannot be read, or does not add up."""
    complaints: list[str] = []
    links: dict[int, int] = {}
    claimed: dict[int, int] = {}
    for parent, directories, files in os.walk(top, onerror=lambda e: complaints.append(str(e))):
        here = os.lstat(parent)
        if here.st_nlink != 2 + sum(
            not os.path.islink(os.path.join(parent, name)) for name in directories
        ):
            complaints.append(f"{parent}: {here.st_nlink} links, {len(directories)} directories")
        for name in files:
            path = os.path.join(parent, name)
            try:
                facts = os.lstat(path)
                links[facts.st_ino] = links.get(facts.st_ino, 0) + 1
                claimed[facts.st_ino] = facts.st_nlink
                if stat.S_ISREG(facts.st_mode) and facts.st_size <= READ_MAX_BYTES:
                    size = 0
                    with open(path, "rb") as file:
                        while block := file.read(1 << 20):
                            size += len(block)
                    if size != facts.st_size:
                        complaints.append(f"{path}: {size} of {facts.st_size} bytes")
            except OSError as error:
                complaints.append(str(error))
    complaints += [
        f"inode {number}: {links[number]} names, {claimed[number]} links"
        for number in links
        if links[number] != claimed[number]
    ]
    return complaints


def digest_of(top: Path) -> dict[str, str]:
    """Every regular file below `top`, by its path, with the hash of its content."""
    found = {}
    for parent, _, files in os.walk(top):
        for name in files:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(top))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def make_durable(top: Path) -> None:
    """Everything below the mount point `top`: the page cache's pages, then one commit for all."""
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert _libc.syncfs(descriptor) == 0
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
