"""The filesystem as it ought to behave: plain dictionaries, no drives, no speed, no doubt.

`Model` has the interface of a volume (`names`, `attributes`, `xattrs`, `data`, `holes`, `handles`)
and answers every call with the result or the errno that ext4 gives, in the order in which Linux
checks (fs/namei.c, fs/attr.c, fs/open.c, fs/xattr.c, fs/posix_acl.c). Who may do what is not
modelled: the kernel checks permissions above. Space never ends, and `allocated` is always 0.

Where a call could be answered in two ways this is the one:

* Directories have the size 0 and one link for each subdirectory beside their two.
* Writes leave the times alone (the kernel sets them); a size that is set moves mtime and ctime,
  and so does fallocate.
* Holes are what was not written, byte for byte.
* One operation reads the clock once, and only when it changes something.

Every value in here is immutable, so `copy` costs little and a version once kept stays as it is.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable

from shmr.core import acl
from shmr.errors import IntegrityError, Refused
from shmr.format.rows import NAME_MAX, ROOT, SIZE_MAX, TIME_MAX_NS, TIME_MIN_NS, Inode
from shmr.testing.content import Content
from shmr.testing.model_holes import ModelHoles
from shmr.testing.model_names import FIRST_COOKIE, ModelNames
from shmr.testing.model_state import ModelHandles, State
from shmr.testing.ranges import Ranges
from shmr.testing.tree import Tree, tree_of
from shmr.volume.attributes import AttributeChange
from shmr.volume.context import Caller

XATTR_MAX = 64 * 1024


class Model:
    """One model filesystem. `clock` gives nanoseconds since 1970."""

    def __init__(
        self,
        clock: Callable[[], int],
        *,
        root: Inode | None = None,
        state: State | None = None,
        handles: ModelHandles | None = None,
    ) -> None:
        """`root` lends its mode, owner and times to the root directory of a new model."""
        self.clock = clock
        self.state = State() if state is None else state
        if state is None:
            now = clock()
            made = Inode(ROOT, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, now, now, now)
            fresh = made if root is None else root._replace(links=2, size=0, entries=0)
            self.state.put(fresh._replace(next_cookie=FIRST_COOKIE, parent=ROOT))
            self.state.directories[ROOT] = {}
        self.handles = ModelHandles(self.state) if handles is None else handles
        self.xattrs = ModelXattrs(self.state, clock)
        self.data = ModelData(self.state)
        self.holes = ModelHoles(self.state, clock)
        self.attributes = ModelAttributes(self.state, clock, self.data, self.xattrs)
        self.names = ModelNames(self.state, clock, self.handles)

    def copy(self) -> Model:
        """A model of its own with the same content, and the same files open."""
        state = self.state.copy()
        return Model(self.clock, state=state, handles=self.handles.copy(state))

    def restarted(self) -> Model:
        """What a mount after a crash shows: a copy with nothing open, and so without orphans."""
        model = Model(self.clock, state=self.state.copy())
        model.handles.free_orphans()
        return model

    def tree(self) -> Tree:
        return tree_of(self)


class ModelXattrs:
    """Extended attributes; the ACLs among them move the mode."""

    def __init__(self, state: State, clock: Callable[[], int]) -> None:
        self._state = state
        self._clock = clock

    def of(self, number: int) -> dict[bytes, bytes]:
        return self._state.xattrs.get(number, {})

    def get(self, number: int, name: bytes) -> bytes:
        value = self.find(number, name)
        if value is None:
            raise Refused(errno.ENODATA)
        return value

    def find(self, number: int, name: bytes) -> bytes | None:
        _check_xattr_name(name)
        self._state.inode(number)
        return self.of(number).get(name)

    def list(self, number: int) -> list[bytes]:
        self._state.inode(number)
        return sorted(self.of(number))

    def set(self, number: int, name: bytes, value: bytes, caller: Caller | None = None) -> None:
        """`caller` decides whether setgid survives an access ACL; nobody asking, it does."""
        _check_xattr_name(name)
        if len(value) > XATTR_MAX:
            raise Refused(errno.E2BIG)
        inode = self._state.inode(number)
        if name in (acl.ACCESS, acl.DEFAULT):
            self._set_acl(inode, name, value, caller)
            return
        names = {*self.of(number), name}
        if sum(len(other) + 1 for other in names) > XATTR_MAX:
            raise Refused(errno.ENOSPC)
        self._put(inode, name, bytes(value))

    def remove(self, number: int, name: bytes, caller: Caller | None = None) -> None:
        _check_xattr_name(name)
        inode = self._state.inode(number)
        if name in self.of(number):
            self._put(inode, name, None)
        elif name not in (acl.ACCESS, acl.DEFAULT):
            # An ACL that is not there is removed with success: XATTR_REPLACE is not asked of it.
            raise Refused(errno.ENODATA)

    def _acl(self, number: int, name: bytes) -> acl.Acl | None:
        value = self.of(number).get(name)
        return None if value is None else acl.decode(value)

    def keep_in_step(self, inode: Inode) -> None:
        """The access ACL follows the mode of `inode` (posix_acl_chmod)."""
        access = self._acl(inode.number, acl.ACCESS)
        if access is not None:
            encoded = acl.encode(acl.with_mode(access, inode.mode))
            self._state.xattrs[inode.number] = {**self.of(inode.number), acl.ACCESS: encoded}

    def _set_acl(self, inode: Inode, name: bytes, value: bytes, caller: Caller | None) -> None:
        try:
            parsed = acl.decode(value)
        except acl.UnknownAclVersion as error:
            raise Refused(errno.EOPNOTSUPP) from error
        except IntegrityError as error:
            raise Refused(errno.EINVAL) from error
        if name == acl.DEFAULT:
            if not stat.S_ISDIR(inode.mode):
                if parsed is not None:
                    raise Refused(errno.EACCES)
                return
        elif parsed is not None:
            mode = inode.mode & ~0o777 | acl.mode_of(parsed)
            if caller is not None and not _in_group(caller, inode.gid):
                mode &= ~stat.S_ISGID
            inode = inode._replace(mode=mode)
            if acl.is_minimal(parsed):
                parsed = None
        self._put(inode, name, None if parsed is None else acl.encode(parsed))

    def _put(self, inode: Inode, name: bytes, value: bytes | None) -> None:
        xattrs = self.of(inode.number).copy()
        xattrs.pop(name, None)
        if value is not None:
            xattrs[name] = value
        self._state.xattrs[inode.number] = xattrs
        self._state.put(inode._replace(ctime_ns=self._clock()))


class ModelPlan:
    """A read that has happened already."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def fetch_cached(self) -> bytes | None:
        return self._content

    def fetch(self) -> bytes:
        return self._content

    def release(self) -> None:
        pass


class ModelData:
    """The bytes of regular files."""

    def __init__(self, state: State) -> None:
        self._state = state

    def read(self, number: int, offset: int, size: int) -> bytes:
        self.regular(number)
        return self.content(number).read(offset, size)

    def plan_read(self, number: int, offset: int, size: int) -> ModelPlan:
        return ModelPlan(self.read(number, offset, size))

    def write(self, number: int, offset: int, payload: bytes | memoryview) -> None:
        inode = self.regular(number)
        if offset + len(payload) > SIZE_MAX:
            raise Refused(errno.EFBIG)
        content = self.content(number).write(offset, bytes(payload))
        self._state.contents[number] = content
        data = self._state.data.get(number, Ranges())
        self._state.data[number] = data.with_range(offset, offset + len(payload))
        self._state.put(inode._replace(size=content.size))

    def truncate(self, number: int, size: int) -> Inode:
        inode = self.regular(number)
        if size < 0:
            raise Refused(errno.EINVAL)
        if size > SIZE_MAX:
            raise Refused(errno.EFBIG)
        self._state.contents[number] = self.content(number).truncate(size)
        data = self._state.data.get(number, Ranges())
        self._state.data[number] = data.without(size, SIZE_MAX)
        inode = inode._replace(size=size)
        self._state.put(inode)
        return inode

    def content(self, number: int) -> Content:
        return self._state.contents.get(number, _EMPTY)

    def regular(self, number: int) -> Inode:
        inode = self._state.inode(number)
        if not stat.S_ISREG(inode.mode):
            raise Refused(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.EINVAL)
        return inode


_EMPTY = Content()


class ModelAttributes:
    """Mode, owner, times, size."""

    def __init__(
        self, state: State, clock: Callable[[], int], data: ModelData, xattrs: ModelXattrs
    ) -> None:
        self._state = state
        self._clock = clock
        self._data = data
        self._xattrs = xattrs

    def get(self, number: int) -> Inode:
        return self._state.inode(number)

    def set(self, number: int, change: AttributeChange, caller: Caller | None = None) -> Inode:
        inode = self._state.inode(number)
        if change.size is not None:
            inode = self._data.truncate(number, change.size)
        now = self._clock()
        if change.size is not None:
            inode = inode._replace(mtime_ns=now)
        if change.mode is not None:
            inode = inode._replace(mode=stat.S_IFMT(inode.mode) | stat.S_IMODE(change.mode))
            self._xattrs.keep_in_step(inode)
        inode = inode._replace(
            uid=inode.uid if change.uid is None else change.uid,
            gid=inode.gid if change.gid is None else change.gid,
            atime_ns=_time(change.atime_ns, inode.atime_ns),
            mtime_ns=_time(change.mtime_ns, inode.mtime_ns),
            ctime_ns=_time(change.ctime_ns, now),
        )
        self._state.put(inode)
        return inode

    def kill_privileges(self, number: int) -> Inode:
        """Clear suid, and sgid of what the group may execute, of a regular file."""
        inode = self._state.inode(number)
        mode = inode.mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
        if mode == inode.mode or not stat.S_ISREG(mode):
            return inode
        return self.set(number, AttributeChange(mode=mode))


def _check_xattr_name(name: bytes) -> None:
    if not 0 < len(name) <= NAME_MAX:
        raise Refused(errno.ERANGE)


def _in_group(caller: Caller, gid: int) -> bool:
    """Whether setgid of a file of group `gid` survives what `caller` does to it."""
    return caller.uid == 0 or gid == caller.gid or gid in caller.groups()


def _time(time_ns: int | None, otherwise: int) -> int:
    return otherwise if time_ns is None else min(max(time_ns, TIME_MIN_NS), TIME_MAX_NS)
