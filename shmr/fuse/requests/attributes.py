"""Attributes: stat, chmod, chown, utimes, truncate; the targets of symlinks; statfs."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Callable, Mapping

import trio

from shmr.format.rows import Inode
from shmr.fuse import protocol
from shmr.fuse.groups import in_group
from shmr.fuse.known import Known
from shmr.fuse.loop import Handler, Reply
from shmr.fuse.privileges import without_privileges
from shmr.fuse.protocol import UID, Head, Opcode
from shmr.fuse.reads import ReadTimes
from shmr.fuse.seam import Attributes, Usage
from shmr.volume.attributes import AttributeChange

_ROOT_UID = 0
_NS = 1_000_000_000
_FLUSHED = protocol.SET_MTIME | protocol.SET_CTIME
_NAMED = (
    protocol.SET_MODE
    | protocol.SET_UID
    | protocol.SET_GID
    | protocol.SET_SIZE
    | protocol.SET_ATIME
    | protocol.SET_MTIME
    | protocol.SET_CTIME
)


class AttributeRequests:
    """Answers what is asked about attributes."""

    def __init__(
        self,
        attributes: Attributes,
        known: Known,
        times: ReadTimes,
        usage: Callable[[], Usage],
    ) -> None:
        self._attributes = attributes
        self._known = known
        self._times = times
        self._usage = usage

    @property
    def handlers(self) -> Mapping[int, Handler]:
        return {
            Opcode.GETATTR: self.getattr,
            Opcode.SETATTR: self.setattr,
            Opcode.READLINK: self.readlink,
            Opcode.STATFS: self.statfs,
        }

    def getattr(self, number: int, body: memoryview, head: Head) -> Reply:
        return self._known.attributes(self._attributes.get(number))

    def setattr(self, number: int, body: memoryview, head: Head) -> Reply:
        fields = protocol.SETATTR.unpack_from(body)
        valid = fields[0] & _NAMED
        if valid == _FLUSHED:
            return self._known.attributes(self._flushed(number, fields))
        change = AttributeChange(
            mode=stat.S_IMODE(fields[11]) if valid & protocol.SET_MODE else None,
            uid=fields[13] if valid & protocol.SET_UID else None,
            gid=fields[14] if valid & protocol.SET_GID else None,
            size=fields[3] if valid & protocol.SET_SIZE else None,
            atime_ns=fields[5] * _NS + fields[8] if valid & protocol.SET_ATIME else None,
            mtime_ns=fields[6] * _NS + fields[9] if valid & protocol.SET_MTIME else None,
            ctime_ns=fields[7] * _NS + fields[10] if valid & protocol.SET_CTIME else None,
        )
        if change.size is not None and self._attributes.makes_way(number, change.size):
            return self._changed_later(number, change, head)
        return self._replied(number, change, head)

    def _replied(self, number: int, change: AttributeChange, head: Head) -> Reply:
        inode = self._changed(number, change, head)
        if change.size is not None:
            # The kernel's size and ours are one again: what is read as zeros behind it, is zeros.
            self._known.unwritten.discard(number)
        return self._known.attributes(inode)

    async def _changed_later(self, number: int, change: AttributeChange, head: Head) -> Reply:
        """Growing over what a truncation has left takes long, if that was much: in parts."""
        assert change.size is not None
        while self._attributes.makes_way(number, change.size):
            await trio.lowlevel.checkpoint()
        return self._replied(number, change, head)

    def _flushed(self, number: int, fields: tuple[int, ...]) -> Inode:
        """The kernel writes its own times back."""
        inode = self._attributes.get(number)
        if inode.links == 0:
            # Of a file it has just unlinked: not worth a row.
            return inode
        change = AttributeChange(
            mtime_ns=fields[6] * _NS + fields[9],
            ctime_ns=fields[7] * _NS + fields[10],
        )
        return self._attributes.set(number, change)

    def _changed(self, number: int, change: AttributeChange, head: Head) -> Inode:
        """Apply `change`, with what it does to suid and sgid."""
        if change == AttributeChange():
            return self._attributes.get(number)
        # chown(2) that leaves both ids is sent as a change of nothing but ctime.
        only_ctime = change == AttributeChange(ctime_ns=change.ctime_ns)
        is_chown = change.uid is not None or change.gid is not None or only_ctime
        is_truncate = change.size is not None and head[UID] != _ROOT_UID
        if (is_chown or is_truncate) and change.mode is None:
            inode = self._attributes.get(number)
            if not stat.S_ISDIR(inode.mode):
                member = head[UID] == _ROOT_UID or in_group(inode.gid, head)
                mode = without_privileges(inode.mode, member=member)
                if mode != inode.mode:
                    change = dataclasses.replace(change, mode=stat.S_IMODE(mode))
        return self._attributes.set(number, change)

    def truncated(self, number: int, head: Head) -> Inode:
        """Empty a file that was opened with O_TRUNC."""
        return self._changed(number, AttributeChange(size=0), head)

    def readlink(self, number: int, body: memoryview, head: Head) -> Reply:
        target = self._attributes.get(number).target
        self._times.note(number)
        return target

    def statfs(self, node: int, body: memoryview, head: Head) -> Reply:
        usage = self._usage()
        return protocol.statistics(
            block_size=usage.block_size,
            blocks=usage.blocks,
            free=usage.blocks_free,
            available=usage.blocks_available,
            files=usage.files,
            files_free=usage.files_free,
        )
