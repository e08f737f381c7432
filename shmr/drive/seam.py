"""The one seam to the operating system: what a drive can do, and nothing else.

A drive holds named, append-only files and a few small records. The verbs are those of a zoned
disk: *claim* space, *append* to it, *seal* it, *discard* it whole. There is no rename and no
overwrite, because a zone has neither. `DirectoryDrive` is the real one; `shmr.testing` has a
simulated one with faults. Both pass the same contract suite.

Every method may raise `DriveError`. After an error of `append` or `sync` the file's content
past its last successful `sync` is unknown; the caller must not append to it again.

Thread safety: `read`, `read_cached`, `sync` and `claim` may be called from worker threads; one
file is appended to by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a drive holds, in bytes. `free_bytes` is what may still be claimed.

    `disk_total_bytes` and `disk_free_bytes` are those of the disk below, which several drives may
    share (examples do); 0 where that is the drive itself.
    """

    total_bytes: int
    free_bytes: int
    disk_total_bytes: int = 0
    disk_free_bytes: int = 0


class DriveFile(Protocol):
    """An open file of a drive: appended to until sealed, read at any time."""

    @property
    def name(self) -> str: ...

    @property
    def end(self) -> int:
        """Bytes appended so far: where the next append goes. Allocation does not count."""

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Add the concatenation of `buffers` at `end`; handles short writes.

        Not durable before `sync`. ENOSPC cannot happen inside the claimed size.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; shorter only at the end of the file.

        Claimed space that was never appended to reads as zeros.
        """

    def read_cached(self, offset: int, length: int) -> bytes | bytearray | None:
        """Like `read` if that needs no waiting for the device, else None."""

    def prefetch(self, offset: int, length: int) -> None:
        """Tell the device that these bytes will be read soon. May wait a little; never raises."""

    def sequential(self) -> None:
        """Tell the device that this file is read from front to back. Never raises.

        Where all of it is: telling ahead of each piece (`prefetch`) took two to five times as long.
        """

    def write_back(self, offset: int, length: int) -> None:
        """Have the device begin to write these bytes, so that `sync` finds less to do.

        Promises nothing. May wait a little; never raises: what fails, `sync` will tell.
        """

    def evict(self, offset: int = 0, length: int = 0) -> None:
        """Let reads come from the device again, not from memory; for what was synced. Never raises.

        Of `length` bytes from `offset` on, at least; 0: up to the end. Who wants to know whether
        written bytes arrived calls this before reading them back; who reads much that nobody else
        wants calls it afterwards.
        """

    def sync(self) -> None:
        """Make everything appended before this call durable (fdatasync)."""

    def seal(self) -> None:
        """Declare the file complete: sync it, give back claimed space past `end`."""

    def close(self) -> None:
        """Release the handle. Never raises, may be called twice."""


class Drive(Protocol):
    """One disk (or a directory that stands for one)."""

    @property
    def label(self) -> str:
        """How people call the drive: its path. Used in messages only."""

    def device(self) -> int:
        """`st_dev` of the drive: equal for two drives on one disk."""

    def names(self) -> list[str]:
        """Names of all regular files on the drive, in no order."""

    def size(self, name: str) -> int:
        """Bytes of the file `name` as a reader would see them (allocation included)."""

    def begins(self, name: str) -> int | None:
        """Where on the device the file `name` begins: what lies behind another is read behind it.

        Bytes, for comparing files of one drive. None if that is not known.
        """

    def claim(self, name: str, size_bytes: int) -> DriveFile:
        """Create `name` exclusively, allocate it whole, make its existence durable.

        ENOSPC is raised here or never. On an error nothing of the file is left behind.
        """

    def open(self, name: str, *, end: int = 0) -> DriveFile:
        """Open an existing file. Appending (after recovery) goes on at `end`."""

    def discard(self, name: str) -> None:
        """Remove the file. Its return after a power cut is harmless by the caller's design."""

    def capacity(self) -> Capacity:
        """Ask the device, minding the drive's configured size limit."""

    def put(self, name: str, content: bytes) -> None:
        """Write a small new file durably (claim, append, sync); it must not exist yet."""

    def get(self, name: str) -> bytes:
        """The content of a small file, at most 64 KiB of it."""

    def close(self) -> None: ...
