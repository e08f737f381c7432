"""A small tree with everything a backup must carry, and the description that copies must share."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

ACL = "system.posix_acl_access"


class Description(NamedTuple):
    """What a copy of a node must have in common with it."""

    mode: int
    uid: int
    gid: int
    device: int
    mtime_ns: int
    size: int
    content: str
    attributes: tuple[tuple[str, bytes], ...]
    names: tuple[str, ...]


def describe(top: Path) -> dict[str, Description]:
    """Each path below `top` with its description; `names` are all the hard links of a file."""
    states = {}
    links: dict[int, list[str]] = {}
    for root, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.relpath(os.path.join(root, name), top)
            states[path] = os.lstat(top / path)
            if not stat.S_ISDIR(states[path].st_mode):
                links.setdefault(states[path].st_ino, []).append(path)
    found = {}
    for path, state in states.items():
        content = ""
        if stat.S_ISREG(state.st_mode):
            content = hashlib.sha256((top / path).read_bytes()).hexdigest()
        elif stat.S_ISLNK(state.st_mode):
            content = os.readlink(top / path)
        names = os.listxattr(top / path, follow_symlinks=False)
        found[path] = Description(
            mode=state.st_mode,
            uid=state.st_uid,
            gid=state.st_gid,
            device=state.st_rdev,
            mtime_ns=state.st_mtime_ns,
            size=0 if stat.S_ISDIR(state.st_mode) else state.st_size,
            content=content,
            attributes=tuple(
                (name, os.getxattr(top / path, name, follow_symlinks=False))
                for name in sorted(names)
            ),
            names=tuple(sorted(links.get(state.st_ino, []))),
        )
    return found


def age(top: Path, day: int) -> None:
    """Give everything below `top` a time of its own in the past, days apart for other `day`s.

    rsync leaves the time of a directory alone that differs in the fraction of a second only.
    """
    paths = sorted(
        os.path.join(root, *name)
        for root, _, files in os.walk(top)
        for name in [(), *((file,) for file in files)]
    )
    for index, path in enumerate(paths):
        ns = 1_000_000_000_123_456_789 + (day * 100_000 + index * 7) * 1_000_000_000
        os.utime(path, ns=(ns, ns), follow_symlinks=False)


def plain_tree(top: Path, *, files: int = 120) -> None:
    """Directories with files of many sizes, nothing special."""
    for index in range(files):
        directory = top / f"directory {index % 7}" / f"below-{index % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        size = (index * index * 37) % 60_000
        word = hashlib.sha256(b"%d" % index).digest()
        (directory / f"file-{index}.dat").write_bytes(word * (size // 32 + 1))
    age(top, 0)


def rich_tree(top: Path) -> None:
    """Everything: owners, modes, links, holes, nodes, attributes, lists, odd names and times.

    Needs root. Skips the test where the filesystem of `top` lacks what it is to carry.
    """
    plain_tree(top, files=30)
    (top / "hard-1").write_bytes(b"linked")
    os.link(top / "hard-1", top / "hard-2")
    os.link(top / "hard-1", top / "directory 1" / "hard-3")
    (top / "symlink").symlink_to("hard-1")
    (top / "dangling").symlink_to("/nowhere/at all")
    os.link(top / "dangling", top / "dangling-2", follow_symlinks=False)
    (top / "empty directory").mkdir(mode=0o711)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    (top / "setgid").mkdir()
    os.chown(top / "setgid", 20001, 20002)
    (top / "setgid").chmod(0o2770)
    (top / "program").write_bytes(b"#!/bin/sh\n")
    os.chown(top / "program", 20001, 20001)
    (top / "program").chmod(0o6755)
    with open(top / "sparse", "wb") as stream:
        stream.write(b"head")
        stream.seek(4 << 20)
        stream.write(b"tail")
        stream.truncate(8 << 20)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "device", stat.S_IFCHR | 0o600, os.makedev(10, 1000))
    os.mknod(top / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    (top / "new\nline ünï").write_bytes(b"odd")
    entries = [(1, 6, -1), (2, 4, 20003), (4, 4, -1), (16, 6, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2)
    acl += b"".join(struct.pack("<HHi", tag, bits, who) for tag, bits, who in entries)
    try:
        os.setxattr(top / "hard-1", "user.name", b"value \0 with zero")
        os.setxattr(top / "sticky", "user.name", b"directory")
        os.setxattr(top / "hard-1", ACL, acl)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("the filesystem of the temporary directory has no attributes or lists")
        raise
    age(top, 1)
