"""Extended attributes, POSIX ACLs among them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from shmr.fuse import protocol
from shmr.fuse.groups import in_group
from shmr.fuse.loop import Handler, Reply
from shmr.fuse.protocol import UID, Head, Opcode
from shmr.fuse.requests.names import name_of
from shmr.fuse.seam import Attributes, Xattrs
from shmr.volume.attributes import AttributeChange

_ROOT_UID = 0
_ACCESS_ACL = b"system.posix_acl_access"
_ACLS = frozenset((_ACCESS_ACL, b"system.posix_acl_default"))
_TRUSTED = b"trusted."
_SELINUX = b"security.selinux"


def _selinux_runs() -> bool:
    return Path("/sys/fs/selinux/enforce").exists()


class XattrRequests:
    """Answers what is asked about extended attributes."""

    def __init__(self, xattrs: Xattrs, attributes: Attributes) -> None:
        self._xattrs = xattrs
        self._attributes = attributes
        # `ls -l` asks for the label of each entry, on systems without SELinux too; told that
        # there is no such thing, and not only none here, it asks once for a whole filesystem.
        self._no_label = errno.ENODATA if _selinux_runs() else errno.EOPNOTSUPP

    @property
    def handlers(self) -> Mapping[int, Handler]:
        return {
            Opcode.GETXATTR: self.getxattr,
            Opcode.SETXATTR: self.setxattr,
            Opcode.LISTXATTR: self.listxattr,
            Opcode.REMOVEXATTR: self.removexattr,
        }

    def getxattr(self, number: int, body: memoryview, head: Head) -> Reply:
        room, _ = protocol.GETXATTR.unpack_from(body)
        name = name_of(body, protocol.GETXATTR.size)
        value = self._xattrs.find(number, name)
        if value is None:
            return self._no_label if name == _SELINUX else errno.ENODATA
        return _fitting(value, room)

    def setxattr(self, number: int, body: memoryview, head: Head) -> Reply:
        size, flags = protocol.SETXATTR.unpack_from(body)
        name = bytes(body[protocol.SETXATTR.size : len(body) - size - 1])
        value = bytes(body[len(body) - size :])
        if flags:
            present = self._xattrs.find(number, name) is not None
            if flags & os.XATTR_CREATE and present:
                return errno.EEXIST
            if flags & os.XATTR_REPLACE and not present:
                return errno.ENODATA
        self._xattrs.set(number, name, value)
        if name == _ACCESS_ACL and head[UID] != _ROOT_UID:
            self._drop_foreign_group(number, head)
        return 0

    def _drop_foreign_group(self, number: int, head: Head) -> None:
        """Who is not in a file's group may not keep its sgid over a new ACL, as with chmod."""
        inode = self._attributes.get(number)
        if inode.mode & stat.S_ISGID and not in_group(inode.gid, head):
            mode = stat.S_IMODE(inode.mode) & ~stat.S_ISGID
            self._attributes.set(number, AttributeChange(mode=mode))

    def listxattr(self, number: int, body: memoryview, head: Head) -> Reply:
        room, _ = protocol.GETXATTR.unpack_from(body)
        names = self._xattrs.list(number)
        if head[UID] != _ROOT_UID:
            names = [name for name in names if not name.startswith(_TRUSTED)]
        return _fitting(b"".join(name + b"\0" for name in names), room)

    def removexattr(self, number: int, body: memoryview, head: Head) -> Reply:
        name = name_of(body)
        if name in _ACLS and self._xattrs.find(number, name) is None:
            # Who sets an empty ACL wants none, and there is none: no error, as with ext4.
            return 0
        self._xattrs.remove(number, name)
        return 0


def _fitting(value: bytes, room: int) -> Reply:
    """`value` for who has `room` bytes for it; its size for who has none, which is to ask."""
    if room == 0:
        return protocol.size_of_value(len(value))
    return value if len(value) <= room else errno.ERANGE
