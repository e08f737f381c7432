"""The kernel's requests as calls of the volume: translation, and no decision of its own.

Conventions with the kernel
- A file handle is the inode's number, with bits above it for what the opener's reads and
  writes mean (WRITES_DROP, FOREIGN_GROUP, READS_COUNT): nothing has to be remembered per
  handle. A directory handle is the inode's number.
- Every reply that names an inode counts as a lookup; the volume learns when all are forgotten.
- Directory offsets: 1 is after ".", 2 is after "..", and above them the volume's cookies.
- atime moves where the kernel asks for bytes; what its page cache has, it does not ask for.
- Clearing suid and sgid is ours (see `negotiate`). pyfuse3 does not show who writes, so who
  opened counts: what root opened keeps them, which is what CAP_FSETID comes to in practice.
- The umask is in the caller, not yet in the mode.

Not handled, and what the kernel does then: flush (ENOSYS: dirty pages are written at close
without a request of its own; there is nothing to add), access (it checks permissions itself),
poll (a file is always ready), ioctl (ENOTTY), lseek for data and holes (a file is all data),
fallocate (EOPNOTSUPP; the C library then writes zeros), copy_file_range (copies through the page
cache), O_TMPFILE (EOPNOTSUPP), syncfs(2) and sync(2): they write dirty pages to us, but ask for
no commit; fsync does.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import pyfuse3
import trio

from shmr.drive.seam import Buffer
from shmr.errors import Refused, ShmrError
from shmr.format.rows import Inode
from shmr.fuse.guard import immediate, logger, waiting
from shmr.fuse.lookups import LookupCounts
from shmr.fuse.reply import (
    ABSENT,
    directory_entry,
    entry_of,
    statvfs_of,
    supplementary_groups,
    without_privileges,
)
from shmr.fuse.seam import Volume
from shmr.volume.attributes import AttributeChange, needs_atime
from shmr.volume.context import Caller

# How many requests may be under way at once: as many readers may wait for sleeping drives.
WORKERS = 128

# Bits of a file handle above the inode's number.
WRITES_DROP = 1 << 62  # writes clear suid and sgid: the opener is not root
FOREIGN_GROUP = 1 << 60  # and sgid in any case: the opener is not in the file's group
READS_COUNT = 1 << 61  # reads move atime: it was due when the file was opened
NUMBER = FOREIGN_GROUP - 1

# How long the kernel may believe the attributes of an open file.
OPEN_VALID_S = 1.0

_ROOT_UID = 0
_DOT, _DOTDOT = 1, 2
_ACCESS_ACL = b"system.posix_acl_access"
_TRUSTED = b"trusted."
_ENOENT = 2


class Operations(pyfuse3.Operations):
    """Request handlers. `commit` makes everything so far durable; `make_room` frees space."""

    supports_dot_lookup = False
    enable_writeback_cache = True
    enable_acl = True

    def __init__(
        self,
        volume: Volume,
        *,
        commit: Callable[[], Awaitable[None]],
        make_room: Callable[[], Awaitable[bool]],
        count_reads: bool = True,
    ) -> None:
        """`count_reads`: whether reading moves atime (relatime)."""
        super().__init__()
        self.make_room = make_room
        self.before_waiting: Callable[[], None] = lambda: None
        self._commit = commit
        self._volume = volume
        self._names = volume.names
        self._attributes = volume.attributes
        self._xattrs = volume.xattrs
        self._data = volume.data
        self._handles = volume.handles
        self._handles.keep_known = True
        self._count_reads = count_reads
        self._readers = trio.CapacityLimiter(WORKERS)
        self._lookups = LookupCounts()
        # Inodes that a write failed on: what the kernel believes behind their end is not there.
        self._unwritten: set[int] = set()
        # What the kernel was last told that an open file allocates.

    # -- what the kernel knows ------------------------------------------------------------

    def _told(self, inode: Inode) -> pyfuse3.EntryAttributes:
        """A reply that makes the kernel know `inode`, or know it once more."""
        entry = self._entry(inode)
        self._lookups.add(inode.number)
        return entry

    @immediate
    def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        try:
            return self._told(self._names.lookup(parent_inode, name))
        except Refused as refused:
            if refused.errno != _ENOENT:
                raise
            return ABSENT

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, count in inode_list:
            try:
                if self._lookups.drop(number, count):
                    self._unwritten.discard(number)
                    self._handles.forgotten(number)
            except Exception:
                logger.exception("forget of inode %d failed; it is freed by the next mount", number)

    # -- attributes -----------------------------------------------------------------------

    @immediate
    def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._entry(self._attributes.get(inode))

    @immediate
    def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        change = AttributeChange(
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        )
        row = self._changed(inode, change, ctx)
        # The kernel throws the reply away when it merely writes its times back.
        return entry_of(row) if _is_times_only(change) else self._entry(row)

    def _entry(self, inode: Inode) -> pyfuse3.EntryAttributes:
        """A reply with the attributes of `inode`; of an open file it holds for a second only.

        What an open file allocates changes without the kernel's knowing. Shorter would be dear:
        the kernel asks for an expired attribute at each write(2), and for the capabilities then
        too; so would be telling it at each fsync.
        """
        entry = entry_of(inode)
        if self._handles.is_open(inode.number):
            entry.attr_timeout = OPEN_VALID_S
        return entry

    def _changed(self, number: int, change: AttributeChange, ctx: pyfuse3.RequestContext) -> Inode:
        """Apply `change`, with what it does to suid and sgid."""
        if change == AttributeChange():
            return self._attributes.get(number)
        is_chown = change.uid is not None or change.gid is not None
        is_truncate = change.size is not None and ctx.uid != _ROOT_UID
        is_flush = _is_times_only(change)
        if not (is_chown or is_truncate or is_flush):
            return self._attributes.set(number, change)
        inode = self._attributes.get(number)
        if is_flush and inode.links == 0:
            # The kernel writes back the times of a file it has just unlinked: not worth a row.
            return inode
        if (is_chown or is_truncate) and change.mode is None and not stat.S_ISDIR(inode.mode):
            member = ctx.uid == _ROOT_UID or _in_group(inode.gid, ctx)
            mode = without_privileges(inode.mode, member=member)
            if mode != inode.mode:
                change = dataclasses.replace(change, mode=stat.S_IMODE(mode))
        return self._attributes.set(number, change)

    @immediate
    def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        target = self._attributes.get(inode).target
        self._note_read(inode)
        return target

    @immediate
    def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        usage = self._volume.usage()
        return statvfs_of(
            block_size=usage.block_size,
            blocks=usage.blocks,
            free=usage.blocks_free,
            available=usage.blocks_available,
            files=usage.files,
            files_free=usage.files_free,
        )

    # -- names ----------------------------------------------------------------------------

    def _create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        ctx: pyfuse3.RequestContext,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        return self._names.create(parent, name, mode, _caller(ctx), rdev, target)

    @immediate
    def mknod(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        rdev: int,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        typed = mode if stat.S_IFMT(mode) else mode | stat.S_IFREG
        return self._told(self._create(parent_inode, name, typed, ctx, rdev))

    @immediate
    def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._told(self._create(parent_inode, name, mode, ctx))

    @immediate
    def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        mode = stat.S_IFLNK | 0o777
        return self._told(self._create(parent_inode, name, mode, ctx, target=target))

    @immediate
    def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._told(self._names.link(inode, new_parent_inode, new_name))

    @immediate
    def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._names.unlink(parent_inode, name)

    @immediate
    def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._names.rmdir(parent_inode, name)

    @immediate
    def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        self._names.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # -- directories ----------------------------------------------------------------------

    @immediate
    def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        self._attributes.get(inode)
        self._handles.opened(inode)
        return inode

    @immediate
    def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        # Counted only when the reply goes out: an error takes it all back.
        told = list(self._listed(fh, start_id, token))
        for number in told:
            self._lookups.add(number)

    def _listed(self, number: int, start: int, token: pyfuse3.ReaddirToken) -> Iterable[int]:
        """Fill the reply from offset `start`; yields the inodes that the kernel will know."""
        if start == 0:
            self._note_read(number)
        if start < _DOTDOT:
            parent = self._attributes.get(number).parent or number
            for name, dotted, offset in ((b".", number, _DOT), (b"..", parent, _DOTDOT)):
                if offset > start and not pyfuse3.readdir_reply(
                    token, name, directory_entry(dotted), offset
                ):
                    return
        for name, inode, cookie in self._names.entries(number, max(0, start - _DOTDOT)):
            if not pyfuse3.readdir_reply(token, name, entry_of(inode), cookie + _DOTDOT):
                return
            yield inode.number

    @immediate
    def releasedir(self, fh: int) -> None:
        self._let_go(fh)

    @waiting
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._commit()

    # -- files ----------------------------------------------------------------------------

    def _opened(self, inode: Inode, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        self._handles.opened(inode.number)
        handle = inode.number
        due = self._count_reads and needs_atime(inode, time.time_ns())
        if due and not flags & os.O_NOATIME:
            handle |= READS_COUNT
        reads_only = flags & os.O_ACCMODE == os.O_RDONLY
        if not reads_only and ctx.uid != _ROOT_UID:
            handle |= WRITES_DROP
            if inode.mode & stat.S_ISGID and not _in_group(inode.gid, ctx):
                handle |= FOREIGN_GROUP
        # A read that is to move atime must reach us, and not be the page cache's own.
        keep = not (reads_only and handle & READS_COUNT)
        return pyfuse3.FileInfo(fh=handle, keep_cache=keep)

    @immediate
    def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_TRUNC:
            row = self._changed(inode, AttributeChange(size=0), ctx)
            self._unwritten.discard(inode)
        else:
            row = self._attributes.get(inode)
        return self._opened(row, flags, ctx)

    @immediate
    def create(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        typed = stat.S_IFREG | stat.S_IMODE(mode)
        inode = self._create(parent_inode, name, typed, ctx)
        return self._opened(inode, flags, ctx), self._told(inode)

    async def read(  # type: ignore[override]  # any buffer will do for a reply
        self, fh: int, off: int, size: int
    ) -> Buffer:
        try:
            payload = self._data.read_cached(fh & NUMBER, off, size)
        except Exception:
            payload = None  # met again by the plan, which is guarded
        if payload is None or (self._unwritten and not payload):
            return await self._read_planned(fh, off, size)
        if fh & READS_COUNT:
            self._note_read(fh & NUMBER)
        return payload

    @waiting
    async def _read_planned(self, fh: int, off: int, size: int) -> Buffer:
        number = fh & NUMBER
        if number in self._unwritten and off >= self._attributes.get(number).size:
            # Zeros would be a lie: a write (or its close or fsync) has failed there.
            raise Refused(errno.EIO)
        plan = self._data.plan_read(number, off, size)
        try:
            payload = plan.fetch_cached()
            if payload is None:
                payload = await trio.to_thread.run_sync(plan.fetch, limiter=self._readers)
        finally:
            plan.release()
        if fh & READS_COUNT:
            self._note_read(number)
        # More than was asked for would be a malformed reply.
        return payload if len(payload) <= size else payload[:size]

    def _note_read(self, number: int) -> None:
        """Move atime if it is due; a read does not fail for that."""
        if not self._count_reads:
            return
        try:
            self._attributes.accessed(number)
        except ShmrError as error:
            logger.debug("atime of inode %d stays: %s", number, error)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        try:
            return await self._write(fh, off, buf)
        except pyfuse3.FUSEError:
            # The kernel took these bytes from a program and keeps the size they make.
            self._unwritten.add(fh & NUMBER)
            raise

    @immediate
    def _write(self, fh: int, off: int, buf: bytes) -> int:
        number = fh & NUMBER
        self._data.write(number, off, buf)
        if fh & WRITES_DROP:
            inode = self._attributes.get(number)
            mode = without_privileges(inode.mode, member=not fh & FOREIGN_GROUP)
            if mode != inode.mode:
                self._attributes.set(number, AttributeChange(mode=stat.S_IMODE(mode)))
        return len(buf)

    @immediate
    def release(self, fh: int) -> None:
        self._let_go(fh & NUMBER)

    def _let_go(self, number: int) -> None:
        self._handles.closed(number)
        if not self._lookups[number]:
            self._handles.forgotten(number)

    @waiting
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._commit()

    # -- extended attributes --------------------------------------------------------------

    @immediate
    def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        return bytes(self._xattrs.get(inode, name))

    @immediate
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._xattrs.set(inode, name, value)
        if name == _ACCESS_ACL and ctx.uid != _ROOT_UID:
            self._drop_foreign_group(inode, ctx)

    def _drop_foreign_group(self, number: int, ctx: pyfuse3.RequestContext) -> None:
        """Who is not in a file's group may not keep its sgid over a new ACL, as with chmod."""
        inode = self._attributes.get(number)
        if inode.mode & stat.S_ISGID and not _in_group(inode.gid, ctx):
            mode = stat.S_IMODE(inode.mode) & ~stat.S_ISGID
            self._attributes.set(number, AttributeChange(mode=mode))

    @immediate
    def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        names = self._xattrs.list(inode)
        if ctx.uid != _ROOT_UID:
            return [name for name in names if not name.startswith(_TRUSTED)]
        return names

    @immediate
    def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._xattrs.remove(inode, name)


def _is_times_only(change: AttributeChange) -> bool:
    """Whether nothing but mtime and ctime changes: the kernel's own times, written back."""
    times = AttributeChange(mtime_ns=change.mtime_ns, ctime_ns=change.ctime_ns)
    return change.ctime_ns is not None and change == times


def _in_group(gid: int, ctx: pyfuse3.RequestContext) -> bool:
    return gid == ctx.gid or gid in supplementary_groups(ctx.pid)


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask, functools.partial(supplementary_groups, ctx.pid))
