"""Walk the frames of a segment that is on drives, as recovery and the cleaner need it.

A walk follows the chain of headers from a known place and stops at the first header that does
not verify. Of several copies each frame may come from another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from shmr.drive.seam import DriveFile
from shmr.errors import DriveError, IntegrityError
from shmr.format import frame
from shmr.format.frame import ALIGNMENT, FrameHeader, Kind
from shmr.format.records import Opening, decode_opening
from shmr.format.rows import SIZE_MAX
from shmr.units import KIB, MIB


class Readable(Protocol):
    """What headers and payloads are read from: an open file of a drive, or a window over one."""

    def read(self, offset: int, length: int) -> bytes: ...


class Found(NamedTuple):
    """A header that verified, where it stands, and the copies (indices) it was good on."""

    at: int
    header: FrameHeader

    @property
    def end(self) -> int:
        """Offset of the next frame."""
        return self.at + frame.frame_size(self.header.length)


SEARCH_STEP_BYTES = 64 * KIB
SEARCH_MAX_BYTES = 256 * MIB
"""How a search goes on behind bytes that cannot be read, and how far."""


def read_header(file: Readable, at: int) -> FrameHeader:
    """The header at offset `at`, which may be any number. Raises IntegrityError, DriveError."""
    if at > SIZE_MAX:
        raise IntegrityError(f"frame header: at {at}, where no file reaches")
    buffer = file.read(at, frame.SIZE)
    length = frame.peek_length(buffer)
    size = frame.header_size(length)
    if size > frame.SIZE:
        buffer = file.read(at, size)
    return frame.decode(buffer)


def read_payload(file: Readable, found: Found) -> bytes:
    """The whole payload, verified. Raises IntegrityError, DriveError."""
    header = found.header
    payload = file.read(found.at + frame.header_size(header.length), header.length)
    if len(payload) != header.length:
        raise IntegrityError(f"frame payload: {len(payload)} of {header.length} bytes")
    frame.verify(header, payload)
    return payload


# Below, None means that no copy holds such a frame. A copy that cannot be read might: a power cut
# leaves bytes that do not verify, never a read error. So where none verifies and one could not be
# read, the DriveError is raised, and nobody takes a sick disk for the end of the journal.


def header_of(files: Sequence[Readable], at: int) -> FrameHeader | None:
    """The header at `at` from the first copy on which it verifies. Raises DriveError."""
    failure: DriveError | None = None
    for file in files:
        try:
            return read_header(file, at)
        except IntegrityError:
            continue
        except DriveError as error:
            failure = error
    if failure is not None:
        raise failure
    return None


def payload_of(files: Sequence[Readable], found: Found) -> bytes | None:
    """The payload from the first copy on which header and payload verify. Raises DriveError."""
    failure: DriveError | None = None
    for file in files:
        try:
            if read_header(file, found.at) == found.header:
                return read_payload(file, found)
        except IntegrityError:
            continue
        except DriveError as error:
            failure = error
    if failure is not None:
        raise failure
    return None


def opening_of(
    files: Sequence[Readable], filesystem: bytes, number: int
) -> tuple[Found, Opening] | None:
    """The SEGMENT frame, if it verifies and belongs to this filesystem and number."""
    short = int.from_bytes(filesystem[:8], "little")
    header = header_of(files, 0)
    if header is None or (header.kind, header.filesystem, header.segment) != (
        Kind.SEGMENT,
        short,
        number,
    ):
        return None
    found = Found(0, header)
    payload = payload_of(files, found)
    if payload is None:
        return None
    try:
        opening = decode_opening(payload)
    except IntegrityError:
        return None
    if opening.filesystem != filesystem or header.previous != opening.previous_chain:
        return None
    return found, opening


def walk(
    files: Sequence[Readable], start: int, chain: int, expected: FrameHeader
) -> Iterator[Found]:
    """Headers from offset `start` on, chained to `chain`.

    `expected` gives filesystem and segment, and the sequence of the frame before the first (-1:
    not known). Raises DriveError where it cannot be known whether a frame follows.
    """
    at, sequence = start, expected.sequence
    # A place named by a COMMIT has no sequence number: -1 takes the first frame's as it is.
    while True:
        header = None
        failure: DriveError | None = None
        for file in files:
            try:
                candidate = read_header(file, at)
            except IntegrityError:
                continue
            except DriveError as error:
                failure = error
                continue
            # Each copy by itself: what another shows may be an older life of its blocks.
            before = candidate.sequence - 1 if sequence < 0 else sequence
            if follows(candidate, expected, before, chain):
                header, sequence = candidate, before
                break
        if header is None and failure is not None:
            raise failure
        if header is None:
            return
        found = Found(at, header)
        yield found
        at, sequence, chain = found.end, sequence + 1, header.checksum


def follows(header: FrameHeader, expected: FrameHeader, sequence: int, chain: int) -> bool:
    """Is this the frame after the one with `sequence` and checksum `chain`?"""
    return (
        header.filesystem == expected.filesystem
        and header.segment == expected.segment
        and header.sequence == sequence + 1
        and header.previous == chain
        and header.kind != Kind.SEGMENT
    )


def search(files: Sequence[DriveFile], start: int, short_id: int, number: int) -> Iterator[Found]:
    """Headers that verify anywhere from `start` on, chained or not: what stands behind a gap.

    What cannot be read is passed over.
    """
    needle = short_id.to_bytes(8, "little") + number.to_bytes(8, "little")
    for file in files:
        at = start
        while True:
            try:
                block = file.read(at, MIB)
            except DriveError:
                # How far the file goes is not known here: other copies and later places may tell.
                if at - start >= SEARCH_MAX_BYTES:
                    break
                at += SEARCH_STEP_BYTES
                continue
            if not block:
                break
            where = block.find(needle)
            while where >= 0:
                position = at + where - 8
                if position >= start and position % ALIGNMENT == 0:
                    try:
                        yield Found(position, read_header(file, position))
                    except (IntegrityError, DriveError):
                        pass
                where = block.find(needle, where + 1)
            if len(block) < MIB:
                break
            at += MIB - len(needle)
