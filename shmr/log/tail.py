"""The tail of a segment that a COMMIT speaks of: is it there, and on every copy?

Only the tail that was not known synced is read. Of a mirror each frame may be on another copy;
what a crash left on one only, or in the page cache only, is written to all.
"""

from __future__ import annotations

from collections.abc import Iterator

from shmr.drive.seam import DriveFile
from shmr.errors import DriveError, IntegrityError
from shmr.format.records import Opening, SegmentEnd, Stream
from shmr.log import walk
from shmr.log.store import SegmentStore
from shmr.log.walk import Found


def verify_tail(
    store: SegmentStore, known: SegmentEnd | None, claimed: SegmentEnd, *, mend: bool
) -> bool:
    """Do headers and payloads from `known` up to `claimed` verify, each on some copy?

    `known` is an earlier end of the segment that is durable, or None. With `mend`, the tail is
    written anew to every copy, and synced. A segment that does not exist was
    discarded after a later checkpoint was durable (its claim was durable before its first
    frame), so nothing of it is missing. Raises DriveError.
    """
    segment = store.segments.get(claimed.segment)
    if segment is None:
        return True
    files = store.copies_of(segment.number)
    opening = walk.opening_of(files, store.filesystem, segment.number)
    if opening is None:
        return False
    end = opening[0].end, opening[0].header.checksum
    for found in _frames(files, opening, known, claimed):
        end = found.end, found.header.checksum
        if walk.payload_of(files, found) is None:
            return False
    if known is not None and (known.end, known.chain) == (claimed.end, claimed.chain):
        end = known.end, known.chain
    if end != (claimed.end, claimed.chain):
        return False
    if mend:
        _mend(store, opening, known, claimed)
    return True


def _frames(
    files: tuple[DriveFile, ...],
    opening: tuple[Found, Opening],
    known: SegmentEnd | None,
    claimed: SegmentEnd,
) -> Iterator[Found]:
    """Headers behind `known` (or the SEGMENT frame) up to `claimed`, as far as they verify."""
    first = opening[0]
    start, chain, expected = first.end, first.header.checksum, first.header
    if known is not None:
        start, chain, expected = known.end, known.chain, first.header._replace(sequence=-1)
    if start < claimed.end:
        for found in walk.walk(files, start, chain, expected):
            yield found
            if found.end >= claimed.end:
                return


def _mend(
    store: SegmentStore,
    opening: tuple[Found, Opening],
    known: SegmentEnd | None,
    claimed: SegmentEnd,
) -> None:
    """Write the tail anew to every copy, and sync them.

    Also where it reads well: after a failed sync, bytes that the page cache still shows are clean
    there and never reach the disk by another sync (see `shmr.log.log`).
    """
    segment = store.segments[claimed.segment]
    whole = store.copies_of(segment.number)
    for index in segment.drives:
        drive = store.drives[index]
        base = known
        copy = drive.open(segment.name)
        try:
            if walk.opening_of((copy,), store.filesystem, segment.number) != opening:
                base = None
            start = 0 if base is None else base.end
            if drive.size(segment.name) < claimed.end:
                # No crash makes a copy shorter than what was written: it is made anew, from
                # another that is known to be whole before this one goes.
                copy.close()
                _require_whole(
                    tuple(f for i, f in zip(segment.drives, whole, strict=True) if i != index),
                    opening,
                    claimed,
                )
                drive.discard(segment.name)
                copy = drive.claim(segment.name, max(opening[1].size_bytes, claimed.end))
                base, start = None, 0
            else:
                copy.close()
                copy = drive.open(segment.name, end=start)
            if start < claimed.end:
                for found in (opening[0], *_frames(whole, opening, base, claimed)):
                    if found.at >= start:
                        copy.append([_bytes_of(whole, found)])
            if segment.stream == Stream.JOURNAL:
                # It goes on in another segment: what this one did not use, and what was torn, goes.
                copy.seal()
            else:
                copy.sync()
        finally:
            copy.close()
    store.reopen(segment.number)


def _require_whole(
    files: tuple[DriveFile, ...], opening: tuple[Found, Opening], claimed: SegmentEnd
) -> None:
    """Raise IntegrityError unless every frame up to the claimed end verifies on these copies."""
    end = 0
    for found in (opening[0], *_frames(files, opening, None, claimed)):
        _bytes_of(files, found)
        end = found.end
    if not files or end != claimed.end:
        raise IntegrityError(
            f"segment {claimed.segment}: a copy is shorter than what was synced, and no other "
            "copy is whole"
        )


def _bytes_of(files: tuple[DriveFile, ...], found: Found) -> bytes:
    """The whole frame from a copy on which it verifies."""
    for file in files:
        try:
            if walk.read_header(file, found.at) == found.header:
                walk.read_payload(file, found)
                return file.read(found.at, found.end - found.at)
        except (IntegrityError, DriveError):
            continue
    raise IntegrityError(f"segment {found.header.segment} offset {found.at}: no copy verifies")
