"""Payloads of the journal's frames: SEGMENT, META, COMMIT (FORMAT.md section 5).

Each is one msgpack list of positional fields, unpacked only after the frame's checksums passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

import msgpack

from shmr.errors import IntegrityError
from shmr.format.rows import TRUTH, Row
from shmr.format.unpack import expect, unpack_list

_TRUTH_TABLES = frozenset(int(table) for table in TRUTH)
_KEY_MAX = 8 + 255


class Stream(IntEnum):
    """What a workspace segment is part of."""

    JOURNAL = 1
    DATA = 2
    SNAPSHOT = 3


class Opening(NamedTuple):
    """Payload of the SEGMENT frame: what this segment is and what it goes on from.

    `previous_segment`, `previous_end` and `previous_chain` are, in a journal, the segment before,
    the offset behind the last frame that counts there, and that frame's header checksum;
    0, 0, 0 in the first segment of a journal and in other streams. `filesystem` is the id, 16
    bytes. `size_bytes` is what was claimed.
    """

    filesystem: bytes
    stream: int
    size_bytes: int
    created_ns: int
    previous_segment: int
    previous_end: int
    previous_chain: int

    def encode(self) -> bytes:
        return bytes(msgpack.packb(self))


def decode_opening(payload: bytes | memoryview) -> Opening:
    fields = unpack_list(payload, "SEGMENT frame")
    expect(list(map(type, fields)) == [bytes] + [int] * 6, "SEGMENT frame")
    opening = Opening(*fields)
    expect(
        len(opening.filesystem) == 16 and opening.stream in set(Stream) and min(fields[1:]) >= 0,
        "SEGMENT frame",
    )
    return opening


class Drop(NamedTuple):
    """One row for a long deletion: all extents of `inode` that begin in [start, end) go."""

    inode: int
    start: int
    end: int


class Meta(NamedTuple):
    """Payload of a META frame. Drops are applied before rows."""

    drops: tuple[Drop, ...]
    rows: tuple[Row, ...]


def encode_meta(drops: Iterable[Drop], rows: Iterable[Row]) -> bytes:
    return bytes(msgpack.packb((tuple(drops), tuple(rows))))


def decode_meta(payload: bytes | memoryview) -> Meta:
    """Raises IntegrityError; rows of derived tables are refused, as are keys beyond the limit."""
    fields = unpack_list(payload, "META frame")
    expect(len(fields) == 2 and type(fields[0]) is list and type(fields[1]) is list, "META frame")
    drops = []
    for drop in fields[0]:
        expect(type(drop) is list and list(map(type, drop)) == [int] * 3, "META drop")
        expect(drop[0] >= 0 and 0 <= drop[1] <= drop[2], "META drop")
        drops.append(Drop(*drop))
    rows = []
    for row in fields[1]:
        if type(row) is not list or len(row) != 3:
            raise IntegrityError("META row: expected three fields")
        table, key, value = row
        expect(type(table) is int and table in _TRUTH_TABLES, "META row")
        expect(type(key) is bytes and 0 < len(key) <= _KEY_MAX, "META row")
        expect(value is None or type(value) is bytes, "META row")
        rows.append(Row(table, key, value))
    return Meta(tuple(drops), tuple(rows))


class SegmentEnd(NamedTuple):
    """How far a segment reaches.

    `end` is the offset behind its last frame, `chain` that frame's header checksum.
    """

    segment: int
    end: int
    chain: int


class DataEnd(NamedTuple):
    """How far a data segment reached when a batch was committed, and how much of it was synced.

    `durable_end` and `durable_chain` say the same of the part that was known durable then: only
    what lies behind it has to be read to know whether the batch is whole. 0, 0 for nothing.
    """

    segment: int
    end: int
    chain: int
    durable_end: int
    durable_chain: int

    @property
    def reached(self) -> SegmentEnd:
        return SegmentEnd(self.segment, self.end, self.chain)

    @property
    def durable(self) -> SegmentEnd | None:
        if not self.durable_end:
            return None
        return SegmentEnd(self.segment, self.durable_end, self.durable_chain)


class Commit(NamedTuple):
    """Payload of a COMMIT frame.

    `durable_seq` is the sequence below which every frame was known synced when this was written;
    `next_segment` the lowest number no segment had yet; `ends` the data segments the batch
    touched.
    """

    durable_seq: int
    next_segment: int
    time_ns: int
    ends: tuple[DataEnd, ...]

    def encode(self) -> bytes:
        return bytes(msgpack.packb(self))


def decode_commit(payload: bytes | memoryview) -> Commit:
    fields = unpack_list(payload, "COMMIT frame")
    expect(list(map(type, fields)) == [int, int, int, list] and min(fields[:3]) >= 0, "COMMIT")
    ends = []
    for end in fields[3]:
        expect(type(end) is list and list(map(type, end)) == [int] * 5 and min(end) >= 0, "COMMIT")
        expect(end[3] <= end[1], "COMMIT")
        ends.append(DataEnd(*end))
    return Commit(fields[0], fields[1], fields[2], tuple(ends))


def snapshot_end(place: Sequence[int]) -> bytes:
    """Payload of the COMMIT that ends a snapshot: the journal's place it holds everything up to."""
    return bytes(msgpack.packb(tuple(place)))
