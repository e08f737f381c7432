"""Every byte of a copy of a segment against its headers: the chain, and all granules behind it.

It is read up to where the catalog and the journal say that it reaches, and on while frames follow.
Behind a header that does not verify the next one that does is looked for, so that damage in one
place says nothing of the frames behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from crc32c import crc32c

from shmr.errors import IntegrityError
from shmr.format import frame
from shmr.format.frame import ALIGNMENT, GRANULE, FrameHeader, Kind
from shmr.format.records import decode_opening
from shmr.fsck.scrubbing.reading import READ_BYTES, Damage, Hole, Reader, hole_in
from shmr.log.walk import follows
from shmr.units import KIB

WINDOW_BYTES = READ_BYTES + 64 * KIB
"""Asked for at once: most frames have a payload of a MiB, and are then seen whole."""
PIECE_BYTES = GRANULE
"""What a drive refuses is read in pieces of this: smaller ones would verify no more."""
DAMAGES_MAX = 4096
"""With more, all of the copy counts as damaged."""
HEADER, PAYLOAD, END = "header", "payload", "end"


@dataclass(frozen=True, slots=True)
class Expected:
    """What the copy of a segment has to be.

    `reach` is the offset behind the last frame that is needed: of a sealed one, where the file
    ends. `closed`: its last frame is a COMMIT, as that of a snapshot is.
    """

    filesystem: bytes
    segment: int
    stream: int
    size_bytes: int
    reach: int
    closed: bool = False


@dataclass(slots=True)
class Examined:
    """What was found. `end` is the offset behind the last frame."""

    damages: list[Damage] = field(default_factory=list)
    end: int = 0

    def note(self, start: int, end: int, why: str, part: str) -> None:
        last = self.damages[-1] if self.damages else None
        if last is not None and last.end == start and (last.part, last.why) == (part, why):
            self.damages[-1] = last._replace(end=end)
        else:
            self.damages.append(Damage(start, end, why, part))


def examine(reader: Reader, expected: Expected) -> Examined:
    """Read the whole copy. Raises Stopped, GivenUp."""
    walk = _Walk(reader, expected)
    walk.run()
    return walk.examined


class _Walk:
    """One copy, from front to back."""

    def __init__(self, reader: Reader, expected: Expected) -> None:
        self._reader = reader
        self._expected = expected
        self._needle = expected.filesystem[:8] + expected.segment.to_bytes(8, "little")
        self._base = 0
        self._content = b""
        self._view = memoryview(self._content)
        self._holes: list[Hole] = []
        self._last: FrameHeader | None = None
        self._lost = False
        """A header is missing: the next one that verifies goes on from nothing that is known."""
        self.examined = Examined()

    def run(self) -> None:
        expected, at = self._expected, 0
        while at < expected.size_bytes:
            self._show(at, frame.SIZE)
            header, why = self._header(at)
            if header is None:
                if at >= expected.reach:
                    break
                after = self._search(at + ALIGNMENT)
                self.examined.note(at, after, why, HEADER)
                self._lost = True
                at = after
                continue
            self._show(at, frame.frame_size(header.length))
            self._payload(at, header)
            self._last, self._lost = header, False
            at += frame.frame_size(header.length)
        self.examined.end = at
        self._end(at)
        if len(self.examined.damages) > DAMAGES_MAX:
            why = f"{len(self.examined.damages)} places do not verify"
            self.examined.damages = [Damage(0, expected.size_bytes, why, HEADER)]

    def _end(self, at: int) -> None:
        """Does it end where it should?"""
        expected, note = self._expected, self.examined.note
        if at < expected.reach:
            note(at, expected.reach, f"the copy ends at {at}", END)
        elif expected.closed and not self._lost and not self._is_closed():
            note(at, at, "the copy ends before the last frame", END)

    def _is_closed(self) -> bool:
        return self._last is not None and self._last.kind == Kind.COMMIT

    def _show(self, at: int, length: int) -> None:
        """Have these bytes in view, as far as there are any."""
        end = min(at + length, self._expected.size_bytes)
        if self._base <= at and end <= self._base + len(self._view):
            return
        size = min(max(length, WINDOW_BYTES), self._expected.size_bytes - at)
        self._content, self._holes = self._reader.read(at, size, PIECE_BYTES)
        self._base, self._view = at, memoryview(self._content)

    def _header(self, at: int) -> tuple[FrameHeader | None, str]:
        """The header at `at` if it is the one that follows, or why there is none."""
        start = at - self._base
        try:
            length = frame.peek_length(self._view[start : start + frame.SIZE])
            size = frame.header_size(length)
            self._show(at, size)
            if self._holes:
                hole = hole_in(self._holes, at, at + size)
                if hole is not None:
                    return None, hole.why
            start = at - self._base
            header = frame.decode(self._view[start : start + size])
        except IntegrityError as error:
            hole = hole_in(self._holes, at, at + frame.SIZE)
            return None, str(error) if hole is None else hole.why
        return (header, "") if self._fits(at, header) else (None, "a frame that does not follow")

    def _fits(self, at: int, header: FrameHeader) -> bool:
        last = self._last
        if at == 0:
            return self._opens(header)
        if last is None or self._lost:
            short = int.from_bytes(self._expected.filesystem[:8], "little")
            mine = (header.filesystem, header.segment) == (short, self._expected.segment)
            return mine and header.kind != Kind.SEGMENT
        return follows(header, last, last.sequence, last.checksum)

    def _opens(self, header: FrameHeader) -> bool:
        """Is it the SEGMENT frame of this segment?"""
        expected = self._expected
        short = int.from_bytes(expected.filesystem[:8], "little")
        if (header.kind, header.filesystem, header.segment) != (
            Kind.SEGMENT,
            short,
            expected.segment,
        ):
            return False
        self._show(0, frame.frame_size(header.length))
        start = frame.header_size(header.length) - self._base
        try:
            opening = decode_opening(self._view[start : start + header.length])
        except IntegrityError:
            return False
        return (opening.filesystem, opening.stream, opening.previous_chain) == (
            expected.filesystem,
            expected.stream,
            header.previous,
        )

    def _payload(self, at: int, header: FrameHeader) -> None:
        """Every granule of it."""
        begin = at + frame.header_size(header.length)
        position, end = begin - self._base, begin - self._base + header.length
        view, base = self._view, self._base
        # What could not be read is zeros here, and may be zeros there.
        holes = bool(self._holes) and hole_in(self._holes, begin, begin + header.length) is not None
        for checksum in header.table:
            stop = position + GRANULE
            if stop > end:
                stop = end
            if holes or crc32c(view[position:stop]) != checksum:
                self._granule(header.kind, base + position, base + stop, checksum)
            position = stop

    def _granule(self, kind: int, start: int, stop: int, checksum: int) -> None:
        """One that does not verify, or may not have been read."""
        # Who walks the headers begins with the payload of the first.
        part = HEADER if kind == Kind.SEGMENT else PAYLOAD
        hole = hole_in(self._holes, start, stop)
        if hole is not None:
            self.examined.note(start, stop, hole.why, part)
        elif crc32c(self._view[start - self._base : stop - self._base]) != checksum:
            whole = stop - self._base <= len(self._view)
            why = "checksum does not match" if whole else "the copy ends before"
            self.examined.note(start, stop, why, part)

    def _search(self, start: int) -> int:
        """Where the next header is that verifies, or the end of what is needed."""
        at = start
        while at < self._expected.size_bytes:
            self._show(at, frame.HEADER_MAX)
            where = self._content.find(self._needle, max(0, at - self._base))
            while where >= 0:
                position = self._base + where - 8
                if position >= start and position % ALIGNMENT == 0 and self._is_header(position):
                    return position
                where = self._content.find(self._needle, position - self._base + 9)
            after = self._base + len(self._view)
            if after >= self._expected.size_bytes:
                break
            at = after - len(self._needle) + 1
            at -= at % ALIGNMENT
        return max(self._expected.reach, start)

    def _is_header(self, position: int) -> bool:
        self._show(position, frame.HEADER_MAX)
        start = position - self._base
        try:
            header = frame.decode(self._view[start : start + frame.HEADER_MAX])
        except IntegrityError:
            return False
        return header.kind != Kind.SEGMENT
