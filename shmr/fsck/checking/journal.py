"""The snapshot that counts, and the journal from there to the checkpoint: whole on every copy?

Headers only. Where a copy is not whole a new snapshot mends it: what it stands for goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shmr.catalog.reading import Reading
from shmr.errors import DriveError, IntegrityError
from shmr.format.frame import Kind as FrameKind
from shmr.format.records import Opening, Stream
from shmr.format.rows import Place, decode_place
from shmr.fsck.checking.segments import rescanned
from shmr.fsck.checking.window import Window
from shmr.fsck.findings import Finding, Kind, Where
from shmr.fsck.opening import View
from shmr.log import walk
from shmr.log.store import Segment, SegmentStore, segment_name
from shmr.volume.checkpoint import JOURNAL_FLOOR, SNAPSHOT

REMEDY = "write a new snapshot, so that what was before it can go"


class _Reach(NamedTuple):
    """How far a copy can be walked. `place`: what its last frame says, if that ends a snapshot."""

    end: int
    chain: int
    opened: bool
    place: Place | None = None
    size: int = 0
    error: str | None = None


def journal_findings(view: View) -> Iterator[Finding]:
    """What is wrong with journal and snapshot. Raises DriveError, IntegrityError."""
    found = list(_Log(view.store, view.reading).findings())
    if found and view.fresh is not None:
        # A new snapshot may have let go of what the checkpoint that is looked at needs.
        with view.fresh() as reading:
            found = list(_Log(rescanned(view.store), reading).findings())
    yield from found


class _Log:
    def __init__(self, store: SegmentStore, reading: Reading) -> None:
        self._store = store
        self._reading = reading

    def findings(self) -> Iterator[Finding]:
        place: Place | None = None
        first = self._reading.state(SNAPSHOT)
        if first:
            place, found = self._snapshot(first)
            yield from found
        yield from self._journal(place, first != 0)

    # -- snapshot ---------------------------------------------------------------------------

    def _snapshot(self, number: int) -> tuple[Place | None, list[Finding]]:
        """The place at which the snapshot stands that begins with segment `number`."""
        openings = self._openings(Stream.SNAPSHOT)
        following = _following(openings)
        found: list[Finding] = []
        segment = self._store.segments.get(number)
        if segment is None or segment.stream != Stream.SNAPSHOT:
            name = segment_name(Stream.SNAPSHOT, number)
            message = f"{name}, with which the newest snapshot begins, is on no drive"
            return None, [Finding(Kind.SEGMENT_MISSING, message, Where(segment=number), REMEDY)]
        while True:
            reaches = self._reaches(segment)
            after = following.get(segment.number, 0)
            if after > segment.number:
                needed, place = openings[after].previous_end, None
            else:
                whole = [reach for reach in reaches.values() if reach.place is not None]
                needed, place = (whole[0].end, whole[0].place) if whole else (-1, None)
            if place is not None:
                # Without the frame that ends it, a copy is as good as one that was cut there.
                reaches = {
                    index: reach if reach.place is not None else reach._replace(end=-1)
                    for index, reach in reaches.items()
                }
            found += self._judged(segment, reaches, needed, Kind.SNAPSHOT_DAMAGED)
            if after <= segment.number:
                return place, found
            segment = self._store.segments[after]

    # -- journal ----------------------------------------------------------------------------

    def _journal(self, place: Place | None, has_snapshot: bool) -> Iterator[Finding]:
        """From the snapshot's place, or the beginning, to the checkpoint's place."""
        openings = self._openings(Stream.JOURNAL)
        following = _following(openings)
        target = self._target()
        floor = self._reading.state(JOURNAL_FLOOR) if has_snapshot else following.get(0, 0)
        number = place.segment if place is not None else floor
        last = target.segment if target is not None else max(openings, default=0)
        seen: set[int] = set()
        while True:
            segment = self._store.segments.get(number)
            if segment is None or segment.stream != Stream.JOURNAL or number in seen:
                what = segment_name(Stream.JOURNAL, number) if number else "the journal's beginning"
                message = f"{what} is on no drive; the journal is not whole without it"
                yield Finding(Kind.SEGMENT_MISSING, message, Where(segment=number), REMEDY)
                return
            seen.add(number)
            begin = place if place is not None and place.segment == number else None
            after = following.get(number, 0) if number != last else 0
            reaches = self._reaches(segment, begin, self._limit(openings, after, target, number))
            needed = self._limit(openings, after, target, number)
            if needed is None:
                needed = min((reach.end for reach in reaches.values()), default=0)
            yield from self._judged(segment, reaches, needed, Kind.JOURNAL_DAMAGED)
            if number == last:
                return
            if after <= number:
                message = (
                    f"no drive has what follows {segment.name} in the journal, which goes on up to "
                    f"{segment_name(Stream.JOURNAL, last)}"
                )
                yield Finding(Kind.SEGMENT_MISSING, message, Where(segment=last), REMEDY)
                return
            number = after

    def _target(self) -> Place | None:
        """The checkpoint's place; None where the rows were rebuilt and no checkpoint made."""
        try:
            return self._reading.place()
        except IntegrityError:
            return None

    def _limit(
        self, openings: dict[int, Opening], after: int, target: Place | None, number: int
    ) -> int | None:
        """How far a journal segment counts, if that is known."""
        if after > number:
            return openings[after].previous_end
        return target.end if target is not None and target.segment == number else None

    # -- both -------------------------------------------------------------------------------

    def _openings(self, stream: int) -> dict[int, Opening]:
        """What the SEGMENT frames say, of those that verify on some copy."""
        found = {}
        for segment in self._store.of_stream(stream):
            for index in segment.drives:
                opened = self._opening(segment, index)
                if opened is not None:
                    found[segment.number] = opened
                    break
        return found

    def _opening(self, segment: Segment, index: int) -> Opening | None:
        try:
            file = self._store.drives[index].open(segment.name)
        except DriveError:
            return None
        try:
            opened = walk.opening_of((file,), self._store.filesystem, segment.number)
        except DriveError:
            return None
        finally:
            file.close()
        return None if opened is None or opened[1].stream != segment.stream else opened[1]

    def _reaches(
        self, segment: Segment, begin: Place | None = None, limit: int | None = None
    ) -> dict[int, _Reach]:
        """How far each copy can be walked, from a place or its beginning, by its drive."""
        return {index: self._reach(segment, index, begin, limit) for index in segment.drives}

    def _reach(
        self, segment: Segment, index: int, begin: Place | None, limit: int | None
    ) -> _Reach:
        drive = self._store.drives[index]
        end, chain, opened, last = 0, 0, False, None
        try:
            size = drive.size(segment.name)
            file = drive.open(segment.name)
        except DriveError as error:
            return _Reach(0, 0, False, error=str(error))
        try:
            window = Window(file)
            opening = walk.opening_of((window,), self._store.filesystem, segment.number)
            if opening is None or opening[1].stream != segment.stream:
                return _Reach(0, 0, False, size=size)
            first, opened = opening[0], True
            end, chain, expected = first.end, first.header.checksum, first.header
            if begin is not None:
                end, chain = begin.end, begin.chain
                expected = first.header._replace(sequence=begin.sequence - 1)
            for found in walk.walk((window,), end, chain, expected):
                if limit is not None and found.at >= limit:
                    break
                end, chain, last = found.end, found.header.checksum, found
            place = None
            if segment.stream == Stream.SNAPSHOT and last is not None:
                place = _place_in(window, last)
            return _Reach(end, chain, True, place, size)
        except DriveError as error:
            return _Reach(end, chain, opened, error=str(error))
        finally:
            file.close()

    def _judged(
        self, segment: Segment, reaches: dict[int, _Reach], needed: int, kind: Kind
    ) -> Iterator[Finding]:
        """What is wrong with the copies of a segment that counts up to `needed` (-1: no end)."""
        if self._store.lacks_copies(segment):
            there = ", ".join(self._store.drives[index].label for index in segment.drives)
            message = f"{segment.name} is only on {there}; {self._store.copies} copies are kept"
            yield Finding(Kind.COPY_MISSING, message, Where(segment=segment.number), REMEDY)
        for index, reach in reaches.items():
            drive = self._store.drives[index].label
            where = Where(drive, segment.number, offset=max(0, reach.end))
            label = f"{segment.name} on {drive}"
            if reach.error is not None:
                yield Finding(Kind.SEGMENT_UNREADABLE, f"{label}: {reach.error}", where, REMEDY)
            elif not reach.opened:
                message = f"{label}: its SEGMENT frame is not that of this segment"
                yield Finding(Kind.SEGMENT_FOREIGN, message, where, REMEDY)
            elif 0 <= reach.size < needed:
                message = f"{label}: it has {reach.size} bytes, and {needed} are in use"
                yield Finding(Kind.SEGMENT_SHORT, message, where, REMEDY)
            elif reach.end != needed:
                message = f"{label}: its headers can be followed up to {reach.end}"
                message += f", and {needed} are in use"
                if min(reach.end, needed) < 0:
                    message = f"{label}: the frame that ends the snapshot is not there"
                yield Finding(kind, message, where, REMEDY)


def _following(openings: dict[int, Opening]) -> dict[int, int]:
    """Which segment goes on from which: of two, the later."""
    return {opening.previous_segment: number for number, opening in sorted(openings.items())}


def _place_in(window: Window, last: walk.Found) -> Place | None:
    """The place that the last frame of a snapshot names, if it is its end."""
    if last.header.kind != FrameKind.COMMIT:
        return None
    payload = walk.payload_of((window,), last)
    try:
        return None if payload is None else decode_place(payload)
    except IntegrityError:
        return None
