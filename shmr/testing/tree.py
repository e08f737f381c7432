"""A whole filesystem as a plain dictionary, so that two of them can be compared.

Goes through the interface of a volume, which the model filesystem has too. Inode numbers, access
and change times, allocation and the order of names are left out: they may differ between two
filesystems that hold the same.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from shmr.drive.seam import Buffer
from shmr.format.rows import ROOT, Inode
from shmr.testing.content import Summary, windows


class Entry(NamedTuple):
    """What stands at one path.

    `content` is the bytes of a regular file, or their digest when they are more than 64.
    `same_as` is the first path, in the order of bytes, of the same inode. `size` is 0 for a
    directory.
    """

    kind: str
    mode: int
    links: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_ns: int
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    content: bytes
    same_as: bytes


Tree = dict[bytes, Entry]


class Plan(Protocol):
    def fetch_cached(self) -> Buffer | None: ...
    def fetch(self) -> Buffer: ...
    def release(self) -> None: ...


class Names(Protocol):
    def entries(self, directory: int, after: int, /) -> Iterator[tuple[bytes, Inode, int]]: ...


class Attributes(Protocol):
    def get(self, number: int, /) -> Inode: ...


class Xattrs(Protocol):
    def get(self, number: int, name: bytes, /) -> bytes: ...
    def list(self, number: int, /) -> list[bytes]: ...


class Data(Protocol):
    def plan_read(self, number: int, offset: int, size: int, /) -> Plan: ...


class Filesystem(Protocol):
    """As much of a volume as it takes to look at everything in it."""

    @property
    def names(self) -> Names: ...
    @property
    def attributes(self) -> Attributes: ...
    @property
    def xattrs(self) -> Xattrs: ...
    @property
    def data(self) -> Data: ...


KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def tree_of(filesystem: Filesystem) -> Tree:
    """Every path of `filesystem` and what is there; the root is b"/".

    Raises what reading raises: a file that cannot be read is an error, not an entry.
    """
    found: dict[bytes, Inode] = {b"/": filesystem.attributes.get(ROOT)}
    waiting = [(ROOT, b"")]
    while waiting:
        number, path = waiting.pop()
        for name, inode, _ in filesystem.names.entries(number, 0):
            below = path + b"/" + name
            found[below] = inode
            if stat.S_ISDIR(inode.mode):
                waiting.append((inode.number, below))
    tree: Tree = {}
    first: dict[int, bytes] = {}
    for path in sorted(found):
        inode = found[path]
        earlier = tree.get(first.setdefault(inode.number, path))
        tree[path] = earlier or _entry(filesystem, inode, path)
    return tree


def differences(expected: Tree, found: Tree) -> list[str]:
    """Each difference as a line for people; empty if the trees are equal."""
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        one, two = expected.get(path), found.get(path)
        if one is None or two is None:
            lines.append(f"{path!r}: {'missing' if two is None else 'not expected'}: {one or two}")
            continue
        for name, wanted, seen in zip(Entry._fields, one, two, strict=True):
            if wanted != seen:
                lines.append(f"{path!r}: {name}: expected {wanted!r}, found {seen!r}")
    return lines


def _entry(filesystem: Filesystem, inode: Inode, path: bytes) -> Entry:
    kind = KINDS[stat.S_IFMT(inode.mode)]
    number = inode.number
    xattrs = filesystem.xattrs
    return Entry(
        kind,
        stat.S_IMODE(inode.mode),
        inode.links,
        inode.uid,
        inode.gid,
        inode.rdev,
        0 if kind == "directory" else inode.size,
        inode.mtime_ns,
        inode.target,
        tuple((name, xattrs.get(number, name)) for name in sorted(xattrs.list(number))),
        _content(filesystem.data, inode) if kind == "file" else b"",
        path,
    )


def _content(data: Data, inode: Inode) -> bytes:
    summary = Summary()
    for offset, length in windows(inode.size):
        plan = data.plan_read(inode.number, offset, length)
        try:
            content = plan.fetch_cached()
            summary.add(bytes(plan.fetch() if content is None else content))
        finally:
            plan.release()
    return summary.value()
