"""Operations as values: generated from a seed, performed on a volume and on the model alike.

An operation names files by path, because inode numbers differ between the two. `perform` returns
what the caller of the system call would learn: nothing, the errno, or what was found. What only a
volume has (commit, checkpoint, cleaner, ...) is an operation here too, and is performed elsewhere
(`shmr.testing.trial`).
"""

from __future__ import annotations

import errno
import random
import stat
from typing import Any, NamedTuple

from shmr.errors import IntegrityError, Refused
from shmr.format.rows import ROOT, Inode
from shmr.testing.content import windows
from shmr.units import KIB
from shmr.volume.attributes import AttributeChange
from shmr.volume.context import Caller

MAINTENANCE = {
    "commit": 8, "begin": 6, "sync": 3, "end": 5, "checkpoint": 4, "snapshot": 2, "clean": 6,
    "step": 6, "reap": 4, "measure": 1, "plan": 3, "fetch": 3,
}  # fmt: skip
"""Operations that nobody sees in the tree, and how often each comes."""
CALLER = Caller(1000, 1000, 0o022)
DIRECTORIES = (b"/", b"/d", b"/e", b"/d/f")
NAMES = (b"a", b"b", b"c", "ä".encode(), b"n" * 200)
FAVOURITE = b"/a"
"""A file that much is done to, so that it has many extents."""
SLOTS = 3
XATTRS = (b"user.one", b"user.two", b"trusted.three")
LARGE = 700 * KIB
BEFORE_HOLES = frozenset({0, 2, 3, 8, 10, 16, 17, 23, 26, 37, 42, 57, 98})
"""Seeds that found something before there were operations on holes. They have none, so that they
make what they made; tests name them."""
Answer = int | tuple[int, ...] | None
"""Of an operation: the errno of what was refused, what was found, or nothing."""


class Operation(NamedTuple):
    """A verb and its arguments: numbers and bytes only, so that it prints as what it is."""

    verb: str
    arguments: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        shown = ", ".join(repr(argument) for argument in self.arguments)
        return f"{self.verb}({shown})"


def payload(seed: int, length: int) -> bytes:
    """Bytes of a write: no two seeds give the same."""
    return random.Random(seed).randbytes(length)


class Performer:
    """Performs operations on one filesystem: a volume, or a model. Knows its open files."""

    def __init__(self, filesystem: Any) -> None:
        # A volume and a model have the same parts; no common type names all their methods.
        self._on = filesystem
        self.slots: dict[int, int] = {}

    def perform(self, operation: Operation) -> Answer:
        """Do it, and answer; lets all errors but refusals through."""
        try:
            answer: Answer = getattr(self, "_" + operation.verb)(*operation.arguments)
        except Refused as error:
            if error.errno == errno.ENOSPC:
                raise
            return error.errno
        return answer

    def find(self, path: bytes) -> Inode:
        inode: Inode = self._on.attributes.get(ROOT)
        for name in path.split(b"/"):
            if name:
                inode = self._on.names.lookup(inode.number, name)
        return inode

    def unreadable(self, path: bytes) -> bool:
        """Are the bytes of this file refused?"""
        inode = self.find(path)
        for offset, length in windows(inode.size):
            plan = self._on.data.plan_read(inode.number, offset, length)
            try:
                plan.fetch()
            except IntegrityError:
                return True
            finally:
                plan.release()
        return False

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        above, _, name = path.rpartition(b"/")
        return self.find(above).number, name

    def _create(self, path: bytes, mode: int, rdev: int, target: bytes) -> None:
        parent, name = self._parent(path)
        self._on.names.create(parent, name, mode, CALLER, rdev=rdev, target=target)

    def _link(self, path: bytes, new_path: bytes) -> None:
        self._on.names.link(self.find(path).number, *self._parent(new_path))

    def _unlink(self, path: bytes) -> None:
        self._on.names.unlink(*self._parent(path))

    def _rmdir(self, path: bytes) -> None:
        self._on.names.rmdir(*self._parent(path))

    def _rename(self, path: bytes, new_path: bytes, flags: int) -> None:
        self._on.names.rename(*self._parent(path), *self._parent(new_path), flags)

    def _write(self, path: bytes, offset: int, length: int, seed: int) -> None:
        self._on.data.write(self.find(path).number, offset, payload(seed, length))

    def _truncate(self, path: bytes, size: int) -> None:
        self._on.attributes.set(self.find(path).number, AttributeChange(size=size))

    def _cut(self, path: bytes, size: int) -> None:
        self._on.data.truncate(self.find(path).number, size)

    def _punch(self, path: bytes, offset: int, length: int) -> None:
        self._on.holes.punch(self.find(path).number, offset, length)

    def _zero(self, path: bytes, offset: int, length: int, keep_size: bool) -> None:
        self._on.holes.zero(self.find(path).number, offset, length, keep_size=keep_size)

    def _allocate(self, path: bytes, offset: int, length: int, keep_size: bool) -> None:
        self._on.holes.allocate(self.find(path).number, offset, length, keep_size=keep_size)

    def _seek(self, path: bytes, offset: int, hole: bool) -> tuple[int, ...]:
        """All ends of data and holes from `offset` on."""
        number = self.find(path).number
        found = [self._on.holes.seek(number, offset, hole=hole)]
        try:
            while True:
                hole = not hole
                found.append(self._on.holes.seek(number, found[-1], hole=hole))
        except Refused:
            return tuple(found)

    def _attributes(self, path: bytes, mode: int, uid: int, mtime_ns: int) -> None:
        change = AttributeChange(mode=mode, uid=uid, mtime_ns=mtime_ns)
        self._on.attributes.set(self.find(path).number, change)

    def _set_xattr(self, path: bytes, name: bytes, length: int, seed: int) -> None:
        self._on.xattrs.set(self.find(path).number, name, payload(seed, length))

    def _remove_xattr(self, path: bytes, name: bytes) -> None:
        self._on.xattrs.remove(self.find(path).number, name)

    def _open(self, slot: int, path: bytes) -> None:
        if slot not in self.slots:
            number = self.find(path).number
            self._on.handles.opened(number)
            self.slots[slot] = number

    def _write_open(self, slot: int, offset: int, length: int, seed: int) -> None:
        if slot in self.slots:
            self._on.data.write(self.slots[slot], offset, payload(seed, length))

    def _close(self, slot: int) -> None:
        if slot in self.slots:
            self._on.handles.closed(self.slots.pop(slot))


class Generator:
    """Makes operations; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        chances = _CHANCES if seed in BEFORE_HOLES else _CHANCES | _CHANCES_OF_HOLES
        self._verbs, self._weights = tuple(chances), tuple(chances.values())
        self._seeds = 0
        self._files: list[bytes] = []

    def operations(self, count: int) -> list[Operation]:
        """A workload: names first, then everything."""
        first = [Operation("create", (d, stat.S_IFDIR | 0o777, 0, b"")) for d in DIRECTORIES[1:]]
        first.append(Operation("create", (FAVOURITE, stat.S_IFREG | 0o644, 0, b"")))
        first += [self._create() for _ in range(4)]
        return first + [self.next() for _ in range(count - len(first))]

    def next(self) -> Operation:
        verb = self._rng.choices(self._verbs, self._weights)[0]
        made: Operation = getattr(self, "_" + verb)()
        return made

    def path(self) -> bytes:
        """Some path; most often one at which a file was made."""
        if self._rng.random() < 0.25:
            return FAVOURITE
        if self._files and self._rng.random() < 0.8:
            return self._rng.choice(self._files)
        if self._rng.random() < 0.2:
            return self._rng.choice(DIRECTORIES)
        return self._new_path()

    def _new_path(self) -> bytes:
        directory = self._rng.choice(DIRECTORIES)
        return directory.rstrip(b"/") + b"/" + self._rng.choice(NAMES)

    def _seed(self) -> int:
        self._seeds += 1
        return self._seeds << 32 | self._rng.getrandbits(32)

    def _create(self) -> Operation:
        path = self._new_path()
        kind = self._rng.choices(_KINDS, (30, 2, 3, 1, 1))[0]
        target = b"to/" + self._rng.choice(NAMES) if kind == stat.S_IFLNK else b""
        rdev = 0x0103 if kind == stat.S_IFCHR else 0
        mode = kind | self._rng.choice((0o644, 0o755, 0o2775, 0o6711, 0))
        self._files = [*self._files[-20:], path]
        return Operation("create", (path, mode, rdev, target))

    def _link(self) -> Operation:
        new = self._new_path()
        self._files.append(new)
        return Operation("link", (self.path(), new))

    def _unlink(self) -> Operation:
        path = self.path()
        return Operation("unlink", (path if path != FAVOURITE else self.path(),))

    def _rmdir(self) -> Operation:
        return Operation("rmdir", (self._rng.choice(DIRECTORIES[1:]),))

    def _mkdir(self) -> Operation:
        mode = stat.S_IFDIR | self._rng.choice((0o755, 0o2777))
        return Operation("create", (self._rng.choice(DIRECTORIES[1:]), mode, 0, b""))

    def _rename(self) -> Operation:
        new = self._new_path() if self._rng.random() < 0.6 else self.path()
        flags = self._rng.choices((0, 1, 2, 3), (12, 2, 4, 1))[0]
        self._files.append(new)
        return Operation("rename", (self.path(), new, flags))

    def _range(self) -> tuple[int, int]:
        """Offset and length of a write: small, a page, or more than one frame or segment."""
        rng = self._rng
        length = rng.choices(
            (rng.randrange(1, 200), 4096, rng.randrange(1, 40_000), rng.randrange(LARGE)),
            (6, 6, 5, 2),
        )[0]
        offset = rng.choices(
            (0, rng.randrange(60) * 4096, rng.randrange(200_000), rng.randrange(1 << 44)),
            (4, 10, 6, 1),
        )[0]
        return offset, length

    def _write(self) -> Operation:
        return Operation("write", (self.path(), *self._range(), self._seed()))

    def _size(self) -> int:
        rng = self._rng
        return rng.choice((0, 1, 4096, rng.randrange(300_000), rng.randrange(1 << 45)))

    def _truncate(self) -> Operation:
        return Operation("truncate", (self.path(), self._size()))

    def _cut(self) -> Operation:
        return Operation("cut", (self.path(), self._size()))

    def _with_data(self) -> bytes:
        """A path, most often of a file with many extents."""
        return FAVOURITE if self._rng.random() < 0.6 else self.path()

    def _hole(self) -> tuple[bytes, int, int]:
        """A file and a range of it."""
        rng = self._rng
        offset, length = self._range()
        if rng.random() < 0.15:
            length = rng.choice((0, 1, 4096, rng.randrange(1 << 45), 2**63 - 1))
        return self._with_data(), offset, length

    def _punch(self) -> Operation:
        return Operation("punch", self._hole())

    def _zero(self) -> Operation:
        return Operation("zero", (*self._hole(), self._rng.random() < 0.5))

    def _allocate(self) -> Operation:
        return Operation("allocate", (*self._hole(), self._rng.random() < 0.3))

    def _seek(self) -> Operation:
        rng = self._rng
        offset = rng.choice((0, rng.randrange(300_000), self._range()[0]))
        return Operation("seek", (self._with_data(), offset, rng.random() < 0.5))

    def _attributes(self) -> Operation:
        rng = self._rng
        mode = rng.choice((0o600, 0o4755, 0o1777))
        time = rng.choice((-(2**62), 0, 1_700_000_000_123_456_789, 2**63 + 5))
        return Operation("attributes", (self.path(), mode, rng.choice((0, 1000)), time))

    def _set_xattr(self) -> Operation:
        length = self._rng.choice((0, 5, 200, 20_000, 40_000, 60_000))
        name = self._rng.choice(XATTRS)
        return Operation("set_xattr", (self.path(), name, length, self._seed()))

    def _remove_xattr(self) -> Operation:
        return Operation("remove_xattr", (self.path(), self._rng.choice(XATTRS)))

    def _open(self) -> Operation:
        return Operation("open", (self._rng.randrange(SLOTS), self.path()))

    def _write_open(self) -> Operation:
        slot = self._rng.randrange(SLOTS)
        return Operation("write_open", (slot, *self._range(), self._seed()))

    def _close(self) -> Operation:
        return Operation("close", (self._rng.randrange(SLOTS),))

    def _maintain(self) -> Operation:
        verb = self._rng.choices(tuple(MAINTENANCE), tuple(MAINTENANCE.values()))[0]
        return Operation(verb, (self.path(), *self._range()) if verb == "plan" else ())


_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR)
_CHANCES = {
    "create": 10, "mkdir": 2, "link": 3, "unlink": 6, "rmdir": 1, "rename": 8, "write": 32,
    "truncate": 5, "cut": 3, "attributes": 3, "set_xattr": 7, "remove_xattr": 1, "open": 3,
    "write_open": 4, "close": 2, "maintain": 22,
}  # fmt: skip
_CHANCES_OF_HOLES = {"punch": 8, "zero": 4, "allocate": 3, "seek": 4}
