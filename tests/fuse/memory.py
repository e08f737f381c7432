"""A volume in memory for the tests of the FUSE layer: right about names and bytes, quick, and
with knobs for what a real volume does rarely (`failures`, `uncached`).

It keeps what the kernel does not check itself, and no more: it is not the model that the volume
is judged by.
"""

from __future__ import annotations

import errno
import stat
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from shmr.errors import Refused
from shmr.format.rows import ROOT, Inode
from shmr.volume.attributes import AttributeChange
from shmr.volume.context import Caller


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    block_size: int = 4096
    blocks: int = 1_000_000
    blocks_free: int = 900_000
    blocks_available: int = 800_000
    files: int = 500_000
    files_free: int = 400_000


class MemoryPlan:
    """A read of bytes that are at hand; `uncached` ones only by `fetch`."""

    def __init__(self, payload: bytes, uncached: bool) -> None:
        self.payload = payload
        self.uncached = uncached
        self.released = 0

    def fetch_cached(self) -> bytes | None:
        return None if self.uncached else self.payload

    def fetch(self) -> bytes:
        return self.payload

    def release(self) -> None:
        self.released += 1


class MemoryVolume:
    """All parts of a volume in one object."""

    def __init__(self) -> None:
        now = time.time_ns()
        root = Inode(ROOT, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, now, now, now, 0, 1, ROOT)
        self.inodes: dict[int, Inode] = {ROOT: root}
        self.directories: dict[int, dict[bytes, tuple[int, int]]] = {ROOT: {}}
        self.contents: dict[int, bytearray] = {}
        self.extended: dict[int, dict[bytes, bytes]] = {}
        self.next_number = 2
        self.keep_known = False
        self.open_counts: Counter[int] = Counter()
        self.known_gone: list[int] = []
        self.plans: list[MemoryPlan] = []
        self.uncached = False
        self.in_the_way = 0
        self.failures: dict[str, list[Exception]] = {}
        self.calls: Counter[str] = Counter()

    # One object plays every part; two parts have methods of the same names, so these stand apart.

    @property
    def names(self) -> MemoryVolume:
        return self

    @property
    def data(self) -> MemoryVolume:
        return self

    @property
    def holes(self) -> MemoryVolume:
        return self

    @property
    def handles(self) -> MemoryVolume:
        return self

    @property
    def attributes(self) -> MemoryAttributes:
        return MemoryAttributes(self)

    @property
    def xattrs(self) -> MemoryXattrs:
        return MemoryXattrs(self)

    def usage(self) -> MemoryUsage:
        return MemoryUsage()

    def enter(self, name: str) -> None:
        """Note a call, and fail as the test planned it."""
        self.calls[name] += 1
        planned = self.failures.get(name)
        if planned:
            raise planned.pop(0)

    def inode(self, number: int) -> Inode:
        if number not in self.inodes:
            raise Refused(errno.ENOENT)
        return self.inodes[number]

    def replace(self, number: int, **fields: object) -> Inode:
        row = self.inode(number)._replace(**fields)  # type: ignore[arg-type]
        self.inodes[number] = row
        return row

    # -- names ----------------------------------------------------------------------------

    def find(self, parent: int, name: bytes, /) -> Inode | None:
        self.enter("lookup")
        if len(name) > 255:
            raise Refused(errno.ENAMETOOLONG)
        if name not in self.directories[parent]:
            return None
        return self.inode(self.directories[parent][name][0])

    def by_handle(self, number: int, /) -> Inode:
        if number not in self.inodes:
            raise Refused(errno.ESTALE)
        return self.inode(number)

    def lookup(self, parent: int, name: bytes, /) -> Inode:
        found = self.find(parent, name)
        if found is None:
            raise Refused(errno.ENOENT)
        return found

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        caller: Caller,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        self.enter("create")
        if len(name) > 255:
            raise Refused(errno.ENAMETOOLONG)
        if name in self.directories[parent]:
            raise Refused(errno.EEXIST)
        number, self.next_number = self.next_number, self.next_number + 1
        if not stat.S_ISLNK(mode):
            mode &= ~caller.umask
        is_directory = stat.S_ISDIR(mode)
        now = time.time_ns()
        self.inodes[number] = Inode(
            number, mode, 2 if is_directory else 1, caller.uid, caller.gid, rdev,
            len(target), 0, now, now, now, 0, 1, parent if is_directory else 0, target,
        )  # fmt: skip
        if is_directory:
            self.directories[number] = {}
            self.replace(parent, links=self.inodes[parent].links + 1)
        self._name(parent, name, number)
        return self.inodes[number]

    def _name(self, parent: int, name: bytes, number: int) -> None:
        cookie = self.inodes[parent].next_cookie
        self.directories[parent][name] = (number, cookie)
        self.replace(parent, next_cookie=cookie + 1)

    def link(self, number: int, parent: int, name: bytes, /) -> Inode:
        if name in self.directories[parent]:
            raise Refused(errno.EEXIST)
        self._name(parent, name, number)
        return self.replace(number, links=self.inode(number).links + 1)

    def unlink(self, parent: int, name: bytes, /) -> None:
        number, _ = self.directories[parent].pop(name)
        self.replace(number, links=self.inode(number).links - 1)

    def rmdir(self, parent: int, name: bytes, /) -> None:
        number = self.directories[parent][name][0]
        if self.directories[number]:
            raise Refused(errno.ENOTEMPTY)
        del self.directories[parent][name]
        self.replace(number, links=0)
        self.replace(parent, links=self.inodes[parent].links - 1)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, /
    ) -> None:
        if flags not in (0, 1, 2):
            raise Refused(errno.EINVAL)
        if flags == 1 and new_name in self.directories[new_parent]:
            raise Refused(errno.EEXIST)
        number = self.directories[parent][name][0]
        if flags == 2:
            other = self.directories[new_parent][new_name][0]
            self._name(parent, name, other)
        else:
            if new_name in self.directories[new_parent]:
                self.unlink(new_parent, new_name)
            del self.directories[parent][name]
        self._name(new_parent, new_name, number)

    def entries(self, directory: int, after: int, /) -> Iterator[tuple[bytes, Inode, int]]:
        self.enter("entries")
        listed = sorted(
            (cookie, name, number) for name, (number, cookie) in self.directories[directory].items()
        )
        for cookie, name, number in listed:
            if cookie > after:
                yield name, self.inode(number), cookie

    # -- data -----------------------------------------------------------------------------

    def read_cached(self, number: int, offset: int, size: int, /) -> bytes | None:
        """Nothing is plain here: every read is planned."""
        return None

    def plan_read(self, number: int, offset: int, size: int, /) -> MemoryPlan:
        self.enter("plan_read")
        content = self.contents.get(number, bytearray())
        length = min(size, max(0, self.inode(number).size - offset))
        payload = bytes(content[offset : offset + length]).ljust(length, b"\0")
        self.plans.append(MemoryPlan(payload, self.uncached))
        return self.plans[-1]

    def write(self, number: int, offset: int, payload: bytes | memoryview, /) -> None:
        self.enter("write")
        content = self.contents.setdefault(number, bytearray())
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(payload)] = payload
        size = max(self.inode(number).size, offset + len(payload))
        self.replace(number, size=size, allocated=-(-size // 4096) * 4096)

    def allocate(self, number: int, offset: int, length: int, *, keep_size: bool) -> None:
        self.enter("allocate")
        if not keep_size:
            self.replace(number, size=max(self.inode(number).size, offset + length))

    def punch(self, number: int, offset: int, length: int) -> None:
        self.enter("punch")
        end = min(offset + length, self.inode(number).size)
        self.write(number, offset, bytes(max(0, end - offset)))

    def zero(self, number: int, offset: int, length: int, *, keep_size: bool) -> None:
        self.enter("zero")
        self.punch(number, offset, length)
        self.allocate(number, offset, length, keep_size=keep_size)

    def reach(self, number: int, offset: int, length: int) -> int:
        return length

    # -- handles --------------------------------------------------------------------------

    def opened(self, number: int, /) -> None:
        self.open_counts[number] += 1

    def is_open(self, number: int, /) -> bool:
        return self.open_counts[number] > 0

    def closed(self, number: int, /) -> None:
        self.enter("closed")
        self.open_counts[number] -= 1

    def forgotten(self, number: int, /) -> None:
        self.enter("forgotten")
        if self.inodes[number].links == 0 and not self.open_counts[number]:
            del self.inodes[number]
            self.known_gone.append(number)


class MemoryAttributes:
    def __init__(self, volume: MemoryVolume) -> None:
        self._volume = volume

    def get(self, number: int, /) -> Inode:
        self._volume.enter("get")
        return self._volume.inode(number)

    def set(self, number: int, change: AttributeChange, /) -> Inode:
        self._volume.enter("set")
        fields = {
            name: getattr(change, name)
            for name in change.__slots__
            if getattr(change, name) is not None
        }
        fields.setdefault("ctime_ns", time.time_ns())
        if "mode" in fields:
            fields["mode"] |= stat.S_IFMT(self._volume.inode(number).mode)
        if "size" in fields:
            del self._volume.contents.setdefault(number, bytearray())[fields["size"] :]
        return self._volume.replace(number, **fields)

    def makes_way(self, number: int, size: int, /) -> bool:
        self._volume.enter("makes_way")
        self._volume.in_the_way = max(0, self._volume.in_the_way - 1)
        return self._volume.in_the_way > 0

    def accessed(self, number: int, /) -> None:
        self._volume.enter("accessed")
        self._volume.replace(number, atime_ns=time.time_ns())


class MemoryXattrs:
    def __init__(self, volume: MemoryVolume) -> None:
        self._volume = volume

    def _of(self, number: int) -> dict[bytes, bytes]:
        return self._volume.extended.setdefault(number, {})

    def find(self, number: int, name: bytes, /) -> bytes | None:
        self._volume.enter("getxattr")
        return self._of(number).get(name)

    def get(self, number: int, name: bytes, /) -> bytes:
        value = self.find(number, name)
        if value is None:
            raise Refused(errno.ENODATA)
        return value

    def set(self, number: int, name: bytes, value: bytes, /) -> None:
        self._of(number)[name] = value

    def list(self, number: int, /) -> list[bytes]:
        return sorted(self._of(number))

    def remove(self, number: int, name: bytes, /) -> None:
        self.get(number, name)
        del self._of(number)[name]
