"""Data segments of the workspace: does each frame that an extent names stand where it should?

Headers only, on every copy, in the order in which they lie there. The chain of headers is walked
once for each copy, and compared on the way with what the extents want; what comes beyond the
chain's end, or in a later chunk of extents, is looked at by itself.

Flat in memory: a chunk of extents, and a few numbers for each segment.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby, islice

from shmr.catalog.reading import Reading
from shmr.errors import DriveError, IntegrityError
from shmr.format.frame import FrameHeader, frame_size
from shmr.format.frame import Kind as FrameKind
from shmr.format.records import Stream
from shmr.fsck.checking.window import Window
from shmr.fsck.findings import KEPT_PER_KIND, Finding, Kind, Where
from shmr.fsck.opening import View
from shmr.log import walk
from shmr.log.store import Segment, SegmentStore, segment_name

CHUNK = 1 << 18
"""Extents that are sorted at a time: some 20 MB."""
_PULSE = 1 << 15
MOVE = "move what lives in segment {} to new ones"
_WANT = struct.Struct(">QQIQQ")
"""Segment, and of the frame: offset, length of the payload, inode, position in the file."""
Frame = tuple[int, ...]
"""Without the segment."""


class Bad(Enum):
    """Why a copy does not have a frame."""

    ABSENT = "it is not there"
    UNREADABLE = "its drive cannot read it"
    SHORT = "it ends before"
    OTHER = "another frame stands there"
    DAMAGED = "the frame's header does not verify"


@dataclass(slots=True)
class _Copy:
    """What is known of a copy. `reached`: where its chain of headers ends; None: not walked yet.

    `why` is what is wrong with all of it; `explained`: why the chain ends there is told already.
    """

    index: int
    size: int = 0
    reached: int | None = None
    why: tuple[Kind, str] | None = None
    explained: bool = False


@dataclass(slots=True)
class _Known:
    """A segment. `needed`: where the last frame ends that an extent names."""

    segment: Segment | None
    copies: list[_Copy] = field(default_factory=list)
    needed: int = 0
    lost: bool = False
    gone: bool = False


class DataSegments:
    """One check of all data segments. `lost` are findings that want the name of their file."""

    def __init__(self, view: View, pulse: Callable[[], None] = lambda: None) -> None:
        self._view = view
        self._pulse = pulse
        self._reading = view.reading
        self._store = view.store
        self._known: dict[int, _Known] = {}
        self.lost: list[Finding] = []

    def findings(self) -> Iterator[Finding]:
        """What is wrong, but for `lost`, which are at most as many as a report keeps.

        Raises DriveError where a drive cannot be listed.
        """
        wants = self._wants()
        while True:
            chunk = sorted(set(islice(wants, CHUNK)))
            if not chunk:
                break
            for number, group in groupby(chunk, lambda want: want[:8]):
                self._pulse()
                segment = int.from_bytes(number, "big")
                frames = [_WANT.unpack(want)[1:] for want in group]
                yield from self._frames(segment, frames)
        for number in sorted(self._known):
            yield from self._whole(number, self._known.pop(number))

    def _wants(self) -> Iterator[bytes]:
        """Of each extent in the workspace: the frame that it names, packed so that it sorts."""
        archived = {number for number, _ in self._reading.archived_segments()}
        pack = _WANT.pack
        for count, (inode, extent) in enumerate(self._reading.all_extents()):
            if not count % _PULSE:
                self._pulse()
            at = extent.address
            if at is None or at.segment in archived:
                continue
            position = extent.offset - at.skip
            # One below 0 is that of no frame, and no frame will be found to have it.
            yield pack(at.segment, at.frame, at.payload, inode, position % 2**64)

    # -- one segment ------------------------------------------------------------------------

    def _frames(self, number: int, wants: Sequence[Frame]) -> Iterator[Finding]:
        """The frames that some extents name, rising, on every copy."""
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = self._segment(number)
        if known.gone:
            return
        known.needed = max(known.needed, max(w[0] + frame_size(w[1]) for w in wants))
        if known.segment is None:
            if self._is_gone(number, known):
                return
            known.lost = True
            yield from self._lose(number, wants)
            return
        bad = {copy.index: self._on_copy(known.segment, copy, wants) for copy in known.copies}
        if any(bad.values()) and not self._is_gone(number, known):
            yield from self._told(number, known, wants, bad)

    def _told(
        self,
        number: int,
        known: _Known,
        wants: Sequence[Frame],
        bad: dict[int, dict[int, Bad]],
    ) -> Iterator[Finding]:
        everywhere = set.intersection(*(set(some) for some in bad.values()))
        if everywhere:
            known.lost = True
            yield from self._lose(number, [wants[at] for at in sorted(everywhere)])
        for copy in known.copies:
            for at, how in bad[copy.index].items():
                frame, payload, inode, position = wants[at]
                if copy.reached == frame:
                    copy.explained = True
                if how not in (Bad.DAMAGED, Bad.OTHER) or copy.why is not None:
                    continue
                drive = self._store.drives[copy.index].label
                where = Where(drive, number, inode=inode, offset=position % 2**63, length=payload)
                yield Finding(
                    Kind.FRAME_DAMAGED,
                    f"{segment_name(Stream.DATA, number)} on {drive}: {how.value}, at {frame}, "
                    f"where bytes of inode {inode} are",
                    where,
                    None if at in everywhere else MOVE.format(number),
                )

    def _segment(self, number: int) -> _Known:
        segment = self._store.segments.get(number)
        if segment is None and self._view.mounted:
            # Begun since the drives were listed.
            self._store = rescanned(self._store)
            segment = self._store.segments.get(number)
        if segment is None or segment.stream != Stream.DATA:
            return _Known(None)
        return _Known(segment, [_Copy(index) for index in segment.drives])

    def _is_gone(self, number: int, known: _Known) -> bool:
        """Of a mounted filesystem: was it emptied since the checkpoint that is looked at?"""
        if self._view.fresh is not None:
            with self._view.fresh() as reading:
                known.gone = not reading.live().get(number) or reading.archived(number) is not None
        return known.gone

    def _on_copy(self, segment: Segment, copy: _Copy, wants: Sequence[Frame]) -> dict[int, Bad]:
        """Which of the frames a copy does not have, by their place in `wants`."""
        drive = self._store.drives[copy.index]
        try:
            copy.size = drive.size(segment.name)
            file = drive.open(segment.name)
        except DriveError as error:
            copy.why = Kind.SEGMENT_UNREADABLE, str(error)
            return dict.fromkeys(range(len(wants)), Bad.UNREADABLE)
        try:
            window = Window(file)
            bad: dict[int, Bad] = {}
            done = 0
            if copy.reached is None:
                done = self._walk(window, segment.number, copy, wants, bad)
            for at in range(done, len(wants)):
                self._alone(window, segment.number, copy, at, wants[at], bad)
            return bad
        finally:
            file.close()

    def _walk(
        self,
        window: Window,
        number: int,
        copy: _Copy,
        wants: Sequence[Frame],
        bad: dict[int, Bad],
    ) -> int:
        """Walk the copy's headers, and compare those that are wanted; how many were."""
        at, count = 0, len(wants)
        copy.reached = 0
        try:
            opened = walk.opening_of((window,), self._store.filesystem, number)
            if opened is None or opened[1].stream != Stream.DATA:
                copy.why = Kind.SEGMENT_FOREIGN, "its SEGMENT frame is not that of this segment"
                return 0
            first = opened[0]
            copy.reached = first.end
            for found in walk.walk((window,), first.end, first.header.checksum, first.header):
                while at < count and wants[at][0] < found.at:
                    self._alone(window, number, copy, at, wants[at], bad)
                    at += 1
                while at < count and wants[at][0] == found.at:
                    if not _fits(found.header, wants[at]):
                        bad[at] = Bad.OTHER
                    at += 1
                copy.reached = found.end
        except DriveError as error:
            copy.why = Kind.SEGMENT_UNREADABLE, str(error)
        return at

    def _alone(
        self,
        window: Window,
        number: int,
        copy: _Copy,
        at: int,
        want: Frame,
        bad: dict[int, Bad],
    ) -> None:
        """One frame, without those around it: as a reader finds it."""
        if want[0] + frame_size(want[1]) > copy.size:
            bad[at] = Bad.SHORT
            return
        try:
            header = walk.read_header(window, want[0])
        except IntegrityError:
            bad[at] = Bad.DAMAGED
            return
        except DriveError as error:
            bad[at] = Bad.UNREADABLE
            copy.why = Kind.SEGMENT_UNREADABLE, str(error)
            return
        if (header.filesystem, header.segment) != (self._store.short_id, number) or not _fits(
            header, want
        ):
            bad[at] = Bad.OTHER

    # -- all of a segment -------------------------------------------------------------------

    def _whole(self, number: int, known: _Known) -> Iterator[Finding]:
        """What is wrong with a segment, now that all its extents were looked at."""
        name = segment_name(Stream.DATA, number)
        remedy = None if known.lost else MOVE.format(number)
        if known.gone:
            return
        if known.segment is None:
            message = f"{name} is on no drive, and files have bytes in it"
            yield Finding(Kind.SEGMENT_MISSING, message, Where(segment=number))
            return
        found = [
            (copy, problem)
            for copy in known.copies
            if (problem := _problem(copy, known.needed)) is not None
        ]
        lacking = self._store.lacks_copies(known.segment)
        if not (found or lacking) or self._is_gone(number, known):
            return
        if lacking:
            there = ", ".join(self._store.drives[i].label for i in known.segment.drives)
            copies = self._store.copies
            message = f"{name} is only on {there}; {copies} copies of it are kept"
            yield Finding(Kind.COPY_MISSING, message, Where(segment=number), remedy)
        for copy, (kind, why) in found:
            drive = self._store.drives[copy.index].label
            yield Finding(kind, f"{name} on {drive}: {why}", Where(drive, number), remedy)

    def _lose(self, number: int, wants: Iterable[Frame]) -> Iterator[Finding]:
        """Bytes of files in these frames are on no copy: into `lost`, as long as a report keeps
        them; the others are counted, and need no words."""
        frames: dict[int, set[int]] = {}
        for frame, _, inode, _ in wants:
            frames.setdefault(inode, set()).add(frame)
        for inode, some in frames.items():
            if len(self.lost) >= KEPT_PER_KIND:
                where = Where(segment=number, inode=inode)
                yield Finding(Kind.FILE_LOST, f"inode {inode} has bytes that are lost", where)
                continue
            size, first = _extent_of(self._reading, inode, number, some)
            self.lost.append(
                Finding(
                    Kind.FILE_LOST,
                    f"{size} bytes from offset {first} on were in segment {number}, and on no "
                    "drive that is there they can be read",
                    Where(segment=number, inode=inode, offset=first, length=size),
                )
            )


def _fits(header: FrameHeader, want: Frame) -> bool:
    """Is the header that of the frame which the extent's row names?"""
    return header.kind == FrameKind.DATA and want[1:] == (
        header.length,
        header.owner,
        header.position,
    )


def _problem(copy: _Copy, needed: int) -> tuple[Kind, str] | None:
    """What is wrong with all of a copy, if something is."""
    if copy.why is not None:
        return copy.why
    if copy.size < needed:
        return Kind.SEGMENT_SHORT, f"it has {copy.size} bytes, and {needed} are in use"
    if copy.reached is not None and copy.reached < needed and not copy.explained:
        return Kind.CHAIN_BROKEN, f"its headers cannot be followed beyond {copy.reached}"
    return None


def _extent_of(reading: Reading, inode: int, segment: int, frames: set[int]) -> tuple[int, int]:
    """How many bytes of a file are in these frames, and the offset of the first of them."""
    size, first = 0, -1
    try:
        for extent in reading.extents(inode):
            at = extent.address
            if at is not None and at.segment == segment and at.frame in frames:
                size += extent.length
                first = extent.offset if first < 0 else first
    except IntegrityError:
        pass  # the row is told of elsewhere
    return size, max(first, 0)


def rescanned(store: SegmentStore) -> SegmentStore:
    """The segments that are there now. Raises DriveError, SetupError."""
    now = SegmentStore(store.filesystem, store.drives, store.copies, 0, lambda: 0)
    now.scan()
    now.next_number = max(now.next_number, store.next_number)
    return now
