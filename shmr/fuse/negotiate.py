"""FUSE_INIT, the first exchange with the kernel: which of its capabilities shmr uses.

ASYNC_READ, BIG_WRITES, MAX_PAGES   requests side by side, of up to 1 MiB.
ATOMIC_O_TRUNC     an open that truncates is one request.
EXPORT_SUPPORT     inodes are found again by number: a mount can be exported by NFS.
DONT_MASK          the volume applies the umask, which a default ACL replaces.
DO_READDIRPLUS     entries come with their attributes: `ls -l` sends no request per entry for them.
WRITEBACK_CACHE    small writes gather; ASYNC_DIO: O_DIRECT requests run side by side.
PARALLEL_DIROPS    lookups in one directory side by side.
POSIX_ACL          the kernel checks access ACLs.
CACHE_SYMLINKS     targets stay in the kernel.
HANDLE_KILLPRIV_V2 clearing suid and sgid on write, truncate and chown is ours, and the kernel says
                   when. Without it it asks for `security.capability` before *each* write(2):
                   measured, a cached 4 KiB write took 93 us without it and 2 us with it.

Not used: POSIX_LOCKS, FLOCK_LOCKS (the kernel's own locks serve a single machine),
AUTO_INVAL_DATA (nothing changes files behind the kernel's back), READDIRPLUS_AUTO (the attributes
are read from the same place as the names, so they are cheap), SPLICE_* (through a pipe, small
requests cost two more system calls), SETXATTR_EXT (says nothing that is needed).

No capability is taken that the kernel did not offer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from shmr.errors import SetupError
from shmr.fuse import protocol
from shmr.fuse.protocol import HEAD, OPCODE, UNIQUE, Opcode

ASYNC_READ = 1 << 0
ATOMIC_O_TRUNC = 1 << 3
EXPORT_SUPPORT = 1 << 4
BIG_WRITES = 1 << 5
DONT_MASK = 1 << 6
DO_READDIRPLUS = 1 << 13
ASYNC_DIO = 1 << 15
WRITEBACK_CACHE = 1 << 16
PARALLEL_DIROPS = 1 << 18
POSIX_ACL = 1 << 20
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
HANDLE_KILLPRIV_V2 = 1 << 28

WANTED = (
    ASYNC_READ
    | ATOMIC_O_TRUNC
    | EXPORT_SUPPORT
    | BIG_WRITES
    | DONT_MASK
    | DO_READDIRPLUS
    | ASYNC_DIO
    | WRITEBACK_CACHE
    | PARALLEL_DIROPS
    | POSIX_ACL
    | MAX_PAGES
    | CACHE_SYMLINKS
    | HANDLE_KILLPRIV_V2
)
NEEDED = {
    "DONT_MASK": DONT_MASK,
    "DO_READDIRPLUS": DO_READDIRPLUS,
    "WRITEBACK_CACHE": WRITEBACK_CACHE,
    "POSIX_ACL": POSIX_ACL,
    "MAX_PAGES": MAX_PAGES,
    "HANDLE_KILLPRIV_V2": HANDLE_KILLPRIV_V2,
}
"""Without these a mount would behave differently than promised: umasks, ACLs, suid."""

MAJOR, MINOR = 7, 31
REQUEST_PAGES = 256
REQUEST_BYTES = 1 << 20
BACKGROUND = 64
CONGESTION = 48
TIME_GRANULARITY_NS = 1

_REPLY = struct.Struct("<IIIIHHIIH34x")
"""major, minor, max_readahead, flags, background, congestion, max_write, time granularity,
max_pages."""
assert _REPLY.size == 64


@dataclass(frozen=True, slots=True)
class Offer:
    """What the kernel can do, from its FUSE_INIT."""

    unique: int
    major: int
    minor: int
    read_ahead_bytes: int
    flags: int


def parse_offer(message: bytes | memoryview) -> Offer:
    """The offer in a FUSE_INIT request. Raises SetupError if it is something else, or too old."""
    if len(message) < HEAD.size + protocol.INIT.size:
        raise SetupError("the kernel did not begin with FUSE_INIT; is the device in other use?")
    head = HEAD.unpack_from(message)
    if head[OPCODE] != Opcode.INIT:
        raise SetupError("the kernel did not begin with FUSE_INIT; is the device in other use?")
    offer = Offer(head[UNIQUE], *protocol.INIT.unpack_from(message, HEAD.size))
    if (offer.major, offer.minor) < (MAJOR, MINOR):
        raise SetupError(
            f"this kernel speaks FUSE {offer.major}.{offer.minor}, shmr needs {MAJOR}.{MINOR}:"
            " use Linux 5.12 or newer"
        )
    return offer


def missing(offer: Offer) -> list[str]:
    """Capabilities that shmr needs and the kernel lacks."""
    return [name for name, flag in NEEDED.items() if not offer.flags & flag]


def reply(offer: Offer) -> bytes:
    """The payload that answers `offer`. Raises SetupError if the kernel lacks what is needed."""
    lacking = missing(offer)
    if lacking:
        raise SetupError(f"this kernel's FUSE lacks {', '.join(lacking)}: use Linux 5.12 or newer")
    return _REPLY.pack(
        MAJOR,
        MINOR,
        offer.read_ahead_bytes,
        WANTED & offer.flags,
        BACKGROUND,
        CONGESTION,
        REQUEST_BYTES,
        TIME_GRANULARITY_NS,
        REQUEST_PAGES,
    )
