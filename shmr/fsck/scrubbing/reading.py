"""One file read from front to back: in large pieces, past the cache, and on behind what cannot be.

What is read does not stay in memory: it is read once, and others have better use for the cache. A
piece that the drive refuses is asked for again in small ones, each twice at most; what is refused
still is a hole, and the reading goes on behind it. A drive that refuses too much is given up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from shmr.drive.seam import DriveFile
from shmr.errors import DriveError, ShmrError
from shmr.units import MIB

R = TypeVar("R")

READ_BYTES = 4 * MIB
"""So much is read in one call."""
TRIES = 2
REFUSED_MAX = 1024
"""Pieces of one drive that are refused in a run. A disk tries each for seconds: with more it is
dying, and each read brings that nearer."""


class Watch(Protocol):
    """Stands by while a drive is read."""

    def before(self, length: int) -> None:
        """So many bytes more will be read. May wait. Raises Stopped."""

    def during(self, call: Callable[[], R]) -> R:
        """Make a call to the drive, which may hang. Raises what it does, and GivenUp."""

    def refused(self, error: DriveError) -> None:
        """The drive answered with an error. Raises GivenUp."""


class GivenUp(ShmrError):
    """The drive is read no further; the message says why."""


class Hole(NamedTuple):
    """Bytes [start, end) of a file that could not be read, and why."""

    start: int
    end: int
    why: str


class Damage(NamedTuple):
    """Bytes [start, end) of a file that are not what they should be. `unit` if they are one."""

    start: int
    end: int
    why: str
    part: str
    unit: int | None = None


class Reader:
    """Reads one open file, whose offsets rise. `read_bytes` is what was read of it."""

    def __init__(self, file: DriveFile, watch: Watch) -> None:
        self._file = file
        self._watch = watch
        self._reached = 0
        self._let_go = 0
        self.read_bytes = 0
        # What memory holds of it would be told from there, whatever the disk has.
        watch.during(file.evict)

    def read(self, offset: int, length: int, piece: int) -> tuple[bytes, list[Hole]]:
        """`length` bytes from `offset`, with zeros for the holes. `piece`: how small they get.

        Bytes before `offset` will not be asked for again. Raises Stopped, GivenUp.
        """
        fresh = max(0, offset + length - max(offset, self._reached))
        self._watch.before(fresh)
        self._watch.during(partial(self._prepare, offset, length))
        holes: list[Hole] = []
        try:
            content = self._watch.during(partial(self._file.read, offset, length))
        except DriveError as error:
            self._watch.refused(error)
            content = self._in_pieces(offset, length, piece, holes)
        self.read_bytes += max(0, offset + len(content) - max(offset, self._reached))
        self._reached = max(self._reached, offset + len(content))
        if len(content) < length:
            holes.append(Hole(offset + len(content), offset + length, "the file ends before"))
            content = content.ljust(length, b"\0")
        return content, holes

    def close(self) -> None:
        """Nothing of it stays in memory."""
        self._watch.during(self._file.evict)
        self._file.close()

    def _prepare(self, offset: int, length: int) -> None:
        """What was read goes from memory; what comes next is on its way while this is verified."""
        if offset > self._let_go:
            self._file.evict(self._let_go, offset - self._let_go)
            self._let_go = offset
        self._file.prefetch(offset + length, max(length, READ_BYTES))

    def _in_pieces(self, offset: int, length: int, piece: int, holes: list[Hole]) -> bytes:
        found: list[bytes] = []
        for at in range(offset, offset + length, piece):
            size = min(piece, offset + length - at)
            content = self._piece(at, size, holes)
            found.append(content)
            if len(content) < size:
                break
        return b"".join(found)

    def _piece(self, at: int, size: int, holes: list[Hole]) -> bytes:
        failure: DriveError | None = None
        for _ in range(TRIES):
            self._watch.before(0)
            try:
                return self._watch.during(partial(self._file.read, at, size))
            except DriveError as error:
                failure = error
        assert failure is not None
        self._watch.refused(failure)
        holes.append(Hole(at, at + size, str(failure)))
        return bytes(size)


def hole_in(holes: list[Hole], start: int, end: int) -> Hole | None:
    """The first hole that takes something of [start, end)."""
    return next((hole for hole in holes if hole.start < end and start < hole.end), None)
