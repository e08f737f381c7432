"""Snapshots: the whole catalog written into the log, so that the journal before it can go.

A snapshot is one or more segments of its own, chained like a journal: META frames with every
truth row, then a COMMIT whose payload is the journal's place that it holds everything up to. It
counts only when that COMMIT is there and everything before it verifies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shmr.drive.seam import DriveFile
from shmr.errors import IntegrityError
from shmr.format.frame import Kind
from shmr.format.records import Stream, decode_meta, encode_meta, snapshot_end
from shmr.format.rows import Place, Row, decode_place
from shmr.log import walk
from shmr.log.segment import SegmentWriter
from shmr.log.store import Segment, SegmentStore
from shmr.units import KIB

_ROWS_BYTES = 64 * KIB


class Snapshot(NamedTuple):
    """A complete snapshot: its segments in order and the place in the journal it stands at."""

    segments: tuple[Segment, ...]
    place: Place


def write(
    store: SegmentStore, rows: Iterable[Row], place: Place, numbers: Iterator[int], size_bytes: int
) -> Snapshot:
    """Write a snapshot of `rows`, sealed and synced. Blocking; any thread or process.

    `numbers` are segment numbers set aside for it, `size_bytes` what one segment takes. Raises
    NoSpace, DriveError, IntegrityError (a row fails); what was written is discarded then.
    """
    writers: list[SegmentWriter] = []
    segments: list[Segment] = []
    try:
        for kind, payload in _frames(rows, place):
            if not writers or writers[-1].room() < len(payload):
                before = writers[-1] if writers else None
                claim = store.create(
                    Stream.SNAPSHOT, next(numbers), size_bytes, store.place(size_bytes)
                )
                segments.append(claim.segment)
                previous = (before.number, before.end, before.chain) if before else (0, 0, 0)
                sequence = before.sequence if before else 0
                writers.append(store.begin(claim, sequence=sequence, previous=previous))
                if before:
                    _seal(before)
            writers[-1].append(kind, 0, 0, payload)
        _seal(writers[-1])
    except BaseException:
        for writer in writers:
            writer.close()
        for segment in segments:
            store.segments[segment.number] = segment
            store.discard(segment.number)
        raise
    return Snapshot(tuple(segments), place)


def _seal(writer: SegmentWriter) -> None:
    writer.full = True
    writer.sync()
    writer.close()


def _frames(rows: Iterable[Row], place: Place) -> Iterator[tuple[Kind, bytes]]:
    some: list[Row] = []
    size = 0
    for row in rows:
        some.append(row)
        size += 16 + len(row.key) + len(row.value or b"")
        if size >= _ROWS_BYTES:
            yield Kind.META, encode_meta((), some)
            some, size = [], 0
    if some:
        yield Kind.META, encode_meta((), some)
    yield Kind.COMMIT, snapshot_end(place)


def find(store: SegmentStore) -> list[Snapshot]:
    """Snapshots that end with a COMMIT, newest place first. Their rows are not verified yet."""
    openings = {}
    for segment in store.of_stream(Stream.SNAPSHOT):
        files = store.copies_of(segment.number)
        opened = walk.opening_of(files, store.filesystem, segment.number)
        if opened is not None:
            openings[segment.number] = opened[1]
    following = {o.previous_segment: n for n, o in openings.items() if o.previous_segment}
    snapshots = []
    for number, opening in openings.items():
        if opening.previous_segment:
            continue
        chain = [number]
        while (after := following.get(chain[-1])) is not None and after > chain[-1]:
            chain.append(after)
        place = _place_of(store, chain[-1])
        if place is not None:
            snapshots.append(Snapshot(tuple(store.segments[n] for n in chain), place))
    return sorted(snapshots, key=lambda s: s.place.sequence, reverse=True)


def _place_of(store: SegmentStore, number: int) -> Place | None:
    """The payload of the last frame, if it is a COMMIT that verifies."""
    files = store.copies_of(number)
    opening = walk.opening_of(files, store.filesystem, number)
    if opening is None:
        return None
    first, last = opening[0], None
    for found in walk.walk(files, first.end, first.header.checksum, first.header):
        last = found
    if last is None or last.header.kind != Kind.COMMIT:
        return None
    payload = walk.payload_of(files, last)
    try:
        return None if payload is None else decode_place(payload)
    except IntegrityError:
        return None


def rows_of(store: SegmentStore, snapshot: Snapshot) -> Iterator[tuple[Row, ...]]:
    """The rows, frame by frame. Raises IntegrityError where anything does not verify."""
    for segment in snapshot.segments:
        files = store.copies_of(segment.number)
        opening = walk.opening_of(files, store.filesystem, segment.number)
        if opening is None:
            raise IntegrityError(f"snapshot segment {segment.number}: no SEGMENT frame")
        yield from _rows_in(files, opening[0], segment.number)


def _rows_in(
    files: tuple[DriveFile, ...], first: walk.Found, number: int
) -> Iterator[tuple[Row, ...]]:
    for found in walk.walk(files, first.end, first.header.checksum, first.header):
        if found.header.kind == Kind.COMMIT:
            return
        payload = walk.payload_of(files, found)
        if payload is None:
            raise IntegrityError(f"snapshot segment {number}: a frame does not verify")
        yield decode_meta(payload).rows
