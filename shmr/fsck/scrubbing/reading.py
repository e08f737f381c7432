"""One file read from front to back: past the cache, ahead of who verifies, and behind what is bad.

What is read does not stay in memory: it is read once, and others have better use for the cache. A
thread reads on while what it read is verified, so that neither the disk nor a processor waits.

A piece that the drive refuses is asked for again in small ones, each twice at most; what is refused
still is a hole, and the reading goes on behind it. A drive that refuses too much is given up.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from queue import Queue
from typing import NamedTuple, Protocol, TypeVar

from shmr.drive.seam import DriveFile
from shmr.errors import DriveError, ShmrError
from shmr.units import MIB

R = TypeVar("R")

READ_BYTES = 1 * MIB
"""So much is read in one call: with more, what is hashed is no longer in the processor's cache."""
EVICT_BYTES = 8 * MIB
"""So much of what was read stays in memory at most, about."""
AHEAD = 6
"""So many reads are ahead of who verifies."""
TRIES = 2
REFUSED_MAX = 1024
"""Pieces of one drive that are refused in a run. A disk tries each for seconds: with more it is
dying, and each read brings that nearer."""


class Watch(Protocol):
    """Stands by while a drive is read; for any thread."""

    def before(self, length: int) -> None:
        """So many bytes more will be read. May wait. Raises Stopped, GivenUp."""

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


class _Chunk(NamedTuple):
    """`length` bytes from `offset`, as far as there are so many; or why they were refused."""

    offset: int
    length: int
    content: bytes
    refused: DriveError | None = None


class Reader:
    """Reads one open file of `size_bytes`. `read_bytes` is what was read of it.

    The first piece has `first_bytes`. `ahead`: in a thread of its own.
    """

    def __init__(
        self,
        file: DriveFile,
        size_bytes: int,
        watch: Watch,
        *,
        first_bytes: int = READ_BYTES,
        ahead: bool = False,
    ) -> None:
        self._file = file
        self._size = size_bytes
        self._watch = watch
        self._first = first_bytes
        self.read_bytes = 0
        self._kept: deque[tuple[int, bytes]] = deque()
        """Pieces that were read, in order and without gaps, from the last offset asked for on."""
        self._holes: list[Hole] = []
        # What memory holds of it would be told from there, whatever the disk has.
        watch.during(file.evict)
        watch.during(file.sequential)
        self._ahead = _Ahead(self._chunks()) if ahead and size_bytes > READ_BYTES else None
        self._source = iter(self._ahead) if self._ahead is not None else self._chunks()

    def read(self, offset: int, length: int, piece: int) -> tuple[bytes, list[Hole]]:
        """`length` bytes from `offset`, with zeros for the holes. `piece`: how small they get.

        Offsets rise, or what was read is read again. Raises Stopped, GivenUp.
        """
        kept = self._kept
        while kept and kept[0][0] + len(kept[0][1]) <= offset:
            kept.popleft()
        if kept and offset < kept[0][0]:
            return self._again(offset, length, piece)
        while not kept or kept[-1][0] + len(kept[-1][1]) < offset + length:
            chunk = next(self._source, None)
            if chunk is None:
                break
            content = chunk.content
            if chunk.refused is not None:
                self._watch.refused(chunk.refused)
                content = self._in_pieces(chunk.offset, chunk.length, piece)
            self.read_bytes += len(content)
            if content and chunk.offset + len(content) > offset:
                kept.append((chunk.offset, content))
        content = self._joined(offset, length)
        if len(content) == length and not self._holes:
            return content, []
        holes = [h for h in self._holes if h.start < offset + length and offset < h.end]
        if len(content) < length:
            holes.append(Hole(offset + len(content), offset + length, "the file ends before"))
            content = content.ljust(length, b"\0")
        return content, holes

    def close(self) -> None:
        """Nothing of it stays in memory."""
        if self._ahead is not None:
            self._ahead.close()
        self._file.close()

    def _joined(self, offset: int, length: int) -> bytes:
        """What is kept of these bytes."""
        kept, end = self._kept, offset + length
        if kept and kept[0][0] == offset and len(kept[0][1]) == length:
            return kept[0][1]
        parts = []
        for at, content in kept:
            if at >= end:
                break
            parts.append(memoryview(content)[max(0, offset - at) : end - at])
        return b"".join(parts)

    def _again(self, offset: int, length: int, piece: int) -> tuple[bytes, list[Hole]]:
        """What was read before and is not kept."""
        before, self._holes = self._holes, []
        content = self._in_pieces(offset, length, max(piece, length))
        found, self._holes = self._holes, before
        return content.ljust(length, b"\0"), found

    # -- from the drive ---------------------------------------------------------------------

    def _chunks(self) -> Iterator[_Chunk]:
        """The file, piece by piece. Raises Stopped, GivenUp."""
        watch, file = self._watch, self._file
        at, length, let_go = 0, min(self._first, self._size), 0
        while at < self._size:
            watch.before(length)
            try:
                content = watch.during(partial(file.read, at, length))
                yield _Chunk(at, length, content)
                if len(content) < length:
                    break
            except DriveError as error:
                yield _Chunk(at, length, b"", error)
            at += length
            if at - let_go >= EVICT_BYTES:
                watch.during(partial(file.evict, let_go, at - let_go))
                let_go = at
            length = min(READ_BYTES, self._size - at)
        watch.during(file.evict)

    def _in_pieces(self, offset: int, length: int, piece: int) -> bytes:
        found: list[bytes] = []
        for at in range(offset, offset + length, piece):
            size = min(piece, offset + length - at)
            content = self._piece(at, size)
            found.append(content)
            if len(content) < size:
                break
        return b"".join(found)

    def _piece(self, at: int, size: int) -> bytes:
        failure: DriveError | None = None
        for _ in range(TRIES):
            self._watch.before(0)
            try:
                return self._watch.during(partial(self._file.read, at, size))
            except DriveError as error:
                failure = error
        assert failure is not None
        self._watch.refused(failure)
        self._holes.append(Hole(at, at + size, str(failure)))
        return bytes(size)


class _Ahead:
    """Chunks taken in a thread, a few ahead of who wants them."""

    def __init__(self, chunks: Iterator[_Chunk]) -> None:
        self._chunks = chunks
        self._queue: Queue[_Chunk | BaseException | None] = Queue(AHEAD)
        self._closed = False
        self._ended = False
        threading.Thread(target=self._run, name="scrub ahead", daemon=True).start()

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            for chunk in self._chunks:
                if self._closed:
                    break
                self._queue.put(chunk)
        except BaseException as error:
            last = error
        self._queue.put(last)

    def __iter__(self) -> Iterator[_Chunk]:
        while not self._ended:
            found = self._queue.get()
            if isinstance(found, _Chunk):
                yield found
                continue
            self._ended = True
            if found is not None:
                raise found

    def close(self) -> None:
        """Ends the thread, and waits for it: the file is closed afterwards."""
        self._closed = True
        while not self._ended:
            self._ended = not isinstance(self._queue.get(), _Chunk)


def hole_in(holes: list[Hole], start: int, end: int) -> Hole | None:
    """The first hole that takes something of [start, end)."""
    return next((hole for hole in holes if hole.start < end and start < hole.end), None)
