"""The kernel's FUSE protocol: bytes of requests to values, values to bytes of replies.

Source of every layout: include/uapi/linux/fuse.h, as of protocol 7.31 to 7.45. All integers are in
the host's byte order, which is little-endian on everything shmr runs on (checked at import).

A request is a header and a body; the kernel is trusted to send well-formed ones, as every server
trusts it. A reply is a header and a payload:

offset  size  field
0       4     length    of header and payload
4       4     error     0, or a negative errno and no payload
8       8     unique    which request it answers

Nothing here reads or writes a descriptor; `loop` does.
"""

from __future__ import annotations

import stat
import struct
import sys
from enum import IntEnum

from shmr.format.rows import Inode

assert sys.byteorder == "little", "the layouts below are little-endian"


class Opcode(IntEnum):
    """What a request asks for. Those that shmr does not answer are not listed: ENOSYS."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    SYNCFS = 50
    TMPFILE = 51


Head = tuple[int, int, int, int, int, int, int, int]
"""length, opcode, unique, node, uid, gid, pid, length of extensions in eights (and padding)."""
OPCODE, UNIQUE, NODE, UID, GID, PID = 1, 2, 3, 4, 5, 6

HEAD = struct.Struct("<IIQQIIII")
REPLY = struct.Struct("<IiQ")

# -- bodies of requests, without the names and bytes behind them -----------------------------

INIT = struct.Struct("<IIII")  # major, minor, max_readahead, flags
FORGET = struct.Struct("<Q")  # lookups
BATCH_FORGET = struct.Struct("<II")  # count, padding; then pairs
FORGET_PAIR = struct.Struct("<QQ")  # node, lookups
SETATTR = struct.Struct("<IIQQQqqqIIIIIIII")
"""valid, padding, handle, size, lock owner, atime, mtime, ctime (s), the same (ns), mode, unused,
uid, gid, unused."""
MKNOD = struct.Struct("<IIII")  # mode, rdev, umask, padding
MKDIR = struct.Struct("<II")  # mode, umask
RENAME = struct.Struct("<Q")  # new parent
RENAME2 = struct.Struct("<QII")  # new parent, flags, padding
LINK = struct.Struct("<Q")  # node that gets the name
OPEN = struct.Struct("<II")  # flags of open(2), flags of FUSE
CREATE = struct.Struct("<IIII")  # flags of open(2), mode, umask, flags of FUSE
HANDLE = struct.Struct("<Q")  # what RELEASE, FSYNC and the like begin with
READ = struct.Struct("<QQI")  # handle, offset, size; 40 bytes in all
WRITE = struct.Struct("<QQII")  # handle, offset, size, flags of FUSE; 40 bytes in all
WRITE_BYTES = 40
SETXATTR = struct.Struct("<II")  # size of the value, flags of setxattr(2)
GETXATTR = struct.Struct("<II")  # room for the value, padding
FALLOCATE = struct.Struct("<QQQI")  # handle, offset, length, mode
LSEEK = struct.Struct("<QQI")  # handle, offset, whence

# Bits of SETATTR's `valid`.
SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME, SET_CTIME = (
    1 << bit for bit in (0, 1, 2, 3, 4, 5, 10)
)
# A bit of WRITE's flags: suid and sgid go, the writer has no right to keep them.
WRITE_KILL_SUIDGID = 1 << 2

# -- payloads of replies ---------------------------------------------------------------------

# Bits of an open reply.
OPEN_KEEP_CACHE = 1 << 1

_ENTRY = struct.Struct("<QQQQII")  # node, generation, seconds of entry and attributes, ns of both
_ATTRIBUTES = struct.Struct("<QQQqqqIIIIIIIIII")
"""inode, size, blocks, times (s), times (ns), mode, links, uid, gid, rdev, block size, flags."""
_ENTRY_AND_ATTRIBUTES = struct.Struct(_ENTRY.format + _ATTRIBUTES.format[1:])
_ATTRIBUTES_REPLY = struct.Struct("<QII" + _ATTRIBUTES.format[1:])  # seconds, ns, padding
_OPENED = struct.Struct("<QIi")  # handle, flags, (not used)
_WRITTEN = struct.Struct("<II")  # size, padding
_SIZE = struct.Struct("<II")  # of an extended attribute
_OFFSET = struct.Struct("<Q")
_STATFS = struct.Struct("<QQQQQIIII24x")
"""blocks, free, available, files, files free, block size, name length, fragment size, padding."""
_DIRENT = struct.Struct("<QQII")  # inode, offset of the next, length of the name, type

ENTRY_BYTES = _ENTRY_AND_ATTRIBUTES.size
DIRENT_BYTES = _DIRENT.size

assert (HEAD.size, REPLY.size, SETATTR.size) == (40, 16, 88)
assert (ENTRY_BYTES, _ATTRIBUTES_REPLY.size, _STATFS.size, DIRENT_BYTES) == (128, 104, 80, 24)

_NS = 1_000_000_000
_SECTOR = 512
_IO_BLOCK = 4096
_NAME_MAX = 255
_U32 = 2**32 - 1
_U64 = 2**64 - 1
_S64 = 2**63 - 1


def _fields(inode: Inode) -> tuple[int, ...]:
    atime_s, atime_ns = divmod(inode.atime_ns, _NS)
    mtime_s, mtime_ns = divmod(inode.mtime_ns, _NS)
    ctime_s, ctime_ns = divmod(inode.ctime_ns, _NS)
    return (
        inode.number,
        inode.size,
        -(-inode.allocated // _SECTOR),
        atime_s,
        mtime_s,
        ctime_s,
        atime_ns,
        mtime_ns,
        ctime_ns,
        inode.mode,
        inode.links,
        inode.uid,
        inode.gid,
        inode.rdev,
        _IO_BLOCK,
        0,
    )


def _in_range(inode: Inode) -> Inode:
    """`inode` with what does not fit its field at the end of its range."""
    return inode._replace(
        links=min(inode.links, _U32),
        uid=inode.uid & _U32,
        gid=inode.gid & _U32,
        rdev=inode.rdev & _U32,
        size=min(inode.size, _S64),
        allocated=min(inode.allocated, _S64),
    )


def entry(inode: Inode, entry_valid_s: int, attributes_valid_s: int) -> bytes:
    """A name's inode and its attributes, and for how many seconds the kernel may believe both."""
    try:
        return _ENTRY_AND_ATTRIBUTES.pack(
            inode.number, 0, entry_valid_s, attributes_valid_s, 0, 0, *_fields(inode)
        )
    except struct.error:
        return entry(_in_range(inode), entry_valid_s, attributes_valid_s)


def no_entry(valid_s: int) -> bytes:
    """That a name does not exist, and for how many seconds the kernel may believe it."""
    return _ENTRY.pack(0, 0, valid_s, 0, 0, 0) + bytes(_ATTRIBUTES.size)


def attributes(inode: Inode, valid_s: int) -> bytes:
    """The attributes of an inode, and for how many seconds the kernel may believe them."""
    try:
        return _ATTRIBUTES_REPLY.pack(valid_s, 0, 0, *_fields(inode))
    except struct.error:
        return attributes(_in_range(inode), valid_s)


def opened(handle: int, flags: int) -> bytes:
    """What an open gives; the kernel names `handle` in every request about this open file."""
    return _OPENED.pack(handle, flags, 0)


def written(size_bytes: int) -> bytes:
    return _WRITTEN.pack(size_bytes, 0)


def size_of_value(size_bytes: int) -> bytes:
    """The answer to who asks for an extended attribute with no room for it."""
    return _SIZE.pack(size_bytes, 0)


def sought(offset: int) -> bytes:
    return _OFFSET.pack(offset)


def statistics(
    *, block_size: int, blocks: int, free: int, available: int, files: int, files_free: int
) -> bytes:
    """What statfs(2) tells: blocks of `block_size` bytes, and inodes."""
    size = min(max(block_size, _SECTOR), _U32)
    counts = (min(max(count, 0), _U64) for count in (blocks, free, available, files, files_free))
    return _STATFS.pack(*counts, size, _NAME_MAX, size, 0)


def dirent(name: bytes, inode: int, mode: int, offset: int) -> bytes:
    """An entry of a directory; reading goes on behind it from `offset`."""
    return _DIRENT.pack(inode, offset, len(name), stat.S_IFMT(mode) >> 12) + _padded(name)


def dirent_plus(
    name: bytes, inode: Inode, offset: int, entry_valid_s: int, attributes_valid_s: int
) -> bytes:
    """An entry of a directory that makes the kernel know its inode, as a lookup would."""
    known = entry(inode, entry_valid_s, attributes_valid_s)
    return known + dirent(name, inode.number, inode.mode, offset)


def dirent_unknown(name: bytes, inode: int, mode: int, offset: int) -> bytes:
    """An entry among those of `dirent_plus` whose inode the kernel does not get to know by it."""
    return bytes(ENTRY_BYTES) + dirent(name, inode, mode, offset)


def _padded(name: bytes) -> bytes:
    return name + bytes(-len(name) % 8)
