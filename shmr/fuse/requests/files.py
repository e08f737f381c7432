"""Open files: opening, reading, writing, making room in them, making them durable."""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Awaitable, Callable, Mapping

import trio

from shmr.format.rows import Inode
from shmr.fuse import protocol
from shmr.fuse.groups import in_group
from shmr.fuse.known import Known
from shmr.fuse.loop import Handler, Reply
from shmr.fuse.privileges import without_privileges
from shmr.fuse.promise import Promise
from shmr.fuse.protocol import UID, Head, Opcode
from shmr.fuse.reads import ReadTimes
from shmr.fuse.requests.attributes import AttributeRequests
from shmr.fuse.requests.names import caller_of, name_of
from shmr.fuse.seam import Attributes, Commit, Data, Holes, Names, ReadPlan
from shmr.volume.attributes import AttributeChange

READS_COUNT = 1 << 62
"""A bit of a file handle: reads move atime, it was due when the file was opened."""
READERS = 128
"""How many reads may wait for drives at once."""

Dig = Callable[[int, int, int], None]

_ROOT_UID = 0
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # fallocate(2)


class FileRequests:
    """Answers what is asked about open files and their bytes."""

    def __init__(
        self,
        names: Names,
        data: Data,
        holes: Holes,
        attributes: Attributes,
        changes: AttributeRequests,
        known: Known,
        times: ReadTimes,
        commit: Commit,
    ) -> None:
        self._names = names
        self._data = data
        self._holes = holes
        self._attributes = attributes
        self._changes = changes
        self._known = known
        self._times = times
        self._commit = commit
        self._readers = trio.CapacityLimiter(READERS)

    @property
    def handlers(self) -> Mapping[int, Handler]:
        return {
            Opcode.OPEN: self.open,
            Opcode.CREATE: self.create,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.FALLOCATE: self.fallocate,
            Opcode.RELEASE: self.release,
            Opcode.FSYNC: self.fsync,
            Opcode.SYNCFS: self.fsync,
        }

    # -- opening ----------------------------------------------------------------------------

    def open(self, number: int, body: memoryview, head: Head) -> Reply:
        flags, _ = protocol.OPEN.unpack_from(body)
        if flags & os.O_TRUNC:
            inode = self._changes.truncated(number, head)
            self._known.unwritten.discard(number)
        else:
            inode = self._attributes.get(number)
        return self._opened(inode, flags)

    def create(self, parent: int, body: memoryview, head: Head) -> Reply:
        flags, mode, umask, _ = protocol.CREATE.unpack_from(body)
        name = name_of(body, protocol.CREATE.size)
        typed = stat.S_IFREG | stat.S_IMODE(mode)
        inode = self._names.create(parent, name, typed, caller_of(head, umask))
        opened = self._opened(inode, flags)
        return self._known.told(inode) + opened

    def _opened(self, inode: Inode, flags: int) -> bytes:
        self._known.opened(inode.number)
        handle = inode.number
        if not flags & os.O_NOATIME and self._times.due(inode):
            handle |= READS_COUNT
        # A read that is to move atime must reach us, and not be the page cache's own.
        fresh = flags & os.O_ACCMODE == os.O_RDONLY and handle & READS_COUNT
        return protocol.opened(handle, 0 if fresh else protocol.OPEN_KEEP_CACHE)

    def release(self, number: int, body: memoryview, head: Head) -> Reply:
        self._known.closed(number)
        return 0

    # -- reading ----------------------------------------------------------------------------

    def read(self, number: int, body: memoryview, head: Head) -> Reply:
        handle, offset, size = protocol.READ.unpack_from(body)
        try:
            payload = self._data.read_cached(number, offset, size)
        except Exception:
            payload = None  # met again by the plan
        if payload is None or (self._known.unwritten and not payload):
            return self._planned(number, offset, size, bool(handle & READS_COUNT))
        if handle & READS_COUNT:
            self._times.note(number)
        return payload

    def _planned(self, number: int, offset: int, size: int, counts: bool) -> Reply:
        """A read that the quick way does not serve."""
        if number in self._known.unwritten and offset >= self._attributes.get(number).size:
            # Zeros would be a lie: a write (or its close or fsync) has failed there.
            return errno.EIO
        plan = self._data.plan_read(number, offset, size)
        waits = False
        try:
            payload = plan.fetch_cached()
            waits = payload is None
        finally:
            if not waits:
                plan.release()
        if payload is None:
            return self._fetched(plan, number, size, counts)
        if counts:
            self._times.note(number)
        return payload[:size]  # more than was asked for would be a malformed reply

    async def _fetched(self, plan: ReadPlan, number: int, size: int, counts: bool) -> Reply:
        """A read that waits for a drive, in a thread."""
        try:
            payload = await trio.to_thread.run_sync(plan.fetch, limiter=self._readers)
        finally:
            plan.release()
        if counts:
            self._times.note(number)
        return payload[:size]

    # -- writing ----------------------------------------------------------------------------

    def write(self, number: int, body: memoryview, head: Head) -> Reply:
        _, offset, size, flags = protocol.WRITE.unpack_from(body)
        payload = body[protocol.WRITE_BYTES : protocol.WRITE_BYTES + size]
        kills = bool(flags & protocol.WRITE_KILL_SUIDGID)
        if self._attributes.makes_way(number, offset + size):
            write = functools.partial(self._write, number, offset, bytes(payload), head, kills)
            return self._once_clear(number, offset + size, write)
        return self._write(number, offset, payload, head, kills)

    def _write(
        self, number: int, offset: int, payload: bytes | memoryview, head: Head, kills: bool
    ) -> Reply:
        self._data.write(number, offset, payload)
        if kills:
            self._kill_privileges(number, head)
        return protocol.written(len(payload))

    async def _once_clear(self, number: int, end: int, call: Callable[[], Reply]) -> Reply:
        """Growing over what a truncation has left takes long, if that was much: in parts."""
        while self._attributes.makes_way(number, end):
            await trio.lowlevel.checkpoint()
        reply = call()
        return await reply if isinstance(reply, Awaitable) else reply

    def _kill_privileges(self, number: int, head: Head) -> None:
        inode = self._attributes.get(number)
        mode = without_privileges(inode.mode, member=in_group(inode.gid, head))
        if mode != inode.mode:
            self._attributes.set(number, AttributeChange(mode=stat.S_IMODE(mode)))

    def fallocate(self, number: int, body: memoryview, head: Head) -> Reply:
        _, offset, length, mode = protocol.FALLOCATE.unpack_from(body)
        keep_size = bool(mode & _KEEP_SIZE)
        kind = mode & ~_KEEP_SIZE
        if kind not in (0, _PUNCH_HOLE, _ZERO_RANGE) or (kind == _PUNCH_HOLE and not keep_size):
            return errno.EOPNOTSUPP
        if head[UID] != _ROOT_UID:
            # The kernel does not say so here, as it does with a write.
            self._kill_privileges(number, head)
        end = offset + length
        if kind == 0:
            call = functools.partial(self._allocate, number, offset, length, keep_size)
        else:
            zero = functools.partial(self._holes.zero, keep_size=keep_size)
            dig = self._holes.punch if kind == _PUNCH_HOLE else zero
            call = functools.partial(self._dug, dig, number, offset, length)
        if not keep_size and self._attributes.makes_way(number, end):
            return self._once_clear(number, end, call)
        return call()

    def _allocate(self, number: int, offset: int, length: int, keep_size: bool) -> Reply:
        self._holes.allocate(number, offset, length, keep_size=keep_size)
        return 0

    def _dug(self, dig: Dig, number: int, offset: int, length: int) -> Reply:
        """Dig at once where little is in the way, else in parts between which others go on."""
        part = self._holes.reach(number, offset, length)
        if part < length:
            return self._dug_in_parts(dig, number, offset, length)
        dig(number, offset, length)
        return 0

    async def _dug_in_parts(self, dig: Dig, number: int, offset: int, length: int) -> Reply:
        end = offset + length
        while offset < end:
            part = self._holes.reach(number, offset, end - offset)
            dig(number, offset, part)
            offset += part
            await trio.lowlevel.checkpoint()
        return 0

    def fsync(self, node: int, body: memoryview, head: Head) -> Reply:
        durable = Promise()
        self._commit(durable.settle)
        return durable
