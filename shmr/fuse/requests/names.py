"""Names: lookup and forget, making, linking, removing, renaming."""

from __future__ import annotations

import functools
import stat
from collections.abc import Mapping

import trio

from shmr.drive.seam import Buffer
from shmr.fuse import protocol
from shmr.fuse.groups import groups_of
from shmr.fuse.known import ABSENT, Known
from shmr.fuse.loop import Handler, Reply
from shmr.fuse.protocol import GID, PID, UID, Head, Opcode
from shmr.fuse.seam import Names
from shmr.volume.context import Caller

FORGETS_AT_ONCE = 128
"""A few milliseconds, if all of them are unlinked files."""


def caller_of(head: Head, umask: int) -> Caller:
    """Who sent a request."""
    return Caller(head[UID], head[GID], umask, functools.partial(groups_of, head[PID]))


def name_of(body: memoryview, start: int = 0) -> bytes:
    """The one name in a body: it ends the body, with a zero byte."""
    return bytes(body[start:-1])


def names_of(body: memoryview, start: int = 0) -> tuple[bytes, bytes]:
    """The two names in a body, each ended by a zero byte."""
    first, _, second = bytes(body[start:-1]).partition(b"\0")
    return first, second


class NameRequests:
    """Answers what is asked about names."""

    def __init__(self, names: Names, known: Known) -> None:
        self._names = names
        self._known = known

    @property
    def handlers(self) -> Mapping[int, Handler]:
        return {
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.forget_batch,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.SYMLINK: self.symlink,
            Opcode.LINK: self.link,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename_with_flags,
        }

    def lookup(self, parent: int, body: memoryview, head: Head) -> Reply:
        name = name_of(body)
        if name in (b".", b".."):
            return self._of_handle(parent, up=name == b"..")
        found = self._names.find(parent, name)
        return ABSENT if found is None else self._known.told(found)

    def _of_handle(self, number: int, *, up: bool) -> Reply:
        """An inode by its number, or its parent: asked when a file handle is opened.

        Handles (open_by_handle_at(2), NFS) outlive what the kernel knows, also a mount. A number
        means one inode for ever, so its generation is always 0.
        """
        inode = self._names.by_handle(number)
        return self._known.told(self._names.by_handle(inode.parent) if up else inode)

    def forget(self, node: int, body: memoryview, head: Head) -> Reply:
        self._known.forget(node, protocol.FORGET.unpack_from(body)[0])
        return None

    def forget_batch(self, node: int, body: memoryview, head: Head) -> Reply:
        count, _ = protocol.BATCH_FORGET.unpack_from(body)
        start, step = protocol.BATCH_FORGET.size, protocol.FORGET_PAIR.size
        pairs = body[start : start + count * step]
        if count > FORGETS_AT_ONCE:
            return self._forget_in_parts(bytes(pairs))
        self._forget_all(pairs)
        return None

    async def _forget_in_parts(self, pairs: bytes) -> Reply:
        """The kernel forgets up to 65,000 inodes at once, which frees those that were unlinked."""
        step = FORGETS_AT_ONCE * protocol.FORGET_PAIR.size
        for start in range(0, len(pairs), step):
            self._forget_all(pairs[start : start + step])
            await trio.lowlevel.checkpoint()
        return None

    def _forget_all(self, pairs: Buffer) -> None:
        for number, lookups in protocol.FORGET_PAIR.iter_unpack(pairs):
            self._known.forget(number, lookups)

    # -- making -----------------------------------------------------------------------------

    def mknod(self, parent: int, body: memoryview, head: Head) -> Reply:
        mode, rdev, umask, _ = protocol.MKNOD.unpack_from(body)
        name = name_of(body, protocol.MKNOD.size)
        typed = mode if stat.S_IFMT(mode) else mode | stat.S_IFREG
        return self._known.told(
            self._names.create(parent, name, typed, caller_of(head, umask), rdev)
        )

    def mkdir(self, parent: int, body: memoryview, head: Head) -> Reply:
        mode, umask = protocol.MKDIR.unpack_from(body)
        name = name_of(body, protocol.MKDIR.size)
        typed = stat.S_IFDIR | stat.S_IMODE(mode)
        return self._known.told(self._names.create(parent, name, typed, caller_of(head, umask)))

    def symlink(self, parent: int, body: memoryview, head: Head) -> Reply:
        name, target = names_of(body)
        mode = stat.S_IFLNK | 0o777
        return self._known.told(
            self._names.create(parent, name, mode, caller_of(head, 0), target=target)
        )

    def link(self, parent: int, body: memoryview, head: Head) -> Reply:
        (number,) = protocol.LINK.unpack_from(body)
        return self._known.told(self._names.link(number, parent, name_of(body, protocol.LINK.size)))

    # -- removing ---------------------------------------------------------------------------

    def unlink(self, parent: int, body: memoryview, head: Head) -> Reply:
        self._names.unlink(parent, name_of(body))
        return 0

    def rmdir(self, parent: int, body: memoryview, head: Head) -> Reply:
        self._names.rmdir(parent, name_of(body))
        return 0

    # -- renaming ---------------------------------------------------------------------------

    def rename(self, parent: int, body: memoryview, head: Head) -> Reply:
        (new_parent,) = protocol.RENAME.unpack_from(body)
        name, new_name = names_of(body, protocol.RENAME.size)
        self._names.rename(parent, name, new_parent, new_name, 0)
        return 0

    def rename_with_flags(self, parent: int, body: memoryview, head: Head) -> Reply:
        new_parent, flags, _ = protocol.RENAME2.unpack_from(body)
        name, new_name = names_of(body, protocol.RENAME2.size)
        self._names.rename(parent, name, new_parent, new_name, flags)
        return 0
