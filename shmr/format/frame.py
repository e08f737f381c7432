"""A frame: one checksummed entry of a workspace segment (FORMAT.md section 4).

Frames follow each other from offset 0, each starting at a multiple of `ALIGNMENT`. A header can
be checked without its payload, and carries one checksum per 16 KiB of the payload, so that a
small read verifies what it returns without reading a whole frame (of 16 KiB: with 64 KiB a
random read of 4 KiB spent most of its time copying, with 4 KiB a large write most of it in
checksum calls). `previous` is the checksum of
the header before, so that a frame of an older life of the file is never mistaken for the next.

Source of the checksum: CRC-32C (Castagnoli), RFC 3720 appendix B.4.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

from shmr.errors import IntegrityError
from shmr.units import KIB, MIB

VERSION = 1
ALIGNMENT = 8
GRANULE = 16 * KIB
"""Payload bytes under one checksum."""
LENGTH_MAX = 2 * MIB
"""Upper limit of a payload, so that a forged length cannot ask for memory."""


class Kind(IntEnum):
    """What a frame holds."""

    SEGMENT = 1
    """The first frame of a segment: what the segment is and what it goes on from."""
    DATA = 2
    """File bytes; `owner` is the inode, `position` the offset in the file."""
    META = 3
    """New rows of the catalog."""
    COMMIT = 4
    """Makes the META frames before it one batch."""


_HEADER = struct.Struct("<IBBHQQQQQIIQ")
_CHECKSUM = struct.Struct("<I")
_KINDS = frozenset(Kind)


class FrameHeader(NamedTuple):
    """What precedes every payload in a segment. All numbers are little-endian.

    offset  size  field
    0       4     checksum    CRC-32C of bytes 4..header end (the table included)
    4       1     version     1
    5       1     kind        `Kind`
    6       2     reserved    0
    8       8     filesystem  first 8 bytes of the filesystem's id
    16      8     segment     number of the segment
    24      8     sequence    journal: counts frames of the whole journal; else of the segment
    32      8     owner       inode, or 0
    40      8     position    offset in the file, or 0
    48      4     length      payload bytes, 0..LENGTH_MAX
    52      4     previous    checksum of the header before (0 for a segment with none)
    56      8     reserved    0
    64      4*n   table       CRC-32C of each 16 KiB of the payload, n = ceil(length / 16 KiB)
    ...           zeros up to a multiple of 8, then the payload, then zeros up to a multiple of 8

    (A NamedTuple and not a dataclass: one is made per write, and this costs a quarter.)
    """

    checksum: int
    kind: int
    filesystem: int
    segment: int
    sequence: int
    owner: int
    position: int
    length: int
    previous: int
    table: tuple[int, ...]


SIZE = _HEADER.size
assert SIZE == 64  # FORMAT.md section 4 says so
HEADER_MAX = SIZE + 4 * (LENGTH_MAX // GRANULE)


def header_size(length: int) -> int:
    """Bytes of the header of a frame whose payload has `length` bytes."""
    return SIZE + (4 * (-(-length // GRANULE)) + 7 & ~7)


def frame_size(length: int) -> int:
    """Bytes a frame takes in its segment: header, payload and padding."""
    return header_size(length) + (length + 7 & ~7)


def encode(
    kind: int,
    filesystem: int,
    segment: int,
    sequence: int,
    owner: int,
    position: int,
    payload: bytes | memoryview,
    previous: int,
) -> tuple[int, list[bytes | memoryview]]:
    """The frame as buffers to append, and its header's checksum (the next frame's `previous`)."""
    length = len(payload)
    assert length <= LENGTH_MAX, f"a payload of {length} bytes could never be read back"
    if length <= GRANULE:
        table: tuple[int, ...] = (crc32c(payload),) if length else ()
    else:
        view = memoryview(payload)
        table = tuple(crc32c(view[at : at + GRANULE]) for at in range(0, length, GRANULE))
    fixed = _HEADER.pack(
        0, VERSION, kind, 0, filesystem, segment, sequence, owner, position, length, previous, 0
    )
    rest = fixed[4:] + struct.pack(f"<{len(table)}I{4 * (len(table) % 2)}x", *table)
    checksum = crc32c(rest)
    padding = -length % ALIGNMENT
    header = _CHECKSUM.pack(checksum) + rest
    if padding:
        return checksum, [header, payload, bytes(padding)]
    return checksum, [header, payload]


def decode(buffer: bytes | bytearray | memoryview) -> FrameHeader:
    """The header at the start of `buffer`. Raises IntegrityError.

    `buffer` must hold the whole header; `header_size(peek_length(buffer))` tells how much that is.
    """
    if len(buffer) < SIZE:
        raise IntegrityError(f"frame header: {len(buffer)} bytes, expected at least {SIZE}")
    (checksum, version, kind, zero, filesystem, segment, sequence, owner, position, length,
     previous, zeros) = _HEADER.unpack_from(buffer)  # fmt: skip
    if length > LENGTH_MAX:
        raise IntegrityError(f"frame header: payload of {length} bytes, limit {LENGTH_MAX}")
    end = header_size(length)
    if len(buffer) < end:
        raise IntegrityError(f"frame header: {len(buffer)} bytes, expected {end}")
    if crc32c(memoryview(buffer)[4:end]) != checksum:
        raise IntegrityError("frame header: checksum does not match")
    if version != VERSION or kind not in _KINDS or zero or zeros:
        raise IntegrityError(f"frame header: version {version}, kind {kind}: not understood")
    count = -(-length // GRANULE)
    table = struct.unpack_from(f"<{count}I", buffer, SIZE)
    if count % 2 and any(buffer[end - 4 : end]):
        raise IntegrityError("frame header: padding is not zero")
    return FrameHeader(
        checksum, kind, filesystem, segment, sequence, owner, position, length, previous, table
    )


def peek_length(buffer: bytes | memoryview) -> int:
    """The unverified payload length in a header's first 64 bytes, for reading the rest of it.

    Raises IntegrityError if it is beyond the limit or `buffer` is too short.
    """
    if len(buffer) < SIZE:
        raise IntegrityError(f"frame header: {len(buffer)} bytes, expected at least {SIZE}")
    length = int(_CHECKSUM.unpack_from(buffer, 48)[0])
    if length > LENGTH_MAX:
        raise IntegrityError(f"frame header: payload of {length} bytes, limit {LENGTH_MAX}")
    return length


def verify(header: FrameHeader, payload: bytes | bytearray | memoryview, start: int = 0) -> None:
    """Check payload bytes against the header's table. Raises IntegrityError.

    `payload` begins at payload offset `start`, a multiple of 16 KiB, and ends at a multiple of
    16 KiB or at the payload's end.
    """
    end = start + len(payload)
    if start % GRANULE or end > header.length or (end % GRANULE and end != header.length):
        raise IntegrityError(f"frame payload: {start}..{end} of {header.length} cannot be verified")
    view = memoryview(payload)
    for at in range(0, len(payload), GRANULE):
        if crc32c(view[at : at + GRANULE]) != header.table[(start + at) // GRANULE]:
            raise IntegrityError(
                f"frame payload: checksum does not match in segment {header.segment}, "
                f"inode {header.owner}, file offset {header.position + start + at}"
            )
