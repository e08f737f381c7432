"""Which segments there are and on which drives; claims new ones, opens, pins, discards.

File names carry stream and number so that people find their way; what a segment is, its SEGMENT
frame says. Segment numbers are never reused.
"""

from __future__ import annotations

import errno
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shmr.drive.seam import Buffer, Drive, DriveFile
from shmr.errors import DriveError, NoSpace, SetupError
from shmr.format.records import Opening, Stream
from shmr.log.segment import SegmentWriter

_NAME = re.compile(r"(journal|data|snapshot)-(\d{12})")
_OPEN_MAX = 256


def is_segment(name: str) -> bool:
    """Is it the name of a segment's file?"""
    return _NAME.fullmatch(name) is not None


def segment_name(stream: int, number: int) -> str:
    return f"{Stream(stream).name.lower()}-{number:012}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file, the drives (indices) that hold a copy of it, and the bytes it takes there.

    The size is each file's own: what new segments get changes with the size of the workspace.
    """

    number: int
    stream: int
    drives: tuple[int, ...]
    size_bytes: int = 0

    @property
    def name(self) -> str:
        return segment_name(self.stream, self.number)


@dataclass(frozen=True, slots=True)
class Claim:
    """A segment claimed ahead: allocated on its drives, not yet written."""

    segment: Segment
    size_bytes: int
    files: tuple[DriveFile, ...]


class UnopenedFile:
    """A copy that could not be opened: every verb that wants its bytes raises the error of that."""

    end = 0

    def __init__(self, name: str, error: DriveError) -> None:
        self.name = name
        self._error = error

    @property
    def error(self) -> DriveError:
        """One of its own for each that is raised: it gathers where it came through."""
        return DriveError(self._error.drive, self._error.operation, self._error.cause)

    def append(self, buffers: Sequence[Buffer]) -> None:
        raise self.error

    def read(self, offset: int, length: int) -> bytes:
        raise self.error

    def read_cached(self, offset: int, length: int) -> None:
        return None

    def prefetch(self, offset: int, length: int) -> None:
        """Nothing is there to fetch."""

    def sequential(self) -> None:
        """Nothing can be read."""

    def write_back(self, offset: int, length: int) -> None:
        """Nothing was written."""

    def evict(self, offset: int = 0, length: int = 0) -> None:
        """Nothing is in memory."""

    def sync(self) -> None:
        raise self.error

    def seal(self) -> None:
        raise self.error

    def close(self) -> None:
        """Nothing is open."""


class SegmentStore:
    """All workspace segments of a filesystem.

    Owned by the volume's thread, but for `create`, `open_copies` and reading from what that
    returned, which worker threads may do.
    """

    def __init__(
        self,
        filesystem: bytes,
        drives: Sequence[Drive],
        copies: int,
        segment_bytes: int,
        clock: Callable[[], int],
    ) -> None:
        self.filesystem = filesystem
        self.short_id = int.from_bytes(filesystem[:8], "little")
        self.drives = tuple(drives)
        self.copies = copies
        self.segment_bytes = segment_bytes
        self.segments: dict[int, Segment] = {}
        self.next_number = 1
        self.damaged: dict[int, str] = {}
        """Segments with a bad copy of something, and what was wrong: the cleaner moves them."""
        self._clock = clock
        self._pins: dict[int, int] = {}
        self._open: OrderedDict[int, tuple[DriveFile, ...]] = OrderedDict()
        self._doomed: set[int] = set()

    def scan(self) -> None:
        """Find the segments on the drives. Raises DriveError, SetupError."""
        found: dict[tuple[int, int], list[int]] = {}
        for index, drive in enumerate(self.drives):
            for name in drive.names():
                match = _NAME.fullmatch(name)
                if match:
                    key = int(match[2]), Stream[match[1].upper()]
                    found.setdefault(key, []).append(index)
        for (number, stream), where in found.items():
            if number in self.segments:
                raise SetupError(
                    f"two segments have the number {number}: {self.segments[number].name} and "
                    f"{segment_name(stream, number)}; these drives were written by two daemons at "
                    "once, keep them as they are and ask for help"
                )
            size = self.drives[where[0]].size(segment_name(stream, number))
            self.segments[number] = Segment(number, stream, tuple(where), size)
            self.next_number = max(self.next_number, number + 1)

    def of_stream(self, stream: int) -> list[Segment]:
        """Segments of one stream, oldest first."""
        return sorted(
            (s for s in self.segments.values() if s.stream == stream), key=lambda s: s.number
        )

    def lacks_copies(self, segment: Segment) -> bool:
        """Has it fewer copies than a new one gets? A drive was lost, or more are kept now."""
        return len(segment.drives) < self.copies

    # -- claiming ---------------------------------------------------------------------------

    def number(self) -> int:
        """A fresh segment number."""
        number = self.next_number
        self.next_number += 1
        return number

    def place(self, size_bytes: int) -> tuple[int, ...]:
        """The drives for a new segment: those with most room, each copy on another.

        Raises NoSpace.
        """
        free = sorted(
            ((drive.capacity().free_bytes, -index) for index, drive in enumerate(self.drives)),
            reverse=True,
        )
        chosen = [-index for room, index in free[: self.copies] if room >= size_bytes]
        if len(chosen) < self.copies:
            raise NoSpace()
        return tuple(chosen)

    def free_bytes(self) -> int:
        """Bytes that may still be claimed for segments, each byte once however many copies."""
        return usable_bytes([free for _, free in self._shares()], self.copies)

    def total_bytes(self) -> int:
        """Bytes of all segments that the drives could hold."""
        return usable_bytes([total for total, _ in self._shares()], self.copies)

    def _shares(self) -> list[tuple[int, int]]:
        """Total and free bytes of each drive; drives on one disk do not count it twice."""
        found = [(drive.device(), drive.capacity()) for drive in self.drives]
        shares = []
        for device, capacity in found:
            beside = [other for which, other in found if which == device]
            total = _share(
                capacity.total_bytes, [c.total_bytes for c in beside], capacity.disk_total_bytes
            )
            free = _share(
                capacity.free_bytes, [c.free_bytes for c in beside], capacity.disk_free_bytes
            )
            shares.append((total, free))
        return shares

    def create(self, stream: int, number: int, size_bytes: int, where: tuple[int, ...]) -> Claim:
        """Claim the files of a segment. Blocking; any thread. Raises NoSpace, DriveError."""
        segment = Segment(number, stream, where, size_bytes)
        files: list[DriveFile] = []
        try:
            for index in where:
                files.append(self.drives[index].claim(segment.name, size_bytes))
        except DriveError as error:
            for index, file in zip(where, files, strict=False):
                file.close()
                self.drives[index].discard(segment.name)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace() from error
            raise
        return Claim(segment, size_bytes, tuple(files))

    def begin(
        self,
        claim: Claim,
        *,
        sequence: int = 0,
        previous: tuple[int, int, int] = (0, 0, 0),
    ) -> SegmentWriter:
        """Turn a claim into a segment being written. Raises DriveError."""
        segment = claim.segment
        opening = Opening(
            self.filesystem, segment.stream, claim.size_bytes, self._clock(), *previous
        )
        self.segments[segment.number] = segment
        return SegmentWriter(
            self.short_id, segment.number, claim.size_bytes, claim.files, opening, sequence
        )

    # -- reading ----------------------------------------------------------------------------

    def copies_of(self, number: int) -> tuple[DriveFile, ...]:
        """Open files of a segment's copies, kept open for later; empty if there is none.

        A copy that cannot be opened is there, and says at each read why it cannot be: whoever
        finds nothing on the others must not take that for all there is. Raises DriveError if none
        can be opened.
        """
        files = self._open.get(number)
        if files is not None:
            self._open.move_to_end(number)
            return files
        segment = self.segments.get(number)
        if segment is None:
            return ()
        files = tuple(self._copy_on(index, segment.name) for index in segment.drives)
        shut = [file for file in files if isinstance(file, UnopenedFile)]
        if files and len(shut) == len(files):
            raise shut[-1].error
        self._open[number] = files
        if len(self._open) > _OPEN_MAX:
            for other in self._open:
                if other not in self._pins and other != number:
                    for file in self._open.pop(other):
                        file.close()
                    break
        return files

    def _copy_on(self, index: int, name: str) -> DriveFile:
        try:
            return self.drives[index].open(name)
        except DriveError as error:
            return UnopenedFile(name, error)

    def open_copies(self, segment: Segment) -> tuple[DriveFile, ...]:
        """The copies that can be opened. Blocking; any thread. Raises DriveError if none can."""
        files: list[DriveFile] = []
        failure: DriveError | None = None
        for index in segment.drives:
            try:
                files.append(self.drives[index].open(segment.name))
            except DriveError as error:
                failure = error
        if not files and failure is not None:
            raise failure
        return tuple(files)

    def reopen(self, number: int) -> None:
        """Forget the open files of a segment whose copies were replaced. Nobody may read them."""
        for file in self._open.pop(number, ()):
            file.close()

    def pin(self, number: int) -> None:
        """Keep a segment from being discarded while somebody reads it."""
        self._pins[number] = self._pins.get(number, 0) + 1

    def unpin(self, number: int) -> None:
        count = self._pins[number] - 1
        if count:
            self._pins[number] = count
            return
        del self._pins[number]
        if number in self._doomed:
            self._doomed.discard(number)
            self.discard(number)

    def is_pinned(self, number: int) -> bool:
        """Does somebody read the segment now? Archived ones are pinned here too."""
        return number in self._pins

    # -- discarding -------------------------------------------------------------------------

    def discard(self, number: int) -> None:
        """Remove a segment that nothing needs; put off while it is pinned. Raises DriveError."""
        if number in self._pins:
            self._doomed.add(number)
            return
        segment = self.segments.pop(number, None)
        for file in self._open.pop(number, ()):
            file.close()
        self.damaged.pop(number, None)
        if segment is not None:
            for index in segment.drives:
                self.drives[index].discard(segment.name)

    def empty(self, claim: Claim) -> None:
        """Give back the space of a claim that is not needed. Raises DriveError.

        Its file stays up to the next checkpoint, as one in which nothing lives: the COMMIT of that
        says that the number was taken, which otherwise could bear something else on another drive
        when the file comes back after a power cut.
        """
        self.segments[claim.segment.number] = replace(claim.segment, size_bytes=0)
        for file in claim.files:
            file.seal()
            file.close()

    def abandon(self, claim: Claim) -> None:
        """Give back a claim that is not needed, and of which a durable COMMIT has the number."""
        for index, file in zip(claim.segment.drives, claim.files, strict=True):
            file.close()
            self.drives[index].discard(claim.segment.name)

    def close(self) -> None:
        for files in self._open.values():
            for file in files:
                file.close()
        self._open.clear()


def _share(own: int, beside: Sequence[int], disk: int) -> int:
    """What one of several drives on a disk of `disk` bytes can count on."""
    wanted = sum(beside)
    return own if not disk or wanted <= disk else own * disk // wanted


def usable_bytes(free: Sequence[int], copies: int) -> int:
    """Bytes that can be stored `copies` times on different drives with `free` room each.

    A drive larger than the others together can only be used as far as they have room for the
    other copies.
    """
    free = sorted(free, reverse=True)
    if len(free) < copies:
        return 0
    if copies == 1:
        return sum(free)
    best = sum(free) // copies
    for largest in range(1, copies):
        best = min(best, sum(free[largest:]) // (copies - largest))
    return best
