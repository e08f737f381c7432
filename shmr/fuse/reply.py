"""Catalog values as pyfuse3's reply values, and back; nothing here raises for any row.

pyfuse3 keeps values in C fields: one that does not fit raises OverflowError, and a reply the
kernel finds malformed is thrown away, which leaves its caller waiting for ever. So everything is
brought into range here. (Times need none of it: rows hold 1677 to 2554, see `format.rows`.)
"""

from __future__ import annotations

import errno
import stat

import pyfuse3

from shmr.format.rows import Inode

# Everything goes through the mount: what the kernel knows stays true until it is changed there.
VALID_S = 365 * 86400.0
BLOCK = 512
IO_BLOCK = 4096
NAME_MAX = 255

_U32 = 2**32 - 1
_U64 = 2**64 - 1
_S64 = 2**63 - 1


def _absent() -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = VALID_S
    return entry


# Says that a name does not exist, and that this may be remembered.
ABSENT = _absent()


def entry_of(inode: Inode) -> pyfuse3.EntryAttributes:
    """The attributes of `inode` for the kernel."""
    try:
        return _entry(inode)
    except OverflowError:
        return _entry(
            inode._replace(
                links=min(inode.links, _U32),
                uid=inode.uid & _U32,
                gid=inode.gid & _U32,
                rdev=inode.rdev & _U32,
                size=min(inode.size, _S64),
                allocated=min(inode.allocated, _S64),
            )
        )


def _entry(inode: Inode) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.entry_timeout = VALID_S
    entry.attr_timeout = VALID_S
    entry.st_ino = inode.number
    entry.st_mode = inode.mode
    entry.st_nlink = inode.links
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = inode.size
    entry.st_blocks = -(-inode.allocated // BLOCK)
    entry.st_blksize = IO_BLOCK
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    return entry


def directory_entry(number: int) -> pyfuse3.EntryAttributes:
    """What "." and ".." need: the kernel takes only number and type from them."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = number
    entry.st_mode = stat.S_IFDIR
    return entry


def statvfs_of(
    *, block_size: int, blocks: int, free: int, available: int, files: int, files_free: int
) -> pyfuse3.StatvfsData:
    """What statfs(2) tells."""
    reply = pyfuse3.StatvfsData()
    reply.f_bsize = reply.f_frsize = min(max(block_size, BLOCK), _U32)
    reply.f_blocks, reply.f_bfree, reply.f_bavail = (
        min(max(value, 0), _U64) for value in (blocks, free, available)
    )
    reply.f_files, reply.f_ffree = (min(max(value, 0), _U64) for value in (files, files_free))
    reply.f_favail = reply.f_ffree
    reply.f_namemax = NAME_MAX
    return reply


def supplementary_groups(pid: int) -> frozenset[int]:
    """The further groups of process `pid`; none when they cannot be known."""
    try:
        return frozenset(pyfuse3.get_sup_groups(pid))
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def without_privileges(mode: int, *, member: bool) -> int:
    """`mode` as a change of content or owner leaves it: without suid, and without sgid.

    sgid without group execution is no privilege (it once meant mandatory locking): it stays if
    who makes the change is a `member` of the file's group, as with the kernel's own filesystems.
    """
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP or not member else mode


def error_number(number: int) -> int:
    """An errno that the kernel accepts in a reply; EIO for what is none."""
    return number if 0 < number < 512 else errno.EIO
