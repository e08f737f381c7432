"""What the kernel knows: which inodes it was told of, and for how long it may believe it.

Everything goes through the mount, so what the kernel was told stays true until it is changed
there: names and attributes are valid for a year. Only what an open file allocates changes without
the kernel's knowing, when it writes pages back: attributes of an open file are valid for a second.
(Shorter would be dear: the kernel asks for an expired attribute at each write(2).)

Every reply that names an inode counts as a lookup; when all are forgotten, the volume learns that
the inode is not known any more.
"""

from __future__ import annotations

import logging

from shmr.format.rows import Inode
from shmr.fuse import protocol
from shmr.fuse.lookups import LookupCounts
from shmr.fuse.protocol import NODE, OPCODE, Head, Opcode
from shmr.fuse.seam import Handles

logger = logging.getLogger("shmr.fuse")

VALID_S = 365 * 86400
OPEN_VALID_S = 1

ABSENT = protocol.no_entry(VALID_S)
"""Says that a name does not exist, and that this may be remembered."""


class Known:
    """Counts what the kernel was told, and makes the replies that tell it."""

    def __init__(self, handles: Handles) -> None:
        handles.keep_known = True
        self._handles = handles
        self._lookups = LookupCounts()
        self.unwritten: set[int] = set()
        """Inodes that a write failed on: what the kernel believes behind their end is not there."""

    def told(self, inode: Inode) -> bytes:
        """A reply that makes the kernel know `inode`, or know it once more."""
        self._lookups.add(inode.number)
        return protocol.entry(inode, VALID_S, self.valid_s(inode))

    def listed(self, number: int) -> None:
        """A directory's listing has told of this inode."""
        self._lookups.add(number)

    def attributes(self, inode: Inode) -> bytes:
        return protocol.attributes(inode, self.valid_s(inode))

    def valid_s(self, inode: Inode) -> int:
        """For how many seconds the kernel may believe the attributes of `inode`."""
        return OPEN_VALID_S if self._handles.is_open(inode.number) else VALID_S

    def forget(self, number: int, count: int) -> None:
        """The kernel forgets `count` replies. Raises nothing: nobody would hear of it."""
        try:
            if self._lookups.drop(number, count):
                self.unwritten.discard(number)
                self._handles.forgotten(number)
        except Exception:
            logger.exception("forget of inode %d failed; it is freed by the next mount", number)

    def failed(self, head: Head) -> None:
        """A request was answered with an error."""
        if head[OPCODE] == Opcode.WRITE:
            # The kernel took these bytes from a program and keeps the size they make.
            self.unwritten.add(head[NODE])

    def opened(self, number: int) -> None:
        self._handles.opened(number)

    def closed(self, number: int) -> None:
        self._handles.closed(number)
        if not self._lookups[number]:
            self._handles.forgotten(number)
