"""Extended attributes, POSIX ACLs among them, which are kept in step with the mode.

Limits are Linux's: names of 255 bytes, values of 64 KiB, 64 KiB of names per inode.
"""

from __future__ import annotations

import errno
import stat

from shmr.core import acl as posix_acl
from shmr.core.acl import Acl
from shmr.errors import IntegrityError, Refused
from shmr.format.rows import (
    NAME_MAX,
    Row,
    Table,
    decode_bytes,
    encode_bytes,
    key_named,
    key_of,
)
from shmr.units import KIB
from shmr.volume.context import Context, Need

ACCESS = posix_acl.ACCESS
DEFAULT = posix_acl.DEFAULT
VALUE_MAX = 64 * KIB
LIST_MAX = 64 * KIB
Names = list[bytes]
_SPACES = (b"user.", b"trusted.", b"security.")
_PREFIXES = (*_SPACES, b"system.")


class Xattrs:
    """Extended attributes of inodes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._catalog = context.catalog

    def get(self, number: int, name: bytes) -> bytes:
        """Raises Refused(ENODATA)."""
        value = self.find(number, name)
        if value is None:
            raise Refused(errno.ENODATA)
        return value

    def find(self, number: int, name: bytes) -> bytes | None:
        """Like `get`; None if the inode has no such attribute, which is asked for often."""
        value = self._catalog.xattr(number, _checked(name))
        return None if value is None else decode_bytes(value)

    def set(self, number: int, name: bytes, value: bytes) -> None:
        """Raises Refused: E2BIG, ENOSPC (64 KiB of names), EINVAL (an ACL that is none)."""
        self._context.allow(Need.CREATE)
        inode = self._context.get_inode(number)
        if len(value) > VALUE_MAX:
            raise Refused(errno.E2BIG)
        key = key_named(number, _checked(name))
        if self._catalog.xattr(number, name) is None:
            taken = sum(len(other) + 1 for other in self.list(number))
            if taken + len(name) + 1 > LIST_MAX:
                raise Refused(errno.ENOSPC)
        inode = inode._replace(ctime_ns=self._context.clock())
        stored: bytes | None = encode_bytes(value)
        if name in (ACCESS, DEFAULT):
            parsed = self._parsed(value)
            if name == DEFAULT and not stat.S_ISDIR(inode.mode):
                raise Refused(errno.EACCES)
            if parsed is None:
                stored = None
            elif name == ACCESS:
                inode = inode._replace(mode=inode.mode & ~0o777 | posix_acl.mode_of(parsed))
                if posix_acl.is_minimal(parsed):
                    stored = None
        self._context.apply([Row(Table.XATTR, key, stored)], inode)

    def remove(self, number: int, name: bytes) -> None:
        """Raises Refused(ENODATA)."""
        self._context.allow(Need.DELETE)
        self.get(number, name)
        inode = self._context.get_inode(number)._replace(ctime_ns=self._context.clock())
        self._context.apply([Row(Table.XATTR, key_named(number, name), None)], inode)

    def acl(self, number: int, name: bytes) -> Acl | None:
        """The ACL `name` (ACCESS or DEFAULT) of an inode, if it has one."""
        value = self._catalog.xattr(number, name)
        if value is None:
            return None
        return posix_acl.decode(decode_bytes(value))

    def acl_rows(self, number: int, mode: int) -> list[Row]:
        """The rows that bring the access ACL in step with a new mode (chmod)."""
        access = self.acl(number, ACCESS)
        if access is None:
            return []
        encoded = encode_bytes(posix_acl.encode(posix_acl.with_mode(access, mode)))
        return [Row(Table.XATTR, key_named(number, ACCESS), encoded)]

    def list(self, number: int) -> Names:
        """All names, in the order of their bytes."""
        prefix = key_of(number)
        return [key[8:] for key, _ in self._catalog.scan(Table.XATTR, prefix, prefix)]

    @staticmethod
    def _parsed(value: bytes) -> Acl | None:
        try:
            return posix_acl.decode(value)
        except posix_acl.UnknownAclVersion as error:
            raise Refused(errno.EOPNOTSUPP) from error
        except IntegrityError as error:
            raise Refused(errno.EINVAL) from error


def _checked(name: bytes) -> bytes:
    if len(name) > NAME_MAX:
        raise Refused(errno.ERANGE)
    if not name:
        raise Refused(errno.ERANGE)
    if name in _PREFIXES:
        raise Refused(errno.EINVAL)
    if not name.startswith(_SPACES) and name not in (ACCESS, DEFAULT):
        raise Refused(errno.EOPNOTSUPP)
    return name
