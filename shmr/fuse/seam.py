"""The volume as the kernel's requests need it: the names that `operations` calls.

`shmr.volume` provides it; tests have an in-memory one. All of it is synchronous and called in one
thread, but for `ReadPlan.fetch`. Everything may raise `Refused`, `IntegrityError`, `DriveError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from shmr.drive.seam import Buffer
from shmr.format.rows import Inode
from shmr.volume.attributes import AttributeChange
from shmr.volume.context import Caller

Commit = Callable[[Callable[[Exception | None], None]], None]
"""Makes everything so far durable, and tells who asked when it is, or what made it impossible."""


class Names(Protocol):
    """Directories and the names in them."""

    def lookup(self, parent: int, name: bytes, /) -> Inode: ...

    def find(self, parent: int, name: bytes, /) -> Inode | None:
        """Like `lookup`; None where that raises ENOENT for the name."""

    def by_handle(self, number: int, /) -> Inode:
        """The inode with this number, which may have gone: ESTALE."""

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        caller: Caller,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode: ...

    def link(self, number: int, parent: int, name: bytes, /) -> Inode: ...

    def unlink(self, parent: int, name: bytes, /) -> None: ...

    def rmdir(self, parent: int, name: bytes, /) -> None: ...

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, /
    ) -> None: ...

    def entries(self, directory: int, after: int, /) -> Iterator[tuple[bytes, Inode, int]]: ...


class Attributes(Protocol):
    """Mode, owner, times, size."""

    def get(self, number: int, /) -> Inode: ...

    def set(self, number: int, change: AttributeChange, /) -> Inode: ...

    def accessed(self, number: int, /) -> None: ...

    def makes_way(self, number: int, size: int, /) -> bool:
        """A step of what must be done before a file can grow to `size`; False: nothing (more)."""


class Xattrs(Protocol):
    """Extended attributes, POSIX ACLs among them."""

    def get(self, number: int, name: bytes, /) -> bytes: ...

    def find(self, number: int, name: bytes, /) -> bytes | None:
        """Like `get`; None where that raises ENODATA."""

    def set(self, number: int, name: bytes, value: bytes, /) -> None: ...

    def list(self, number: int, /) -> list[bytes]: ...

    def remove(self, number: int, name: bytes, /) -> None: ...


class ReadPlan(Protocol):
    """A read: `fetch` may run in any thread, the rest in the volume's."""

    def fetch_cached(self) -> Buffer | None: ...

    def fetch(self) -> Buffer: ...

    def release(self) -> None: ...


class Data(Protocol):
    """The contents of regular files."""

    def read_cached(self, number: int, offset: int, size: int, /) -> Buffer | None: ...

    def plan_read(self, number: int, offset: int, size: int, /) -> ReadPlan: ...

    def write(self, number: int, offset: int, payload: bytes | memoryview, /) -> None: ...


class Holes(Protocol):
    """Ranges of regular files without data."""

    def allocate(self, number: int, offset: int, length: int, *, keep_size: bool) -> None: ...

    def punch(self, number: int, offset: int, length: int) -> None: ...

    def zero(self, number: int, offset: int, length: int, *, keep_size: bool) -> None: ...

    def reach(self, number: int, offset: int, length: int, /) -> int: ...


class Handles(Protocol):
    """Who uses which inode."""

    keep_known: bool

    def opened(self, number: int, /) -> None: ...

    def is_open(self, number: int, /) -> bool: ...

    def closed(self, number: int, /) -> None: ...

    def forgotten(self, number: int, /) -> None: ...


class Usage(Protocol):
    """What statfs(2) tells."""

    @property
    def block_size(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def blocks_free(self) -> int: ...
    @property
    def blocks_available(self) -> int: ...
    @property
    def files(self) -> int: ...
    @property
    def files_free(self) -> int: ...


class Volume(Protocol):
    """The filesystem without FUSE."""

    @property
    def names(self) -> Names: ...
    @property
    def attributes(self) -> Attributes: ...
    @property
    def xattrs(self) -> Xattrs: ...
    @property
    def data(self) -> Data: ...
    @property
    def holes(self) -> Holes: ...
    @property
    def handles(self) -> Handles: ...

    def usage(self) -> Usage: ...
