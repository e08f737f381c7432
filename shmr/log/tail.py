"""The tail of a data segment that a COMMIT speaks of: is it there, on every copy?

Only the tail that was not known synced is read; of a mirror, a copy that a crash left short is
completed from a whole one.
"""

from __future__ import annotations

from shmr.drive.seam import DriveFile
from shmr.errors import DriveError, IntegrityError
from shmr.format.frame import FrameHeader
from shmr.format.records import SegmentEnd
from shmr.log import walk
from shmr.log.store import SegmentStore
from shmr.units import MIB

BEGINNING = SegmentEnd(0, 0, 0)


def verify_tail(
    store: SegmentStore, known: SegmentEnd | None, claimed: SegmentEnd, *, mend: bool
) -> bool:
    """Do headers and payloads from `known` up to `claimed` verify on at least one copy?

    `known` is an earlier end of the segment that is durable, or None. With `mend`, copies that
    are short or bad are completed, and every copy is synced. A segment that does not exist was
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
    first = opening[0]
    start, chain = first.end, first.header.checksum
    expected = first.header
    if known is not None:
        start, chain = known.end, known.chain
        expected = first.header._replace(sequence=-1)
    if (start, chain) == (claimed.end, claimed.chain):
        whole = list(files)
    else:
        whole = [file for file in files if _reaches(file, start, chain, expected, claimed)]
    if not whole:
        return False
    if mend:
        _mend(store, claimed, whole[0], [f for f in files if f not in whole], start)
    return True


def _reaches(
    file: DriveFile, start: int, chain: int, expected: FrameHeader, claimed: SegmentEnd
) -> bool:
    """Does this copy alone hold every frame from `start` to the claimed end?"""
    try:
        for found in walk.walk((file,), start, chain, expected):
            walk.read_payload(file, found)
            if found.end >= claimed.end:
                return found.end == claimed.end and found.header.checksum == claimed.chain
    except (IntegrityError, DriveError):
        return False
    return False


def _mend(
    store: SegmentStore, claimed: SegmentEnd, good: DriveFile, bad: list[DriveFile], start: int
) -> None:
    """Complete the bad copies from `start` on, then sync all copies."""
    segment = store.segments[claimed.segment]
    copies = store.copies_of(segment.number)
    for index, copy in zip(segment.drives, copies, strict=False):
        file = store.drives[index].open(segment.name, end=start)
        try:
            if copy in bad:
                at = start
                while at < claimed.end:
                    block = good.read(at, min(MIB, claimed.end - at))
                    file.append([block])
                    at += len(block)
            file.sync()
        finally:
            file.close()
