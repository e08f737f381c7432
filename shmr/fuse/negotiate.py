"""The first exchange with the kernel (FUSE_INIT), with the capabilities that shmr wants.

pyfuse3 leaves them to libfuse, which knows only some. So libfuse first talks to a socket of ours
instead of the device: it finds the kernel's FUSE_INIT there, edited, and leaves its reply there,
which goes to the kernel, edited. Then the device takes the socket's place under the same
descriptor number, and from there on nothing stands between libfuse and the kernel.

What is edited, and why:

request   SPLICE_* taken away: through a pipe, small requests cost libfuse two more system calls.
added     DONT_MASK: the volume applies the umask, which a default ACL replaces.
          POSIX_ACL: the kernel checks access ACLs.
          WRITEBACK_CACHE: small writes gather; ASYNC_DIO: O_DIRECT requests run side by side.
          PARALLEL_DIROPS, CACHE_SYMLINKS, MAX_PAGES (requests of up to 1 MiB).
          HANDLE_KILLPRIV_V2: clearing suid and sgid on write, truncate and chown is ours. Without
          it the kernel asks for `security.capability` before *each* write(2): measured, a cached
          4 KiB write took 93 us without it and 2 us with it.
removed   HANDLE_KILLPRIV: superseded. POSIX_LOCKS, FLOCK_LOCKS: the kernel's own locks serve a
          single machine. AUTO_INVAL_DATA: nothing changes files behind the kernel's back.
          READDIRPLUS_AUTO: pyfuse3 can only answer READDIRPLUS.

No capability is added that the kernel did not offer. Layouts: include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

from shmr.errors import SetupError

POSIX_LOCKS = 1 << 1
DONT_MASK = 1 << 6
SPLICE_WRITE = 1 << 7
SPLICE_MOVE = 1 << 8
SPLICE_READ = 1 << 9
FLOCK_LOCKS = 1 << 10
AUTO_INVAL_DATA = 1 << 12
READDIRPLUS_AUTO = 1 << 14
ASYNC_DIO = 1 << 15
WRITEBACK_CACHE = 1 << 16
PARALLEL_DIROPS = 1 << 18
HANDLE_KILLPRIV = 1 << 19
POSIX_ACL = 1 << 20
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
HANDLE_KILLPRIV_V2 = 1 << 28

WANTED = (
    DONT_MASK
    | POSIX_ACL
    | CACHE_SYMLINKS
    | PARALLEL_DIROPS
    | WRITEBACK_CACHE
    | ASYNC_DIO
    | MAX_PAGES
    | HANDLE_KILLPRIV_V2
)
UNWANTED = HANDLE_KILLPRIV | POSIX_LOCKS | FLOCK_LOCKS | AUTO_INVAL_DATA | READDIRPLUS_AUTO
HIDDEN = SPLICE_WRITE | SPLICE_MOVE | SPLICE_READ

REQUEST_PAGES = 256
REQUEST_BYTES = 1 << 20
BACKGROUND = 64
CONGESTION = 48

_INIT = 26
_IN_HEADER = struct.Struct("<IIQQIIII")
_IN = struct.Struct("<IIII")  # major, minor, max_readahead, flags
_OUT_HEADER = struct.Struct("<IiQ")
_OUT = struct.Struct("<IIIIHHIIH")
_MESSAGE_LIMIT = REQUEST_BYTES + 8192


@dataclass(frozen=True, slots=True)
class Offer:
    """What the kernel can do, from its FUSE_INIT."""

    major: int
    minor: int
    read_ahead: int
    flags: int


def parse_request(message: bytes) -> Offer:
    """The offer in a FUSE_INIT request. Raises SetupError if it is something else."""
    if len(message) < _IN_HEADER.size + _IN.size or _IN_HEADER.unpack_from(message)[1] != _INIT:
        raise SetupError("the kernel did not begin with FUSE_INIT; is the device in other use?")
    return Offer(*_IN.unpack_from(message, _IN_HEADER.size))


def edit_request(message: bytes) -> bytes:
    """The request as libfuse shall see it: without what it shall not use."""
    offer = parse_request(message)
    edited = bytearray(message)
    _IN.pack_into(
        edited,
        _IN_HEADER.size,
        offer.major,
        offer.minor,
        offer.read_ahead,
        offer.flags & ~HIDDEN,
    )
    return bytes(edited)


def edit_reply(message: bytes, offer: Offer) -> bytes:
    """libfuse's reply as the kernel shall see it. Raises SetupError if libfuse declined."""
    if len(message) < _OUT_HEADER.size + _OUT.size:
        error = _OUT_HEADER.unpack_from(message)[1] if len(message) >= _OUT_HEADER.size else 0
        raise SetupError(
            f"libfuse does not accept this kernel's FUSE {offer.major}.{offer.minor}"
            f" (error {-error}); a newer libfuse3 is needed"
        )
    major, minor, _, flags, _, _, max_write, time_gran, _ = _OUT.unpack_from(
        message, _OUT_HEADER.size
    )
    edited = bytearray(message)
    _OUT.pack_into(
        edited,
        _OUT_HEADER.size,
        major,
        minor,
        offer.read_ahead,
        (flags | (WANTED & offer.flags)) & ~UNWANTED,
        BACKGROUND,
        CONGESTION,
        min(max_write, REQUEST_BYTES),
        time_gran,
        REQUEST_PAGES,
    )
    return bytes(edited)


class Negotiation:
    """The exchange in progress; it owns `device`. `descriptor` is what libfuse is to be given.

    `finish` is called when libfuse has answered, before it reads again. After that `descriptor`
    is the device; whoever has the descriptor closes it.
    """

    def __init__(self, device: int) -> None:
        try:
            request = os.read(device, _MESSAGE_LIMIT)
            self._offer = parse_request(request)
        except BaseException:
            os.close(device)
            raise
        self._device = device
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.descriptor = theirs.detach()
        self._ours.send(edit_request(request))

    def finish(self) -> None:
        """Pass the reply on and put the device in the socket's place. Raises SetupError."""
        try:
            reply = self._ours.recv(_MESSAGE_LIMIT, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise SetupError("libfuse did not answer the kernel's first request") from None
        os.write(self._device, edit_reply(reply, self._offer))
        os.dup2(self._device, self.descriptor, inheritable=False)
        self.close()

    def close(self) -> None:
        """Let go of everything but `descriptor`; may be called twice."""
        self._ours.close()
        if self._device >= 0:
            os.close(self._device)
            self._device = -1
