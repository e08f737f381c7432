"""A drive that stops answering: reads wait until it is let go, or fail then.

Stands before any other drive. Only reads hang (and with `opening` opening files too): what a disk
does that retries a bad sector, or whose cable is loose. Threads that wait are counted, so that a
test can wait for them instead of for a time.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence

from shmr.drive.seam import Buffer, Capacity, Drive, DriveFile
from shmr.errors import DriveError

WAIT_MAX_S = 60.0
"""Nothing hangs for longer, so that a test that forgets to let go ends."""


class HangingDrive:
    """A `Drive` in whose place `drive` answers, while it is not hung."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self._answering = threading.Event()
        self._answering.set()
        self._failing = False
        self._opening = False
        self._arrived = threading.Condition()
        self.waiting = 0
        """Threads that wait for an answer now."""

    def hang(self, *, opening: bool = False) -> None:
        """Answer nothing from now on."""
        self._opening = opening
        self._failing = False
        self._answering.clear()

    def let_go(self, *, failing: bool = False) -> None:
        """Answer again, also those who wait; with `failing` these get an error."""
        self._failing = failing
        self._answering.set()

    def await_waiting(self, count: int) -> bool:
        """Wait until so many threads wait for an answer; False if they do not come."""
        with self._arrived:
            return self._arrived.wait_for(lambda: self.waiting >= count, WAIT_MAX_S)

    def answer(self, verb: str) -> None:
        """Wait until there is an answer."""
        if self._answering.is_set():
            return
        with self._arrived:
            self.waiting += 1
            self._arrived.notify_all()
        answered = self._answering.wait(WAIT_MAX_S)
        with self._arrived:
            self.waiting -= 1
        if self._failing or not answered:
            raise DriveError(self.label, verb, OSError(errno.EIO, "the drive hung"))

    @property
    def label(self) -> str:
        return self.drive.label

    def device(self) -> int:
        return self.drive.device()

    def names(self) -> list[str]:
        return self.drive.names()

    def size(self, name: str) -> int:
        return self.drive.size(name)

    def begins(self, name: str) -> int | None:
        return self.drive.begins(name)

    def claim(self, name: str, size_bytes: int) -> DriveFile:
        return HangingFile(self, self.drive.claim(name, size_bytes))

    def open(self, name: str, *, end: int = 0) -> DriveFile:
        if self._opening:
            self.answer("open")
        return HangingFile(self, self.drive.open(name, end=end))

    def discard(self, name: str) -> None:
        self.drive.discard(name)

    def capacity(self) -> Capacity:
        return self.drive.capacity()

    def put(self, name: str, content: bytes) -> None:
        self.drive.put(name, content)

    def get(self, name: str) -> bytes:
        return self.drive.get(name)

    def close(self) -> None:
        self.drive.close()


class HangingFile:
    """An open file of a `HangingDrive`."""

    def __init__(self, drive: HangingDrive, file: DriveFile) -> None:
        self._drive = drive
        self._file = file

    @property
    def name(self) -> str:
        return self._file.name

    @property
    def end(self) -> int:
        return self._file.end

    def append(self, buffers: Sequence[Buffer]) -> None:
        self._file.append(buffers)

    def read(self, offset: int, length: int) -> bytes:
        self._drive.answer("read")
        return self._file.read(offset, length)

    def read_cached(self, offset: int, length: int) -> bytes | bytearray | None:
        return self._file.read_cached(offset, length)

    def prefetch(self, offset: int, length: int) -> None:
        self._file.prefetch(offset, length)

    def sequential(self) -> None:
        self._file.sequential()

    def write_back(self, offset: int, length: int) -> None:
        self._file.write_back(offset, length)

    def evict(self, offset: int = 0, length: int = 0) -> None:
        self._file.evict(offset, length)

    def sync(self) -> None:
        self._file.sync()

    def seal(self) -> None:
        self._file.seal()

    def close(self) -> None:
        self._file.close()
