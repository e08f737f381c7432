"""What stands around every request handler, so that no request ends the daemon.

What a handler raises becomes an errno:

Refused                      its errno, silently: the caller asked for it
NoSpace                      room is asked for and the request tried again, a few times
IntegrityError, DriveError   EIO, logged with the request
any other Exception          EIO, logged with the request and the traceback

`trio.Cancelled` and its like are no Exception and pass: they end the daemon on purpose. A handler
that raises NoSpace must have changed nothing, or nothing that doing it twice would spoil.
"""

from __future__ import annotations

import errno
import logging
import struct

from shmr.drive.seam import Buffer
from shmr.errors import DriveError, IntegrityError, Refused
from shmr.fuse import protocol
from shmr.fuse.protocol import GID, NODE, OPCODE, PID, UID, Head, Opcode

logger = logging.getLogger("shmr.fuse")

ROOM_TRIES = 16
"""How often a request that found no space is tried again."""
_ERRNO_END = 512
_SHOWN_BYTES = 120
_RANGES: dict[int, struct.Struct] = {Opcode.READ: protocol.READ, Opcode.WRITE: protocol.WRITE}


def answer_to(error: Exception, head: Head, body: Buffer) -> int:
    """The errno that answers a request whose handler raised `error`; logs what is not the
    caller's doing."""
    if isinstance(error, Refused):
        # The kernel throws away a reply with a number that is none, and its caller waits for ever.
        return error.errno if 0 < error.errno < _ERRNO_END else errno.EIO
    if isinstance(error, IntegrityError | DriveError):
        logger.error("%s failed, answered EIO: %s", described(head, body), error)
    else:
        logger.error("%s failed unexpectedly, answered EIO", described(head, body), exc_info=error)
    return errno.EIO


def described(head: Head, body: Buffer) -> str:
    """The request in a line of the log; a name, if it has one, can be read in its body."""
    try:
        name = Opcode(head[OPCODE]).name
    except ValueError:
        name = f"request {head[OPCODE]}"
    sender = f"pid {head[PID]} uid {head[UID]} gid {head[GID]}"
    return f"{name} of inode {head[NODE]} by {sender} {_content(head[OPCODE], body)}"


def _content(opcode: int, body: Buffer) -> str:
    layout = _RANGES.get(opcode)
    if layout is not None and len(body) >= layout.size:
        _, offset, size, *_ = layout.unpack_from(body)
        return f"at offset {offset}, {size} bytes,"
    return f"with {bytes(body[:_SHOWN_BYTES])!r}{'...' if len(body) > _SHOWN_BYTES else ''}"
