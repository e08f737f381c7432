"""Names of the model filesystem: every rule of Linux that does not ask who is there.

The checks stand in the order of fs/namei.c, so that of two errors the same one is told.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator

from shmr.core import acl
from shmr.errors import Refused
from shmr.format.rows import NAME_MAX, ROOT, Inode
from shmr.testing.model_state import ModelHandles, State
from shmr.volume.context import Caller

NOREPLACE = 1
EXCHANGE = 2
TARGET_MAX = 4095
FIRST_COOKIE = 8


class ModelNames:
    """Directories and the names in them."""

    def __init__(self, state: State, clock: Callable[[], int], handles: ModelHandles) -> None:
        self._state = state
        self._clock = clock
        self._handles = handles

    def lookup(self, parent: int, name: bytes) -> Inode:
        found = self.find(parent, name)
        if found is None:
            raise Refused(errno.ENOENT)
        return found

    def find(self, parent: int, name: bytes) -> Inode | None:
        self._directory(parent)
        return self._find(parent, name)

    def entries(self, directory: int, after: int) -> Iterator[tuple[bytes, Inode, int]]:
        self._directory(directory)
        listed = self._state.directories[directory].items()
        for name, (number, cookie) in sorted(listed, key=lambda item: item[1][1]):
            if cookie > after:
                yield name, self._state.inodes[number], cookie

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        caller: Caller,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        directory = self._vacant(parent, name)
        if len(target) > TARGET_MAX:
            raise Refused(errno.ENAMETOOLONG)
        is_directory = stat.S_ISDIR(mode)
        mode, xattrs = self._inherited(parent, mode, caller.umask)
        gid = caller.gid
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if is_directory:
                mode |= stat.S_ISGID
        number, now = self._state.next_inode, self._clock()
        self._state.next_inode += 1
        links = 2 if is_directory else 1
        size = len(target)
        inode = Inode(number, mode, links, caller.uid, gid, rdev, size, 0, now, now, now)
        inode = inode._replace(target=target)
        if is_directory:
            inode = inode._replace(parent=parent, next_cookie=FIRST_COOKIE)
            self._state.directories[number] = {}
        if xattrs:
            self._state.xattrs[number] = xattrs
        self._state.put(inode)
        self._add(parent, name, inode, now)
        return inode

    def link(self, number: int, parent: int, name: bytes) -> Inode:
        self._state.inode(number)
        self._vacant(parent, name)
        inode = self._state.inode(number)
        if stat.S_ISDIR(inode.mode):
            raise Refused(errno.EPERM)
        if inode.links == 0:
            raise Refused(errno.ENOENT)
        now = self._clock()
        inode = inode._replace(links=inode.links + 1, ctime_ns=now)
        self._state.put(inode)
        self._add(parent, name, inode, now)
        return inode

    def unlink(self, parent: int, name: bytes) -> None:
        inode = self.lookup(parent, name)
        if stat.S_ISDIR(inode.mode):
            raise Refused(errno.EISDIR)
        self._remove(parent, name, inode)

    def rmdir(self, parent: int, name: bytes) -> None:
        inode = self.lookup(parent, name)
        if not stat.S_ISDIR(inode.mode):
            raise Refused(errno.ENOTDIR)
        if inode.entries:
            raise Refused(errno.ENOTEMPTY)
        self._remove(parent, name, inode)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        if flags not in (0, NOREPLACE, EXCHANGE):
            raise Refused(errno.EINVAL)
        self._directory(parent)
        new_dir = self._directory(new_parent)
        source = self.lookup(parent, name)
        victim = self._find(new_parent, new_name)
        if victim is not None and flags == NOREPLACE:
            raise Refused(errno.EEXIST)
        if victim is None and (flags == EXCHANGE or new_dir.links == 0):
            raise Refused(errno.ENOENT)
        if self._is_at_or_above(source.number, new_parent):
            raise Refused(errno.EINVAL)
        if victim is not None and self._is_at_or_above(victim.number, parent):
            raise Refused(errno.EINVAL if flags == EXCHANGE else errno.ENOTEMPTY)
        if victim is not None and victim.number == source.number:
            return
        if victim is None or flags == EXCHANGE:
            self._swap(parent, name, source, new_parent, new_name, victim)
            return
        if stat.S_ISDIR(source.mode) and not stat.S_ISDIR(victim.mode):
            raise Refused(errno.ENOTDIR)
        if stat.S_ISDIR(victim.mode) and not stat.S_ISDIR(source.mode):
            raise Refused(errno.EISDIR)
        if victim.entries:
            raise Refused(errno.ENOTEMPTY)
        place = self._state.directories[new_parent][new_name][1]
        now = self._clock()
        self._take(new_parent, new_name, now)
        self._unname(victim, now)
        self._swap(parent, name, source, new_parent, new_name, None, now=now, cookie=place)
        self._handles.reclaim(victim.number)

    def _swap(
        self,
        parent: int,
        name: bytes,
        source: Inode,
        new_parent: int,
        new_name: bytes,
        other: Inode | None,
        *,
        now: int | None = None,
        cookie: int | None = None,
    ) -> None:
        """Put `source` at the new name, and `other`, if there is one, at the old."""
        now = self._clock() if now is None else now
        old_place = self._take(parent, name, now)
        if other is not None:
            cookie = self._take(new_parent, new_name, now)
            self._state.put(other._replace(ctime_ns=now))
        self._state.put(self._state.inode(source.number)._replace(ctime_ns=now))
        self._add(new_parent, new_name, self._state.inode(source.number), now, cookie)
        if other is not None:
            self._add(parent, name, self._state.inode(other.number), now, old_place)

    def _remove(self, parent: int, name: bytes, inode: Inode) -> None:
        now = self._clock()
        self._take(parent, name, now)
        self._unname(inode, now)
        self._handles.reclaim(inode.number)

    def _unname(self, inode: Inode, now: int) -> None:
        links = 0 if stat.S_ISDIR(inode.mode) else inode.links - 1
        self._state.put(inode._replace(links=links, ctime_ns=now))

    def _add(
        self, parent: int, name: bytes, inode: Inode, now: int, cookie: int | None = None
    ) -> None:
        """Enter `inode` in a directory, at a place of its reading order or at the end."""
        directory = self._state.inode(parent)
        if cookie is None:
            cookie = directory.next_cookie
            directory = directory._replace(next_cookie=cookie + 1)
        if stat.S_ISDIR(inode.mode):
            directory = directory._replace(links=directory.links + 1)
            self._state.put(inode._replace(parent=parent))
        listed = self._state.directories[parent]
        self._state.directories[parent] = {**listed, name: (inode.number, cookie)}
        entries = directory.entries + 1
        self._state.put(directory._replace(entries=entries, mtime_ns=now, ctime_ns=now))

    def _take(self, parent: int, name: bytes, now: int) -> int:
        """Take a name out of a directory; returns its place in the reading order."""
        directory = self._state.inode(parent)
        listed = self._state.directories[parent].copy()
        number, cookie = listed.pop(name)
        self._state.directories[parent] = listed
        if stat.S_ISDIR(self._state.inode(number).mode):
            directory = directory._replace(links=directory.links - 1)
        entries = directory.entries - 1
        self._state.put(directory._replace(entries=entries, mtime_ns=now, ctime_ns=now))
        return cookie

    def _inherited(self, parent: int, mode: int, umask: int) -> tuple[int, dict[bytes, bytes]]:
        """The mode of a new inode in `parent`, and the ACLs that it gets (posix_acl_create)."""
        if stat.S_ISLNK(mode):
            return mode | 0o777, {}
        default = self._state.xattrs.get(parent, {}).get(acl.DEFAULT)
        parsed = None if default is None else acl.decode(default)
        if parsed is None:
            return mode & ~umask, {}
        access, mode, inherited = acl.inherit(parsed, mode, stat.S_ISDIR(mode))
        given = {acl.ACCESS: access, acl.DEFAULT: inherited}
        return mode, {name: acl.encode(value) for name, value in given.items() if value}

    def _directory(self, number: int) -> Inode:
        inode = self._state.inode(number)
        if not stat.S_ISDIR(inode.mode):
            raise Refused(errno.ENOTDIR)
        return inode

    def _find(self, parent: int, name: bytes) -> Inode | None:
        if len(name) > NAME_MAX:
            raise Refused(errno.ENAMETOOLONG)
        if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise Refused(errno.EINVAL)
        entry = self._state.directories[parent].get(name)
        return None if entry is None else self._state.inodes[entry[0]]

    def _vacant(self, parent: int, name: bytes) -> Inode:
        """The directory `parent`, in which `name` may be made."""
        directory = self._directory(parent)
        if self._find(parent, name) is not None:
            raise Refused(errno.EEXIST)
        if directory.links == 0:
            raise Refused(errno.ENOENT)
        return directory

    def _is_at_or_above(self, number: int, directory: int) -> bool:
        """Is the inode `number` this directory, or one that it is in?"""
        while directory != ROOT:
            if directory == number:
                return True
            directory = self._state.inodes[directory].parent
            if directory not in self._state.inodes:
                return False
        return number == ROOT
