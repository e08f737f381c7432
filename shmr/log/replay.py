"""Reading the journal back: its segments in order, its frames, and where it ends.

Segments follow each other by what their SEGMENT frames say they go on from. Where two claim to
follow one (a recovery that a crash repeated), the later one is right. The journal ends where no
frame follows; whether that is a torn tail or corruption, `claimed_durable` tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shmr.drive.seam import DriveFile
from shmr.errors import DriveError, IntegrityError
from shmr.format.frame import FrameHeader, Kind
from shmr.format.records import Opening, SegmentEnd, Stream, decode_commit
from shmr.format.rows import Place
from shmr.log import walk
from shmr.log.store import SegmentStore


class Entry(NamedTuple):
    """A journal frame with its payload; `place` is the place behind it."""

    header: FrameHeader
    payload: bytes
    place: Place


class Journal:
    """The journal on the drives, as recovery finds it."""

    def __init__(self, store: SegmentStore) -> None:
        self._store = store
        self._openings: dict[int, tuple[walk.Found, Opening]] = {}
        self.unreadable: list[int] = []
        """Journal segments without a valid SEGMENT frame: claimed ahead, or damaged."""
        for segment in store.of_stream(Stream.JOURNAL):
            opening = walk.opening_of(
                store.copies_of(segment.number), store.filesystem, segment.number
            )
            if opening is None:
                self.unreadable.append(segment.number)
            else:
                self._openings[segment.number] = opening
        self._next = {
            opening.previous_segment: number
            for number, (_, opening) in sorted(self._openings.items())
        }

    def beginning(self) -> Place | None:
        """The place of the very first frame, if the first segment is still there."""
        number = self._next.get(0)
        if number is None:
            return None
        first = self._openings[number][0]
        return Place(number, 0, first.end, first.header.sequence + 1, first.header.checksum)

    def has(self, place: Place) -> bool:
        """Is the frame that ends at `place` really there?"""
        if place.segment not in self._openings:
            return False
        header = walk.header_of(self._files(place.segment), place.frame)
        if header is None:
            return False
        found = walk.Found(place.frame, header)
        return (header.checksum, found.end, header.sequence + 1, header.segment) == (
            place.chain,
            place.end,
            place.sequence,
            place.segment,
        )

    def entries(self, start: Place) -> Iterator[Entry]:
        """Frames after `start`, in order, over all segments, as far as they verify."""
        place = start
        while True:
            for entry in self._in_segment(place):
                place = entry.place
                yield entry
            after = self._next.get(place.segment)
            if after is None or after <= place.segment:
                return
            first, opening = self._openings[after]
            if (opening.previous_end, opening.previous_chain) != (place.end, place.chain):
                return
            if first.header.sequence != place.sequence:
                return
            place = Place(after, 0, first.end, first.header.sequence + 1, first.header.checksum)

    def span(self, start: Place, end: Place) -> Iterator[SegmentEnd]:
        """How far each journal segment from `start`'s to `end`'s counts."""
        number = start.segment
        while number != end.segment:
            after = self._next[number]
            opening = self._openings[after][1]
            yield SegmentEnd(number, opening.previous_end, opening.previous_chain)
            number = after
        yield SegmentEnd(number, end.end, end.chain)

    def _in_segment(self, start: Place) -> Iterator[Entry]:
        """Frames of one segment after `start`, up to where its successor goes on from."""
        number = start.segment
        after = self._next.get(number, 0)
        limit = self._openings[after][1].previous_end if after > number else None
        files = self._files(number)
        expected = self._openings[number][0].header._replace(sequence=start.sequence - 1)
        for found in walk.walk(files, start.end, start.chain, expected):
            if limit is not None and found.at >= limit:
                return
            payload = walk.payload_of(files, found)
            if payload is None:
                return
            header = found.header
            place = Place(number, found.at, found.end, header.sequence + 1, header.checksum)
            yield Entry(header, payload, place)

    def claimed_durable(self, end: Place) -> int | None:
        """The highest `durable_seq` that a valid COMMIT behind `end` carries beyond it, or None.

        Not None means that frames which were synced are missing: corruption, no torn tail.
        """
        highest = end.sequence
        for segment in self._store.of_stream(Stream.JOURNAL):
            if segment.number < end.segment:
                continue
            start = end.end if segment.number == end.segment else 0
            highest = max(highest, self._claim_in(segment.number, start))
        return highest if highest > end.sequence else None

    def _claim_in(self, number: int, start: int) -> int:
        highest = 0
        files = self._files(number)
        for found in walk.search(files, start, self._store.short_id, number):
            if found.header.kind != Kind.COMMIT:
                continue
            try:
                payload = walk.payload_of(files, found)
                if payload is not None:
                    highest = max(highest, decode_commit(payload).durable_seq)
            except (IntegrityError, DriveError):
                continue
        return highest

    def behind(self, end: Place) -> list[int]:
        """Journal segments that are not part of the journal that ends at `end`."""
        return [s.number for s in self._store.of_stream(Stream.JOURNAL) if s.number > end.segment]

    def _files(self, number: int) -> tuple[DriveFile, ...]:
        try:
            return self._store.copies_of(number)
        except DriveError:
            return ()
