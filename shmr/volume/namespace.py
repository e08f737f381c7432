"""Names: lookup, create, link, unlink, rename, and the reading of directories.

Who may do what is the kernel's business (`default_permissions`); here are the rules that do not
depend on who asks, with ext4's errnos. A directory's row counts its entries; its entries are read
in the order of their cookies, which survive whatever is created and removed meanwhile.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator

from shmr.core import acl
from shmr.errors import IntegrityError, Refused
from shmr.format.rows import (
    NAME_MAX,
    Dentry,
    Inode,
    Row,
    Table,
    decode_cookie,
    encode_bytes,
    key_named,
    key_of,
    key_pair,
    split_pair,
)
from shmr.volume.context import Caller, Context, Need
from shmr.volume.handles import Handles
from shmr.volume.xattrs import ACCESS, DEFAULT, Xattrs

NOREPLACE = 1
EXCHANGE = 2
LINK_MAX = 2**31
FIRST_COOKIE = 8
"""Cookies below are for "." and ".."."""


def kind_of(mode: int) -> int:
    return stat.S_IFMT(mode)


class Namespace:
    """Directories and the names in them."""

    def __init__(self, context: Context, handles: Handles, xattrs: Xattrs) -> None:
        self._context = context
        self._catalog = context.catalog
        self._handles = handles
        self._xattrs = xattrs

    # -- looking ----------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> Inode:
        """The inode that `name` in `parent` is. Raises Refused: ENOENT, ENOTDIR, ENAMETOOLONG."""
        inode = self.find(parent, name)
        if inode is None:
            raise Refused(errno.ENOENT)
        return inode

    def find(self, parent: int, name: bytes) -> Inode | None:
        """Like `lookup`; None if the directory has no such name, which is asked for often."""
        # The name is checked second, as Linux does, and the directory only where it matters.
        dentry = self._catalog.dentry(parent, name) if len(name) <= NAME_MAX else None
        if dentry is None:
            self._directory(parent)
            checked_name(name)
            return None
        inode = self._catalog.inode(dentry.inode)
        if inode is None:
            raise IntegrityError(f"inode {dentry.inode}, named in directory {parent}, is missing")
        return inode

    def by_handle(self, number: int) -> Inode:
        """The inode that a file handle names, kept by somebody since. Raises Refused(ESTALE)."""
        inode = self._catalog.inode(number)
        if inode is None or not inode.links:
            raise Refused(errno.ESTALE)
        return inode

    def entries(self, directory: int, after: int) -> Iterator[tuple[bytes, Inode, int]]:
        """Entries with a cookie above `after`: (name, inode, cookie). Not "." and "..".

        The directory must not change while the iterator is in use. Raises Refused(ENOTDIR).
        """
        self._directory(directory)
        start = key_pair(directory, max(after + 1, FIRST_COOKIE))
        for key, value in self._catalog.scan(Table.COOKIE, start, key_of(directory)):
            name, number, _ = decode_cookie(value)
            inode = self._catalog.inode(number)
            if inode is None:
                raise IntegrityError(f"inode {number}, in directory {directory}, is missing")
            yield name, inode, split_pair(key)[1]

    def _directory(self, number: int) -> Inode:
        inode = self._context.get_inode(number)
        if not stat.S_ISDIR(inode.mode):
            raise Refused(errno.ENOTDIR)
        return inode

    def _named(self, directory: int, name: bytes) -> tuple[Dentry, Inode]:
        dentry = self._catalog.dentry(directory, name)
        if dentry is None:
            raise Refused(errno.ENOENT)
        inode = self._catalog.inode(dentry.inode)
        if inode is None:
            raise IntegrityError(f"inode {dentry.inode}, named in {directory}, is missing")
        return dentry, inode

    # -- making -----------------------------------------------------------------------------

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        caller: Caller,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        """Make an inode of the type in `mode` and name it.

        `mode` is as requested: umask, default ACL and setgid inheritance are applied here.
        Raises Refused: EEXIST, ENOTDIR, ENOENT (the directory was removed), ENAMETOOLONG, EROFS.
        """
        self._context.allow(Need.CREATE)
        directory = self._directory(parent)
        checked_name(name)
        if self._catalog.dentry(parent, name) is not None:
            raise Refused(errno.EEXIST)
        if directory.links == 0:
            raise Refused(errno.ENOENT)
        if len(target) > 4095:
            raise Refused(errno.ENAMETOOLONG)
        is_directory = stat.S_ISDIR(mode)
        number = self._context.new_inode()
        mode, rows = self._inherited(directory, number, mode, caller.umask)
        gid = caller.gid
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if is_directory:
                mode |= stat.S_ISGID
        now = self._context.clock()
        inode = Inode(
            number,
            mode,
            2 if is_directory else 1,
            caller.uid,
            gid,
            rdev,
            len(target),
            0,
            now,
            now,
            now,
            0,
            FIRST_COOKIE if is_directory else 0,
            parent if is_directory else 0,
            target,
        )
        cookie = directory.next_cookie
        directory = directory._replace(
            entries=directory.entries + 1,
            next_cookie=cookie + 1,
            links=directory.links + is_directory,
            mtime_ns=now,
            ctime_ns=now,
        )
        dentry = Dentry(number, kind_of(mode), cookie)
        self._context.apply(rows, inode, directory, names=[(parent, name, dentry)])
        return inode

    def _inherited(
        self, directory: Inode, number: int, mode: int, umask: int
    ) -> tuple[int, list[Row]]:
        """The mode of a new inode, and rows of the ACLs it inherits (posix_acl_create)."""
        if stat.S_ISLNK(mode):
            return mode | 0o777, []
        default = self._xattrs.acl(directory.number, DEFAULT)
        if default is None:
            return mode & ~umask, []
        is_directory = stat.S_ISDIR(mode)
        access, mode, inherited = acl.inherit(default, mode, is_directory)
        rows = []
        for name, value in ((ACCESS, access), (DEFAULT, inherited)):
            if value is not None:
                encoded = encode_bytes(acl.encode(value))
                rows.append(Row(Table.XATTR, key_named(number, name), encoded))
        return mode, rows

    def link(self, number: int, parent: int, name: bytes) -> Inode:
        """Another name for an inode. Raises Refused: EEXIST, EPERM (a directory), ENOENT."""
        self._context.allow(Need.CREATE)
        directory = self._directory(parent)
        checked_name(name)
        inode = self._context.get_inode(number)
        if self._catalog.dentry(parent, name) is not None:
            raise Refused(errno.EEXIST)
        if directory.links == 0:
            raise Refused(errno.ENOENT)
        if stat.S_ISDIR(inode.mode):
            raise Refused(errno.EPERM)
        if inode.links == 0:
            raise Refused(errno.ENOENT)
        if inode.links >= LINK_MAX:
            raise Refused(errno.EMLINK)
        now = self._context.clock()
        inode = inode._replace(links=inode.links + 1, ctime_ns=now)
        dentry = Dentry(number, kind_of(inode.mode), directory.next_cookie)
        directory = directory._replace(
            entries=directory.entries + 1,
            next_cookie=directory.next_cookie + 1,
            mtime_ns=now,
            ctime_ns=now,
        )
        self._context.apply((), inode, directory, names=[(parent, name, dentry)])
        return inode

    # -- removing ---------------------------------------------------------------------------

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is not a directory's. Raises Refused: ENOENT, EISDIR."""
        self._context.allow(Need.DELETE)
        directory = self._directory(parent)
        _, inode = self._named(parent, checked_name(name))
        if stat.S_ISDIR(inode.mode):
            raise Refused(errno.EISDIR)
        now = self._context.clock()
        inode, rows = self._unnamed(inode, now)
        directory = self._emptied(directory, now)
        self._context.apply(rows, inode, directory, names=[(parent, name, None)])
        self._handles.reclaim(inode.number)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory. Raises Refused: ENOENT, ENOTDIR, ENOTEMPTY."""
        self._context.allow(Need.DELETE)
        directory = self._directory(parent)
        _, inode = self._named(parent, checked_name(name))
        if not stat.S_ISDIR(inode.mode):
            raise Refused(errno.ENOTDIR)
        if inode.entries:
            raise Refused(errno.ENOTEMPTY)
        now = self._context.clock()
        inode, rows = self._unnamed(inode, now)
        directory = self._emptied(directory, now, links=1)
        self._context.apply(rows, inode, directory, names=[(parent, name, None)])
        self._handles.reclaim(inode.number)

    @staticmethod
    def _emptied(directory: Inode, now: int, links: int = 0) -> Inode:
        """The directory with one entry, and `links` subdirectories, less."""
        return directory._replace(
            entries=directory.entries - 1,
            links=directory.links - links,
            mtime_ns=now,
            ctime_ns=now,
        )

    @staticmethod
    def _unnamed(inode: Inode, now: int) -> tuple[Inode, list[Row]]:
        """An inode that lost a name, and the row that makes it an orphan if that was its last."""
        links = 0 if stat.S_ISDIR(inode.mode) else inode.links - 1
        rows = [] if links else [Row(Table.ORPHAN, key_of(inode.number), b"\x90")]
        return inode._replace(links=links, ctime_ns=now), rows

    # -- renaming ---------------------------------------------------------------------------

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        """Give an inode another name, replacing what has it; or exchange two names.

        Raises Refused with rename(2)'s errnos; EINVAL for flags but NOREPLACE and EXCHANGE.
        """
        self._context.allow(Need.CREATE)
        if flags not in (0, NOREPLACE, EXCHANGE):
            raise Refused(errno.EINVAL)
        old_dir, new_dir = self._directory(parent), self._directory(new_parent)
        source, inode = self._named(parent, checked_name(name))
        target = self._catalog.dentry(new_parent, checked_name(new_name))
        if new_dir.links == 0:
            raise Refused(errno.ENOENT)
        if flags == NOREPLACE and target is not None:
            raise Refused(errno.EEXIST)
        if flags == EXCHANGE and target is None:
            raise Refused(errno.ENOENT)
        if stat.S_ISDIR(inode.mode) and self._is_inside(new_parent, inode.number):
            raise Refused(errno.EINVAL)
        if target is not None and self._is_inside(parent, target.inode):
            raise Refused(errno.EINVAL if flags == EXCHANGE else errno.ENOTEMPTY)
        if flags == EXCHANGE:
            self._exchange(old_dir, name, source, inode, new_dir, new_name)
            return
        if target is None:
            self._move(old_dir, name, inode, new_dir, new_name)
            return
        if target.inode == source.inode:
            return
        self._replace(old_dir, name, inode, new_dir, new_name, target)

    def _is_inside(self, number: int, ancestor: int) -> bool:
        """Is the directory `number` the directory `ancestor`, or below it?"""
        seen = 0
        while number != ancestor:
            parent = self._context.get_inode(number).parent
            seen += 1
            if parent in (number, 0) or seen > 100_000:
                return False
            number = parent
        return True

    def _move(
        self, old_dir: Inode, name: bytes, inode: Inode, new_dir: Inode, new_name: bytes
    ) -> None:
        now = self._context.clock()
        is_directory = stat.S_ISDIR(inode.mode)
        dentry = Dentry(inode.number, kind_of(inode.mode), new_dir.next_cookie)
        if old_dir.number == new_dir.number:
            changed = [
                new_dir._replace(next_cookie=new_dir.next_cookie + 1, mtime_ns=now, ctime_ns=now)
            ]
        else:
            changed = [
                self._emptied(old_dir, now, links=is_directory),
                new_dir._replace(
                    entries=new_dir.entries + 1,
                    next_cookie=new_dir.next_cookie + 1,
                    links=new_dir.links + is_directory,
                    mtime_ns=now,
                    ctime_ns=now,
                ),
            ]
        parent = new_dir.number if is_directory else 0
        names = [(old_dir.number, name, None), (new_dir.number, new_name, dentry)]
        moved = inode._replace(ctime_ns=now, parent=parent)
        self._context.apply((), moved, *changed, names=names)

    def _replace(
        self,
        old_dir: Inode,
        name: bytes,
        inode: Inode,
        new_dir: Inode,
        new_name: bytes,
        target: Dentry,
    ) -> None:
        """The inode takes the place, in the reading order too, of what had the new name."""
        victim = self._named(new_dir.number, new_name)[1]
        is_directory = stat.S_ISDIR(inode.mode)
        if is_directory and not stat.S_ISDIR(victim.mode):
            raise Refused(errno.ENOTDIR)
        if not is_directory and stat.S_ISDIR(victim.mode):
            raise Refused(errno.EISDIR)
        if victim.entries:
            raise Refused(errno.ENOTEMPTY)
        now = self._context.clock()
        # One entry leaves the old directory; the new one keeps its count. A directory that
        # replaces another leaves the new parent's links as they were.
        if old_dir.number == new_dir.number:
            changed = [self._emptied(old_dir, now, links=is_directory)]
        else:
            changed = [
                self._emptied(old_dir, now, links=is_directory),
                new_dir._replace(mtime_ns=now, ctime_ns=now),
            ]
        moved = inode._replace(ctime_ns=now, parent=new_dir.number if is_directory else 0)
        victim, rows = self._unnamed(victim, now)
        dentry = Dentry(inode.number, kind_of(inode.mode), target.cookie)
        names = [(old_dir.number, name, None), (new_dir.number, new_name, dentry)]
        self._context.apply(rows, moved, victim, *changed, names=names)
        self._handles.reclaim(victim.number)

    def _exchange(
        self,
        old_dir: Inode,
        name: bytes,
        source: Dentry,
        inode: Inode,
        new_dir: Inode,
        new_name: bytes,
    ) -> None:
        target, other = self._named(new_dir.number, new_name)
        if other.number == inode.number:
            return
        now = self._context.clock()
        up, down = stat.S_ISDIR(inode.mode), stat.S_ISDIR(other.mode)
        same = old_dir.number == new_dir.number
        links = 0 if same else up - down
        changed = [old_dir._replace(links=old_dir.links - links, mtime_ns=now, ctime_ns=now)]
        if not same:
            changed.append(
                new_dir._replace(links=new_dir.links + links, mtime_ns=now, ctime_ns=now)
            )
        names = [
            (old_dir.number, name, Dentry(other.number, target.kind, source.cookie)),
            (new_dir.number, new_name, Dentry(inode.number, source.kind, target.cookie)),
        ]
        inode = inode._replace(ctime_ns=now, parent=new_dir.number if up else 0)
        other = other._replace(ctime_ns=now, parent=old_dir.number if down else 0)
        self._context.apply((), inode, other, *changed, names=names)


def checked_name(name: bytes) -> bytes:
    """Raises Refused(ENAMETOOLONG), or EINVAL for what is no name at all."""
    if len(name) > NAME_MAX:
        raise Refused(errno.ENAMETOOLONG)
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise Refused(errno.EINVAL)
    return name
