"""Directories as lists: opening, reading, closing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shmr.fuse import protocol
from shmr.fuse.known import VALID_S, Known
from shmr.fuse.loop import Handler, Reply
from shmr.fuse.promise import Promise
from shmr.fuse.protocol import Head, Opcode
from shmr.fuse.reads import ReadTimes
from shmr.fuse.seam import Attributes, Commit, Names
from shmr.units import KIB

LISTED_MAX_BYTES = 64 * KIB
"""What one reply lists at most, some 400 entries: programs ask for a MiB at once, and those were
6,000, for which all others waited 200 ms."""

_DOT, _DOTDOT = 1, 2
_DIRECTORY = 0o040000


class DirectoryRequests:
    """Answers what is asked about the entries of directories."""

    def __init__(
        self,
        names: Names,
        attributes: Attributes,
        known: Known,
        times: ReadTimes,
        commit: Commit,
    ) -> None:
        self._names = names
        self._attributes = attributes
        self._known = known
        self._times = times
        self._commit = commit

    @property
    def handlers(self) -> Mapping[int, Handler]:
        return {
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.FSYNCDIR: self.fsyncdir,
        }

    def opendir(self, number: int, body: memoryview, head: Head) -> Reply:
        self._attributes.get(number)
        self._known.opened(number)
        return protocol.opened(number, 0)

    def readdir(self, number: int, body: memoryview, head: Head) -> Reply:
        _, start, size = protocol.READ.unpack_from(body)
        parts, left = self._dots(number, start, size, protocol.dirent)
        for name, inode, cookie in self._names.entries(number, max(0, start - _DOTDOT)):
            part = protocol.dirent(name, inode.number, inode.mode, cookie + _DOTDOT)
            left -= len(part)
            if left < 0:
                break
            parts.append(part)
        return b"".join(parts)

    def readdirplus(self, number: int, body: memoryview, head: Head) -> Reply:
        _, start, size = protocol.READ.unpack_from(body)
        parts, left = self._dots(number, start, size, protocol.dirent_unknown)
        told = []
        for name, inode, cookie in self._names.entries(number, max(0, start - _DOTDOT)):
            valid_s = self._known.valid_s(inode)
            part = protocol.dirent_plus(name, inode, cookie + _DOTDOT, VALID_S, valid_s)
            left -= len(part)
            if left < 0:
                break
            parts.append(part)
            told.append(inode.number)
        # Counted only when all went well: an error takes the whole reply back.
        for known in told:
            self._known.listed(known)
        return b"".join(parts)

    def _dots(
        self, number: int, start: int, size: int, encode: Callable[[bytes, int, int, int], bytes]
    ) -> tuple[list[bytes], int]:
        """What a listing from offset `start` begins with, and the room that is left."""
        if start == 0:
            self._times.note(number)
        parts = []
        if start < _DOTDOT:
            parent = self._attributes.get(number).parent or number
            if start < _DOT:
                parts.append(encode(b".", number, _DIRECTORY, _DOT))
            parts.append(encode(b"..", parent, _DIRECTORY, _DOTDOT))
        return parts, min(size, LISTED_MAX_BYTES) - sum(map(len, parts))

    def releasedir(self, number: int, body: memoryview, head: Head) -> Reply:
        self._known.closed(number)
        return 0

    def fsyncdir(self, number: int, body: memoryview, head: Head) -> Reply:
        durable = Promise()
        self._commit(durable.settle)
        return durable
