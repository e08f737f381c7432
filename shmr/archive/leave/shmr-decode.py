#!/usr/bin/env python3
"""Lists the files of a shmr archive, and copies them out: with Python alone, 3.8 or newer.

    python3 shmr-decode.py --drives /mnt/a /mnt/b /mnt/c --list
    python3 shmr-decode.py --drives /mnt/a /mnt/b /mnt/c --to /tmp/found --path /photos/2020
    python3 shmr-decode.py --drives /mnt/a /mnt/b /mnt/c --to /tmp/found

This file lies on every archive drive of a shmr filesystem, for the day when shmr itself cannot be
had. It needs nothing but itself and the drives, and only reads them. FORMAT.md beside it describes
all bytes; the numbers of sections below are those of that page. What happens, in the order of this
file:

1.  Checksums (CRC-32C), and the few kinds of msgpack that shmr writes.
2.  Drives: directories with files in them. A *superblock* says who a drive is.
3.  Frames: checksummed entries, of which snapshots, journals and data segments consist.
4.  Rows: a *snapshot* is the whole directory tree, and where each byte of each file is. The newest
    one that is whole counts. Where drives of the workspace are given too, the journal goes on from
    there.
5.  Fragments: files of archive drives that hold the bytes of files, in units that each have a
    SHA-256. One file's bytes mostly lie in one fragment, as they are: no decoding is needed.
6.  The bytes of a file, from fragments, and from data segments if workspace drives are given.
7.  The tree: of a snapshot; or, if there is none, nothing but the numbers that the fragments name.
8.  Copying out, and never anywhere but below the directory that was named.
9.  Listing, the command line.

What cannot be read is said, with the drive that would be needed. A file of which some bytes are
missing is written as NAME.shmr-incomplete, with a hole for each missing range; one of which nothing
can be read is not written. What is missing can often be computed from *parity*, the other fragments
of the same segment: `shmr-fsck decode` of shmr does that, this file does not. What is there already
is passed over, so that a second run goes on.

Nothing that is read is trusted: a checksum shows an accident, not a forger. Names that would lead
elsewhere are refused, links are never followed, no device, fifo or socket is made, no file gets a
suid bit, and every length is checked before it is believed. Rows are kept in memory: about 0.5 GB
for a million files.

Exit codes: 0 everything that was wanted is there; 4 something is missing; 8 it could not run.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import re
import stat
import struct
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIGNED_MAX = 2**63 - 1
EXIT_WHOLE, EXIT_MISSING, EXIT_FAILED = 0, 4, 8


class Damaged(Exception):
    """Bytes are not what they should be, or cannot be read."""


class CannotRun(Exception):
    """Nothing can be done; the message says why."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Damaged(what)


def note(text: str) -> None:
    """Something for people, beside the listing."""
    print(text, file=sys.stderr)


def shown(name: bytes) -> str:
    """A name as it can be printed: a terminal obeys some bytes, and none of those get there."""
    text = name.decode("utf-8", "backslashreplace")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text
    )


# -- 1. Checksums and msgpack ---------------------------------------------------------------------

# CRC-32C (Castagnoli; RFC 3720, appendix B.4), bits reflected. Byte for byte:
#     state = TABLE[(state ^ byte) & 255] ^ (state >> 8)
# Python does some 5 MB a second that way. But a checksum is linear, so a long content is cut into
# lanes of 64 bytes; all lanes advance together, a byte each, through operations on whole byte
# strings, and their results are joined at the end. That is some 50 MB a second.

LANE = 64


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        state = byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
        table.append(state)
    return table


CRC_TABLE = _crc_table()
CRC_PLANES = [bytes((one >> 8 * plane) & 255 for one in CRC_TABLE) for plane in range(4)]
"""The same table, split into the four bytes of its numbers."""


def _after_a_lane_of_zeros() -> list[list[int]]:
    """What becomes of a state with one byte that is not zero, by place and value of that byte."""
    tables = []
    for plane in range(4):
        column = []
        for byte in range(256):
            state = byte << 8 * plane
            for _ in range(LANE):
                state = CRC_TABLE[state & 255] ^ (state >> 8)
            column.append(state)
        tables.append(column)
    return tables


LANE_TABLES: list[list[int]] = []


def crc32c(content: bytes) -> int:
    state = 0xFFFFFFFF
    lanes = len(content) // LANE if len(content) >= 32 * LANE else 0
    end = lanes * LANE
    if lanes:
        if not LANE_TABLES:
            LANE_TABLES.extend(_after_a_lane_of_zeros())
        # Byte n of `a` is the lowest byte of lane n's state, that of `d` the highest.
        a = b = c = d = 0
        for at in range(LANE):
            column = int.from_bytes(content[at:end:LANE], "little")
            index = (column ^ a).to_bytes(lanes, "little")
            a = int.from_bytes(index.translate(CRC_PLANES[0]), "little") ^ b
            b = int.from_bytes(index.translate(CRC_PLANES[1]), "little") ^ c
            c = int.from_bytes(index.translate(CRC_PLANES[2]), "little") ^ d
            d = int.from_bytes(index.translate(CRC_PLANES[3]), "little")
        first, second, third, fourth = LANE_TABLES
        states = bytearray(4 * lanes)
        for place, plane in enumerate((a, b, c, d)):
            states[place::4] = plane.to_bytes(lanes, "little")
        for (lane,) in struct.iter_unpack("<I", states):
            state = (
                first[state & 255]
                ^ second[state >> 8 & 255]
                ^ third[state >> 16 & 255]
                ^ fourth[state >> 24]
                ^ lane
            )
    for byte in content[end:]:
        state = CRC_TABLE[(state ^ byte) & 255] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


# msgpack: the first byte of a value says what it is.
NUMBERS = {
    0xCC: (1, False), 0xCD: (2, False), 0xCE: (4, False), 0xCF: (8, False),
    0xD0: (1, True), 0xD1: (2, True), 0xD2: (4, True), 0xD3: (8, True),
}  # fmt: skip
BYTE_STRINGS = {0xC4: 1, 0xC5: 2, 0xC6: 4}
ARRAYS = {0xDC: 2, 0xDD: 4}
NIL = 0xC0
DEPTH_MAX = 8


def unpack(content: bytes) -> list[Any]:
    """The array that `content` is, of nil, integers, byte strings and arrays. Raises Damaged."""
    at, size = 0, len(content)
    top: list[Any] = []
    current, wanted = top, 1  # the array that is being filled, and how long it will be
    above: list[tuple[list[Any], int]] = []
    while True:
        while len(current) == wanted:
            if not above:
                require(at == size and type(top[0]) is list, "msgpack: not one array")
                found: list[Any] = top[0]
                return found
            current, wanted = above.pop()
        if at >= size:
            raise Damaged("msgpack: ends too early")
        tag = content[at]
        at += 1
        if tag < 0x80:
            current.append(tag)
        elif tag in NUMBERS:
            width, signed = NUMBERS[tag]
            require(at + width <= size, "msgpack: ends too early")
            current.append(int.from_bytes(content[at : at + width], "big", signed=signed))
            at += width
        elif tag in BYTE_STRINGS:
            width = BYTE_STRINGS[tag]
            start = at + width
            at = start + int.from_bytes(content[at:start], "big")
            require(at <= size, "msgpack: ends too early")
            current.append(content[start:at])
        elif 0x90 <= tag <= 0x9F or tag in ARRAYS:
            width = ARRAYS.get(tag, 0)
            count = int.from_bytes(content[at : at + width], "big") if width else tag & 15
            at += width
            # Each element has a byte at least: nobody makes us wait for more than there are.
            require(count <= size - at and len(above) < DEPTH_MAX, "msgpack: out of limits")
            inner: list[Any] = []
            current.append(inner)
            above.append((current, wanted))
            current, wanted = inner, count
        elif tag == NIL:
            current.append(None)
        elif tag >= 0xE0:
            current.append(tag - 256)
        else:
            raise Damaged("msgpack: a kind of value that shmr does not write")


def fields_of(content: bytes, types: str, what: str) -> list[Any]:
    """An array whose fields have these types: i a number that is not negative, s any number,
    b bytes, a an array. Raises Damaged."""
    fields = unpack(content)
    require(len(fields) == len(types), f"{what}: {len(fields)} fields")
    for field, wanted in zip(fields, types):  # noqa: B905
        if wanted == "i":
            require(type(field) is int and field >= 0, f"{what}: expected a number")
        else:
            kind = {"s": int, "b": bytes, "a": list}[wanted]
            require(type(field) is kind, f"{what}: a field is not of its type")
    return fields


# -- 2. Drives ------------------------------------------------------------------------------------

ID = 16  # bytes of an id: of a filesystem, a pool, a drive
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
SUPERBLOCK = re.compile(r"superblock-\d{6,}")
SEGMENT = re.compile(r"(journal|data|snapshot)-(\d{12,18})")
FRAGMENT = re.compile(r"fragment-(\d{12,18})-(\d{2})-\d{6,}")


class Superblock(NamedTuple):
    """Who a drive is (section 3)."""

    filesystem: bytes
    filesystem_name: bytes
    pool: bytes
    pool_name: bytes
    drive: bytes
    generation: int
    members: list[bytes]


class Drive:
    """A directory that was given. Only regular files in it exist for us, links are not followed."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.names = sorted(os.listdir(self._fd))
        except OSError as error:
            raise CannotRun(f"{path}: {error.strerror}") from error
        self.superblock = self._superblock()

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Exactly these bytes of a file. Raises Damaged."""
        where = f"{self.path}/{name}"
        try:
            fd = os.open(name, READ_FLAGS, dir_fd=self._fd)
            try:
                require(stat.S_ISREG(os.fstat(fd).st_mode), f"{where}: not a regular file")
                parts = []
                while length > 0:
                    part = os.pread(fd, length, offset)
                    require(bool(part), f"{where}: ends at {offset}, too early")
                    parts.append(part)
                    offset += len(part)
                    length -= len(part)
                return parts[0] if len(parts) == 1 else b"".join(parts)
            finally:
                os.close(fd)
        except (OSError, OverflowError) as error:
            raise Damaged(f"{where}: {error}") from error

    def size(self, name: str) -> int:
        """Raises Damaged."""
        try:
            facts = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError as error:
            raise Damaged(f"{self.path}/{name}: {error.strerror}") from error
        require(stat.S_ISREG(facts.st_mode), f"{self.path}/{name}: not a regular file")
        return facts.st_size

    def _superblock(self) -> Superblock | None:
        """The one of the highest generation that verifies; None without any."""
        for name in sorted(filter(SUPERBLOCK.fullmatch, self.names), reverse=True):
            try:
                return decode_superblock(self.read(name, 0, min(self.size(name), 64 * KIB)))
            except Damaged as error:
                note(f"{self.path}: {error}")
        return None


def decode_superblock(content: bytes) -> Superblock:
    # offset 0   magic "shmrdrv1"
    #        8   checksum: CRC-32C of everything from 12 to the end
    #        12  length of the payload     16  version     20  zero     24  payload
    require(len(content) >= 24, "superblock: too short")
    magic, checksum, length, version, _ = struct.unpack_from("<8sIIII", content)
    require(magic == b"shmrdrv1" and version == 1, "superblock: of another format")
    require(24 + length <= len(content), "superblock: too short")
    require(crc32c(content[12 : 24 + length]) == checksum, "superblock: checksum does not match")
    # filesystem, its name, pool, its name, drive, generation, three of feature bits, created_ns,
    # the drives of the pool
    fields = fields_of(content[24 : 24 + length], "bbbbbiiiiia", "superblock")
    members = fields[10]
    ids = (fields[0], fields[2], fields[4], *members)
    require(all(type(one) is bytes and len(one) == ID for one in ids), "superblock: an id")
    filesystem, its_name, pool, pool_name, drive, generation, _, _, incompatible = fields[:9]
    if incompatible:
        note("a newer version of shmr wrote this drive: what follows may be wrong, or missing")
    return Superblock(filesystem, its_name, pool, pool_name, drive, generation, members)


# -- 3. Frames ------------------------------------------------------------------------------------

GRANULE = 16 * KIB  # what one checksum of a payload covers
PAYLOAD_MAX = 2 * MIB
KIND_SEGMENT, KIND_DATA, KIND_META, KIND_COMMIT = 1, 2, 3, 4


class File(NamedTuple):
    """A file on a drive."""

    drive: Drive
    name: str

    def read(self, offset: int, length: int) -> bytes:
        return self.drive.read(self.name, offset, length)


class Frame(NamedTuple):
    """The header of a frame that verified, and where it stands (section 4)."""

    at: int
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

    @property
    def payload_at(self) -> int:
        return self.at + header_size(self.length)

    @property
    def end(self) -> int:
        """Where the next frame begins: at a multiple of 8."""
        return self.payload_at + (self.length + 7) // 8 * 8


def header_size(length: int) -> int:
    """64 bytes, a checksum for each granule of the payload, zeros up to a multiple of 8."""
    return 64 + (4 * -(-length // GRANULE) + 7) // 8 * 8


def frame_at(file: File, at: int) -> Frame:
    """The frame that begins at this offset. Raises Damaged."""
    where = f"{file.drive.path}/{file.name}, frame at {at}"
    content = file.read(at, 64)
    # offset 0   checksum: CRC-32C of the header from 4 to its end, the table included
    #        4   version     5  kind     6  zero
    #        8   filesystem: the first 8 bytes of its id, as a number
    #        16  segment     24  sequence, one more than the frame before
    #        32  owner: the inode     40  position: offset in the file (both only of DATA)
    #        48  length of the payload     52  previous: checksum of the header before
    #        56  zero     64  table: CRC-32C of each granule of the payload
    (checksum, version, kind, zero, filesystem, segment, sequence, owner, position, length,
     previous, zeros) = struct.unpack("<IBBHQQQQQIIQ", content)  # fmt: skip
    require(length <= PAYLOAD_MAX, f"{where}: too long")
    content = file.read(at, header_size(length))
    require(crc32c(content[4:]) == checksum, f"{where}: checksum does not match")
    require(version == 1 and not zero and not zeros, f"{where}: of another format")
    table = struct.unpack_from(f"<{-(-length // GRANULE)}I", content, 64)
    return Frame(
        at, checksum, kind, filesystem, segment, sequence, owner, position, length, previous, table
    )


def payload_of(file: File, frame: Frame, start: int = 0, end: int = PAYLOAD_MAX) -> bytes:
    """Bytes [start, end) of a frame's payload, verified. Raises Damaged."""
    end = min(end, frame.length)
    low = start // GRANULE * GRANULE
    high = min(frame.length, -(-end // GRANULE) * GRANULE)
    content = file.read(frame.payload_at + low, high - low)
    for at in range(low, high, GRANULE):
        part = content[at - low : at - low + GRANULE]
        if crc32c(part) != frame.table[at // GRANULE]:
            raise Damaged(
                f"{file.drive.path}/{file.name}, frame at {frame.at}: checksum does not match"
            )
    return content[start - low : end - low]


class Opening(NamedTuple):
    """The first frame of a segment: what this is, and what it goes on from (section 5)."""

    frame: Frame
    filesystem: bytes
    stream: int
    created_ns: int
    previous_segment: int
    previous_end: int
    previous_chain: int


def opening_of(file: File, number: int) -> Opening:
    """Raises Damaged."""
    frame = frame_at(file, 0)
    require((frame.kind, frame.segment) == (KIND_SEGMENT, number), "not the segment of its name")
    # filesystem, stream, size_bytes, created_ns, previous_segment, previous_end, previous_chain
    fields = fields_of(payload_of(file, frame), "biiiiii", "SEGMENT frame")
    filesystem = fields[0]
    require(len(filesystem) == ID, "SEGMENT frame: an id")
    require(int.from_bytes(filesystem[:8], "little") == frame.filesystem, "SEGMENT frame: an id")
    require(fields[6] == frame.previous, "SEGMENT frame: what it goes on from")
    return Opening(frame, filesystem, fields[1], *fields[3:])


class Place(NamedTuple):
    """A point between two frames: `end` is its offset, `sequence` that of the frame behind it."""

    segment: int
    end: int
    sequence: int
    chain: int


def frames_from(
    copies: list[File], filesystem: bytes, place: Place
) -> Iterator[tuple[Frame, bytes]]:
    """Frames that follow `place` in its segment, each chained to the one before; ends where none
    does. `copies` are files that should be alike: each frame is taken from one where it is whole.
    """
    short = int.from_bytes(filesystem[:8], "little")
    at, sequence, chain = place.end, place.sequence, place.chain
    wanted = (short, place.segment)
    while True:
        for copy in copies:
            try:
                frame = frame_at(copy, at)
                links = (frame.filesystem, frame.segment) == wanted
                if links and (frame.sequence, frame.previous) == (sequence, chain):
                    found = frame, payload_of(copy, frame)
                    break
            except Damaged:
                continue
        else:
            return
        yield found
        at, sequence, chain = frame.end, sequence + 1, frame.checksum


# -- 4. Rows --------------------------------------------------------------------------------------

# Tables of the catalog that are read here (section 6). Keys are big-endian, so that they sort.
INODE, DENTRY, EXTENT, XATTR, ARCHIVE = 1, 2, 3, 4, 8
TABLES = (INODE, DENTRY, EXTENT, XATTR, ARCHIVE)
KEY_MAX = 8 + 255


class Rows:
    """All rows: for each table the keys in their order, and the values beside them."""

    def __init__(self) -> None:
        self._keys: dict[int, list[bytes]] = {table: [] for table in TABLES}
        self._values: dict[int, list[bytes]] = {table: [] for table in TABLES}
        self._changed: dict[tuple[int, bytes], bytes | None] = {}

    def load(self, payload: bytes) -> None:
        """The rows of a META frame of a snapshot. Raises Damaged."""
        for table, key, value in rows_of(payload)[1]:
            if value is not None:
                self._keys[table].append(key)
                self._values[table].append(value)

    def change(self, payload: bytes) -> None:
        """A META frame of the journal: ranges of extents that go, and new values of rows."""
        drops, rows = rows_of(payload)
        for inode, start, end in drops:
            first, last = struct.pack(">QQ", inode, start), struct.pack(">QQ", inode, end)
            keys = self._keys[EXTENT]
            gone = keys[bisect_left(keys, first) : bisect_left(keys, last)]
            gone += [key for table, key in self._changed if table == EXTENT and first <= key < last]
            self._changed.update(((EXTENT, key), None) for key in gone)
        for table, key, value in rows:
            self._changed[table, key] = value

    def sort(self) -> None:
        """After the last `load`: snapshots are written in this order, but do not have to be."""
        for table in TABLES:
            keys, values = self._keys[table], self._values[table]
            if any(keys[at] >= keys[at + 1] for at in range(len(keys) - 1)):
                self._order(table, dict(zip(keys, values)))  # noqa: B905

    def _order(self, table: int, rows: dict[bytes, bytes]) -> None:
        self._keys[table] = sorted(rows)
        self._values[table] = [rows[key] for key in self._keys[table]]

    def settle(self) -> None:
        """After the last `change`: what was changed takes its place among the others."""
        for table in {table for table, _ in self._changed}:
            latest = dict(zip(self._keys[table], self._values[table]))  # noqa: B905
            for (of, key), value in self._changed.items():
                if of == table and value is not None:
                    latest[key] = value
                elif of == table:
                    latest.pop(key, None)
            self._order(table, latest)
        self._changed.clear()

    def get(self, table: int, key: bytes) -> bytes | None:
        keys = self._keys[table]
        at = bisect_left(keys, key)
        return self._values[table][at] if at < len(keys) and keys[at] == key else None

    def of(self, table: int, number: int) -> Iterator[tuple[bytes, bytes]]:
        """All rows whose key begins with this number: the rest of the key, and the value."""
        prefix = struct.pack(">Q", number)
        keys = self._keys[table]
        for at in range(bisect_left(keys, prefix), len(keys)):
            if not keys[at].startswith(prefix):
                return
            yield keys[at][8:], self._values[table][at]


def rows_of(
    payload: bytes,
) -> tuple[list[tuple[int, int, int]], list[tuple[int, bytes, bytes | None]]]:
    """The drops and rows of a META frame (section 5). Raises Damaged."""
    drops, found = fields_of(payload, "aa", "META frame")
    for drop in drops:
        require(type(drop) is list and len(drop) == 3, "META frame: a drop")
        require(all(type(n) is int and 0 <= n < 2**64 for n in drop), "META frame: a drop")
    rows = []
    for row in found:
        require(type(row) is list and len(row) == 3, "META frame: a row")
        table, key, value = row
        if table in TABLES:
            require(type(key) is bytes and 8 <= len(key) <= KEY_MAX, "META frame: a key")
            require(value is None or type(value) is bytes, "META frame: a value")
            rows.append((table, key, value))
    return drops, rows


def read_snapshot(
    snapshots: dict[int, list[File]], chain: list[int], filesystem: bytes
) -> tuple[Rows, Place, int]:
    """The rows of a snapshot that takes these segments, the place in the journal up to which they
    hold everything, and when it was begun. Raises Damaged unless all of it is there."""
    rows = Rows()
    created_ns = 0
    reached: Place | None = None
    for number in chain:
        opened = opening_in(snapshots[number], number, filesystem)
        created_ns = created_ns or opened.created_ns
        if reached is not None:
            links = (opened.previous_end, opened.previous_chain) == (reached.end, reached.chain)
            require(links, f"snapshot {number}: does not go on from the one before")
        first = opened.frame
        reached = Place(number, first.end, first.sequence + 1, first.checksum)
        for frame, payload in frames_from(snapshots[number], filesystem, reached):
            if frame.kind == KIND_COMMIT:
                # segment, frame, end, sequence, chain
                fields = fields_of(payload, "iiiii", "end of the snapshot")
                rows.sort()
                return rows, Place(fields[0], *fields[2:]), created_ns
            rows.load(payload)
            reached = Place(number, frame.end, frame.sequence + 1, frame.checksum)
    raise Damaged(f"snapshot {chain[0]}: its end is missing")


def opening_in(copies: list[File], number: int, filesystem: bytes) -> Opening:
    """From the first copy where it verifies. Raises Damaged."""
    problem = Damaged(f"segment {number}: of another filesystem")
    for copy in copies:
        try:
            found = opening_of(copy, number)
            if found.filesystem == filesystem:
                return found
        except Damaged as error:
            problem = error
    raise problem


def chains_of(segments: dict[int, list[File]], filesystem: bytes) -> dict[int, list[int]]:
    """Segments that go on from each other, by the first of each row of them."""
    following: dict[int, int] = {}
    firsts = []
    for number in sorted(segments):
        try:
            before = opening_in(segments[number], number, filesystem).previous_segment
        except Damaged as error:
            note(f"left out: {error}")
            continue
        if before:
            following[before] = number  # of two that go on from one, the later is right
        else:
            firsts.append(number)
    chains = {}
    for first in firsts:
        chain = [first]
        while following.get(chain[-1], 0) > chain[-1]:
            chain.append(following[chain[-1]])
        chains[first] = chain
    return chains


def newest_rows(
    snapshots: dict[int, list[File]], journals: dict[int, list[File]], filesystem: bytes
) -> Rows | None:
    """The tree as of the newest whole snapshot, and of the journal behind it if that is there."""
    chains = chains_of(snapshots, filesystem)
    for first in sorted(chains, reverse=True):
        try:
            rows, place, created_ns = read_snapshot(snapshots, chains[first], filesystem)
        except Damaged as error:
            note(f"snapshot {first} cannot be used: {error}")
            continue
        batches = replay(rows, journals, place, filesystem)
        rows.settle()
        if batches is None:
            note(
                f"the tree is that of {moment(created_ns)}; what was changed later is not known "
                "to these drives"
            )
        else:
            note(f"a snapshot of {moment(created_ns)}, and {batches} commits of the journal since")
        return rows
    return None


def replay(
    rows: Rows, journals: dict[int, list[File]], place: Place, filesystem: bytes
) -> int | None:
    """What the journal says behind `place` is applied; how many batches, or None without it.

    A batch counts when its COMMIT is there. So the tail that a crash cut off is left out.
    """
    if place.segment not in journals:
        return None
    following: dict[int, Opening] = {}
    for number in sorted(journals):
        try:
            opened = opening_in(journals[number], number, filesystem)
        except Damaged:
            continue  # claimed ahead, and nothing was written into it yet
        following[opened.previous_segment] = opened
    batch: list[bytes] = []
    batches = 0
    while True:
        after = following.get(place.segment)
        # Where a recovery cut the journal, what stands behind the cut does not count.
        limit = SIGNED_MAX if after is None else after.previous_end
        for frame, payload in frames_from(journals[place.segment], filesystem, place):
            if frame.at >= limit:
                break
            if frame.kind == KIND_META:
                batch.append(payload)
            elif frame.kind == KIND_COMMIT:
                try:
                    for one in batch:
                        rows.change(one)
                except Damaged as error:
                    note(f"journal {place.segment} cannot be read behind {place.end}: {error}")
                    return batches
                batch, batches = [], batches + 1
            place = Place(place.segment, frame.end, frame.sequence + 1, frame.checksum)
        if after is None or after.frame.segment <= place.segment:
            break
        if (after.previous_end, after.previous_chain) != (place.end, place.chain):
            note(f"journal {place.segment} is damaged: what it says behind {place.end} is lost")
            break
        first = after.frame
        place = Place(first.segment, first.end, first.sequence + 1, first.checksum)
    return batches


# -- 5. Fragments ---------------------------------------------------------------------------------

BLOCK = 4 * KIB  # every part of a fragment begins and ends at a multiple of this
UNIT_MAX = 2 * MIB
FRAGMENT_MAX = 4 * GIB
EXTENTS_MAX = 1 << 20
WIDTH_MAX = 32
DIGEST, SUM = 32, 16  # a SHA-256, and the part of one that a unit has


class Header(NamedTuple):
    """What a fragment is, and where it was found (section 13).

    A segment has k + m fragments. Its bytes have addresses that run along fragment 0, then along
    fragment 1, and so on up to k - 1; the other m are parity. With k = 1 all of them are alike.
    """

    file: File
    filesystem: bytes
    segment: int
    generation: int
    fragment: int
    k: int
    m: int
    unit_bytes: int
    data_bytes: int
    used_bytes: int
    extents: int
    created_ns: int
    drives: list[bytes]

    @property
    def shape(self) -> Shape:
        return Shape(self.k, self.unit_bytes, self.data_bytes, self.used_bytes)

    @property
    def table_at(self) -> int:
        return BLOCK + self.data_bytes

    @property
    def footer_at(self) -> int:
        return self.table_at + blocks(32 * self.extents)

    @property
    def footer_bytes(self) -> int:
        return blocks(BLOCK + DIGEST + SUM * self.shape.units + 8 + DIGEST)


class Shape(NamedTuple):
    """How the bytes of a segment lie in its fragments."""

    k: int
    unit_bytes: int
    data_bytes: int
    used_bytes: int

    @property
    def units(self) -> int:
        return -(-self.data_bytes // self.unit_bytes)

    def unit_size(self, unit: int) -> int:
        """The last unit of a fragment may be shorter."""
        return min(self.unit_bytes, self.data_bytes - unit * self.unit_bytes)

    def is_possible(self) -> bool:
        return (
            0 < self.k <= WIDTH_MAX
            and 0 < self.unit_bytes <= UNIT_MAX
            and self.unit_bytes % BLOCK == 0
            and 0 < self.data_bytes <= FRAGMENT_MAX
            and self.data_bytes % BLOCK == 0
            and 0 < self.used_bytes <= self.k * self.data_bytes
        )


def blocks(size: int) -> int:
    """A size, up to a multiple of 4 KiB."""
    return -(-size // BLOCK) * BLOCK


def decode_header(content: bytes, file: File) -> Header:
    """The header that `content` begins with. Raises Damaged."""
    where = f"{file.drive.path}/{file.name}"
    content = content[:BLOCK]
    require(len(content) == BLOCK and content[:8] == b"shmrfrag", f"{where}: not a fragment")
    # The last 32 bytes are the SHA-256 of those before.
    digest = hashlib.sha256(content[:-DIGEST]).digest()
    require(digest == content[-DIGEST:], f"{where}: the header's checksum does not match")
    # offset 8   version     12  unit_bytes     16  filesystem     32  segment
    #        40  generation     44  fragment     45  k     46  m     47  code     48  extents
    #        52  zero     56  data_bytes     64  used_bytes     72  length     80  created_ns
    #        88  drives: the ids of k + m drives
    (version, unit_bytes, filesystem, segment, generation, fragment, k, m, _, extents, _,
     data_bytes, used_bytes, length, created_ns) = struct.unpack_from(
        "<II16sQI4BIIQQQQ", content, 8)  # fmt: skip
    require(version == 1, f"{where}: version {version}, this program reads 1")
    require(k + m <= WIDTH_MAX and fragment < k + m, f"{where}: fragment {fragment} of {k}+{m}")
    drives = [content[at : at + ID] for at in range(88, 88 + ID * (k + m), ID)]
    header = Header(
        file, filesystem, segment, generation, fragment, k, m, unit_bytes, data_bytes, used_bytes,
        extents, created_ns, drives,
    )  # fmt: skip
    require(header.shape.is_possible(), f"{where}: lengths are out of their limits")
    require(0 < extents <= EXTENTS_MAX, f"{where}: lengths are out of their limits")
    require(length == header.footer_at + header.footer_bytes, f"{where}: lengths do not agree")
    return header


def header_of(file: File) -> Header:
    """The header of a fragment; where it is damaged, the footer repeats it. Raises Damaged."""
    try:
        return decode_header(file.read(0, BLOCK), file)
    except Damaged:
        size = file.drive.size(file.name)
        require(size >= 3 * BLOCK, f"{file.drive.path}/{file.name}: not a fragment")
        # The last 40 bytes: how long the footer is, and its SHA-256.
        footer_bytes = int.from_bytes(file.read(size - 40, 8), "little")
        require(2 * BLOCK <= footer_bytes <= size - BLOCK, f"{file.drive.path}/{file.name}: torn")
        return decode_header(file.read(size - footer_bytes, BLOCK), file)


class Footer(NamedTuple):
    """The SHA-256 of a fragment's table, and for each unit the first 16 bytes of its own."""

    table_digest: bytes
    sums: bytes


def footer_of(header: Header) -> Footer:
    """What ends a fragment, and shows that it is complete. Raises Damaged."""
    where = f"{header.file.drive.path}/{header.file.name}"
    content = header.file.read(header.footer_at, header.footer_bytes)
    digest = hashlib.sha256(content[:-DIGEST]).digest()
    require(digest == content[-DIGEST:], f"{where}: the footer's checksum does not match")
    # offset 0     the header once more
    #        4096  SHA-256 of the table     4128  16 bytes for each unit, then zeros
    again = decode_header(content, header.file)
    require(again == header, f"{where}: header and footer do not agree")
    end = BLOCK + DIGEST + SUM * header.shape.units
    return Footer(content[BLOCK : BLOCK + DIGEST], content[BLOCK + DIGEST : end])


def table_of(header: Header) -> Iterator[tuple[int, int, int, int]]:
    """The extents of the whole segment: inode, offset in the file, length, address in the segment.

    Raises Damaged.
    """
    where = f"{header.file.drive.path}/{header.file.name}"
    content = header.file.read(header.table_at, header.footer_at - header.table_at)
    digest = hashlib.sha256(content).digest()
    require(digest == footer_of(header).table_digest, f"{where}: the table does not match")
    for inode, offset, length, address in struct.iter_unpack("<4Q", content[: 32 * header.extents]):
        require(length > 0 and address + length <= header.used_bytes, f"{where}: the table")
        require(0 < inode <= SIGNED_MAX and offset + length <= SIGNED_MAX, f"{where}: the table")
        yield inode, offset, length, address


# -- 6. The bytes of files ------------------------------------------------------------------------


class Archived(NamedTuple):
    """What the catalog says of an archived segment (section 6, table ARCHIVE)."""

    shape: Shape
    pool: bytes
    placed: list[tuple[bytes, int]]
    """The drive of each fragment, and its generation: how often it was written anew."""


def decode_archived(value: bytes) -> Archived:
    """Raises Damaged."""
    # pool, k, m, code, unit_bytes, data_bytes, used_bytes, extents, created_ns, fragments
    fields = fields_of(value, "biiiiiiiia", "archived segment")
    pool, k, m, _, unit_bytes, data_bytes, used_bytes = fields[:7]
    shape = Shape(k, unit_bytes, data_bytes, used_bytes)
    placed = [tuple(one) if type(one) is list else () for one in fields[9]]
    right = all(list(map(type, one)) == [bytes, int] for one in placed)
    require(right and len(placed) == k + m and shape.is_possible(), "archived segment: its fields")
    return Archived(shape, pool, placed)


class Piece(NamedTuple):
    """Some bytes of a file; or why they are not there, and which drive would have them."""

    offset: int
    length: int
    content: bytes | None
    reason: str = ""
    drive: bytes = b""


KEPT_BYTES = 32 * MIB


class Store:
    """Everything that lies on the drives, and the bytes of segments."""

    def __init__(self, drives: list[Drive]) -> None:
        self.drives = drives
        self.filesystem = b""
        self.fragments: dict[tuple[int, int], list[File]] = {}
        """By segment and fragment. That is what their names say: where to look, and no more."""
        self.segments: dict[str, dict[int, list[File]]]
        self.segments = {"journal": {}, "data": {}, "snapshot": {}}
        self.pool_names: dict[bytes, str] = {}
        self._headers: dict[File, Header | None] = {}
        self._kept: dict[Any, Any] = {}
        """Footers and units that were read last, by fragment."""
        self._kept_bytes = 0
        for drive in drives:
            for name in drive.names:
                segment, fragment = SEGMENT.fullmatch(name), FRAGMENT.fullmatch(name)
                if segment:
                    numbered = self.segments[segment[1]].setdefault(int(segment[2]), [])
                    numbered.append(File(drive, name))
                elif fragment:
                    key = int(fragment[1]), int(fragment[2])
                    self.fragments.setdefault(key, []).append(File(drive, name))
        self._identify()

    def headers(self, segment: int, fragment: int) -> Iterator[Header]:
        """The headers of a fragment's files, of those that are what their names say."""
        for file in self.fragments.get((segment, fragment), ()):
            if file not in self._headers:
                self._headers[file] = None
                try:
                    header = header_of(file)
                    where = f"{file.drive.path}/{file.name}"
                    known = self.filesystem or header.filesystem
                    require(header.filesystem == known, f"{where}: of another filesystem")
                    right = (header.segment, header.fragment) == (segment, fragment)
                    require(right, f"{where}: is another fragment")
                    self._headers[file] = header
                except Damaged as error:
                    note(f"left out: {error}")
            found = self._headers[file]
            if found is not None:
                yield found

    def _identify(self) -> None:
        """Which filesystem this is: what the superblocks say, or the fragments without any."""
        blocks_found = [drive.superblock for drive in self.drives if drive.superblock]
        self.pool_names = {block.pool: shown(block.pool_name) for block in blocks_found}
        ids = {block.filesystem for block in blocks_found}
        if not ids:
            ids = {one.filesystem for key in self.fragments for one in self.headers(*key)}
        if len(ids) > 1:
            told = "".join(
                f"\n  {drive.path}: filesystem {shown(drive.superblock.filesystem_name)!r} "
                f"({drive.superblock.filesystem.hex()})"
                for drive in self.drives
                if drive.superblock
            )
            raise CannotRun(f"these drives are of {len(ids)} filesystems; give those of one:{told}")
        if not ids:
            raise CannotRun("nothing of shmr is on these drives: no superblock, and no fragment")
        self.filesystem = ids.pop()
        given = {block.drive for block in blocks_found}
        for pool, name in self.pool_names.items():
            blocks = [block for block in blocks_found if block.pool == pool]
            newest = max(blocks, key=lambda block: block.generation)
            absent = [one.hex() for one in newest.members if one not in given]
            for drive in self.drives:
                if drive.superblock in blocks:
                    note(f"{drive.path}: drive {drive.superblock.drive.hex()} of pool {name!r}")
            told = f"; not given: {', '.join(absent)}" if absent else ", all that it has"
            note(f"pool {name!r}: {len(blocks)} drives{told}")

    def label(self, drive: bytes) -> str:
        """How to call a drive: by its path if it was given, else by its id and its pool."""
        for one in self.drives:
            if one.superblock and one.superblock.drive == drive:
                return one.path
        for one in self.drives:
            if one.superblock and drive in one.superblock.members:
                return f"drive {drive.hex()} of pool {shown(one.superblock.pool_name)!r}"
        return f"drive {drive.hex()}"

    def archived(self, segment: int, row: Archived, at: int, length: int) -> Iterator[Piece]:
        """Bytes of an archived segment from address `at` on, in pieces from one unit each.

        The offsets of these pieces count from 0.
        """
        shape, done = row.shape, 0
        while done < length:
            index, within = divmod(at + done, shape.data_bytes)
            unit, skip = divmod(within, shape.unit_bytes)
            size = min(length - done, shape.unit_size(unit) - skip)
            try:
                content = self._unit(segment, row, index, unit)
                yield Piece(done, size, content[skip : skip + size])
            except Damaged as error:
                yield Piece(done, size, None, str(error), row.placed[index][0])
            done += size

    def absent(self, segment: int, row: Archived, at: int, length: int) -> Iterator[Piece]:
        """As `archived`, but without reading: only what no file that is there can have."""
        size, end = row.shape.data_bytes, min(at + length, row.shape.used_bytes)
        for index in range(at // size, (end - 1) // size + 1):
            if not any((segment, one) in self.fragments for one in self._indexes(row, index)):
                low, high = max(at, index * size), min(end, (index + 1) * size)
                yield Piece(low - at, high - low, None, "", row.placed[index][0])

    @staticmethod
    def _indexes(row: Archived, index: int) -> Sequence[int]:
        """Which fragments have the bytes of data fragment `index`: with k = 1 all are alike."""
        return range(len(row.placed)) if row.shape.k == 1 else (index,)

    def _unit(self, segment: int, row: Archived, index: int, unit: int) -> bytes:
        """One unit of a data fragment, verified, from any file that has it. Raises Damaged."""
        drive = row.placed[index][0]
        problem = f"fragment {index} of segment {segment} is needed, from {self.label(drive)}"
        # What a segment holds never changes: a fragment of any generation will do.
        for other in self._indexes(row, index):
            for header in self.headers(segment, other):
                if header.shape != row.shape:
                    continue
                try:
                    return self._unit_in(header, unit)
                except Damaged as error:
                    problem = str(error)
        raise Damaged(problem)

    def _unit_in(self, header: Header, unit: int) -> bytes:
        file = header.file
        kept: bytes | None = self._kept.get((file, unit))
        if kept is not None:
            return kept
        footer: Footer | None = self._kept.get(file)
        if footer is None:
            footer = footer_of(header)
            self._keep(file, footer, len(footer.sums))
        shape = header.shape
        content = file.read(BLOCK + unit * shape.unit_bytes, shape.unit_size(unit))
        digest = hashlib.sha256(content).digest()[:SUM]
        if digest != footer.sums[SUM * unit : SUM * (unit + 1)]:
            where = f"{file.drive.path}/{file.name}"
            raise Damaged(f"{where}: unit {unit} is damaged, its checksum does not match")
        self._keep((file, unit), content, len(content))
        return content

    def _keep(self, key: Any, value: Any, size: int) -> None:
        if self._kept_bytes + size > KEPT_BYTES:
            self._kept.clear()
            self._kept_bytes = 0
        self._kept[key] = value
        self._kept_bytes += size

    def in_workspace(self, inode: int, extent: Extent) -> bytes:
        """The bytes of an extent in a data segment of the workspace. Raises Damaged."""
        problem = f"it was only in the workspace, in data segment {extent.segment}"
        for file in self.segments["data"].get(extent.segment, ()):
            try:
                frame = frame_at(file, extent.frame)
                what = (frame.kind, frame.filesystem, frame.segment, frame.owner, frame.length)
                short = int.from_bytes(self.filesystem[:8], "little")
                wanted = (KIND_DATA, short, extent.segment, inode, extent.payload)
                there = frame.position + extent.skip == extent.offset
                require(what == wanted and there, f"{file.drive.path}/{file.name}: another frame")
                return payload_of(file, frame, extent.skip, extent.skip + extent.length)
            except Damaged as error:
                problem = str(error)
        raise Damaged(problem)


# -- 7. The tree ----------------------------------------------------------------------------------

ROOT = 1  # number of the top directory's inode
NAME_MAX = 255
PATH_LIMIT = 16 * KIB
"""No program is given a path of more than 4 KiB; a forger could make one as long as all rows."""


class Inode(NamedTuple):
    """A file of any type (section 6, table INODE)."""

    number: int
    mode: int
    links: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    target: bytes = b""


class Extent(NamedTuple):
    """Where some bytes of a file are. A hole has no segment; in an archived segment `skip` is the
    address of the first byte, elsewhere its place in the payload of the frame at `frame`."""

    offset: int
    length: int
    segment: int = 0
    frame: int = 0
    payload: int = 0
    skip: int = 0


class Tree:
    """Names, inodes and extents, as the rows have them."""

    def __init__(self, rows: Rows, store: Store) -> None:
        self._rows = rows
        self._store = store
        self._archived: dict[int, Archived] = {}

    def inode(self, number: int) -> Inode:
        """Raises Damaged."""
        value = self._rows.get(INODE, struct.pack(">Q", number))
        if value is None:
            raise Damaged(f"inode {number} is not there")
        # mode, links, uid, gid, rdev, size, allocated, atime_ns, mtime_ns, ctime_ns, entries,
        # next_cookie, parent, target
        f = fields_of(value, "iiiiiiisssiiib", f"inode {number}")
        require(f[0] < 2**16 and f[5] <= SIGNED_MAX, f"inode {number}: its fields")
        return Inode(number, f[0], f[1], f[2], f[3], f[5], f[7], f[8], f[13])

    def names(self, directory: int) -> Iterator[tuple[bytes, int]]:
        """The names in a directory, and the inode of each. Those that cannot be used are told."""
        for name, value in self._rows.of(DENTRY, directory):
            bad = not name or len(name) > NAME_MAX or name in (b".", b"..")
            if bad or b"/" in name or b"\0" in name:
                note(f"left out: {shown(name)!r} in directory {directory} is not a name")
                continue
            try:
                # inode, type bits, cookie
                yield name, fields_of(value, "iii", "name")[0]
            except Damaged as error:
                note(f"left out: {shown(name)!r} in directory {directory}: {error}")

    def xattrs(self, inode: int) -> Iterator[tuple[bytes, bytes]]:
        """Raises Damaged."""
        for name, value in self._rows.of(XATTR, inode):
            yield name, fields_of(value, "b", f"attribute of inode {inode}")[0]

    def extents(self, inode: Inode) -> Iterator[Extent]:
        """In the order of their offsets, without what lies behind the end. Raises Damaged."""
        for key, value in self._rows.of(EXTENT, inode.number):
            require(len(key) == 8, f"extent of inode {inode.number}: its key")
            offset = int.from_bytes(key, "big")
            # A hole: its length. Else length, segment, frame, payload, skip.
            fields = unpack(value)
            right = len(fields) in (1, 5) and all(type(n) is int and n >= 0 for n in fields)
            require(right and all(fields[:2]), f"extent of inode {inode.number}: its fields")
            extent = Extent(offset, *fields)
            require(
                offset + extent.length <= SIGNED_MAX
                and (not extent.segment or extent.skip + extent.length <= extent.payload),
                f"extent of inode {inode.number}: its fields",
            )
            if offset < inode.size:
                yield extent._replace(length=min(extent.length, inode.size - offset))

    def pieces(self, inode: Inode) -> Iterator[Piece]:
        """All bytes of a file, but holes. Extents tile a file: a gap between them is a loss."""
        reached = 0
        for extent in self.extents(inode):
            if extent.offset > reached:
                yield Piece(reached, extent.offset - reached, None, "no row says where they are")
            reached = max(reached, extent.offset + extent.length)
            if extent.segment:
                yield from self._pieces_of(inode.number, extent)
        if reached < inode.size:
            yield Piece(reached, inode.size - reached, None, "no row says where they are")

    def _pieces_of(self, inode: int, extent: Extent) -> Iterator[Piece]:
        try:
            row = self._row_of(extent)
            if row is None:
                content = self._store.in_workspace(inode, extent)
                yield Piece(extent.offset, extent.length, content)
                return
        except Damaged as error:
            yield Piece(extent.offset, extent.length, None, str(error))
            return
        for piece in self._store.archived(extent.segment, row, extent.skip, extent.length):
            yield piece._replace(offset=extent.offset + piece.offset)

    def _row_of(self, extent: Extent) -> Archived | None:
        """The row of the archived segment that an extent is in; None: it is in the workspace."""
        segment = extent.segment
        if segment not in self._archived:
            value = self._rows.get(ARCHIVE, struct.pack(">Q", segment))
            if value is None:
                return None
            self._archived[segment] = decode_archived(value)
        row = self._archived[segment]
        inside = extent.skip + extent.length <= row.shape.used_bytes
        require(inside, f"an extent lies outside of its segment {segment}")
        return row

    def missing(self, inode: Inode) -> Iterator[Piece]:
        """What is missing of a file, as far as that can be told without reading it."""
        reached = 0
        for extent in self.extents(inode):
            if extent.offset > reached:
                yield Piece(reached, extent.offset - reached, None)
            reached = max(reached, extent.offset + extent.length)
            if extent.segment:
                yield from self._missing_of(extent)
        if reached < inode.size:
            yield Piece(reached, inode.size - reached, None)

    def _missing_of(self, extent: Extent) -> Iterator[Piece]:
        row = self._row_of(extent)
        if row is not None:
            yield from self._store.absent(extent.segment, row, extent.skip, extent.length)
        elif extent.segment not in self._store.segments["data"]:
            yield Piece(extent.offset, extent.length, None)


class Numbers(Tree):
    """What fragments say of themselves, where no snapshot is: numbers of inodes, and their bytes.

    Names, modes and times are not in fragments, and neither is what was deleted since, or cut off.
    Where two fragments have the same bytes of a file, the one that was made later counts.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(Rows(), store)
        self._segments: dict[int, Header] = {}
        self._found: list[tuple[int, int, int, int, int, int]] = []
        for segment, fragment in sorted(store.fragments):
            for header in store.headers(segment, fragment):
                if segment in self._segments:
                    break  # every fragment of a segment has the same table
                try:
                    self._found += [
                        (inode, header.created_ns, segment, offset, length, address)
                        for inode, offset, length, address in table_of(header)
                    ]
                    self._segments[segment] = header
                except Damaged as error:
                    note(f"left out: {error}")
        self._found.sort()

    def numbers(self) -> Iterator[int]:
        last = 0
        for one in self._found:
            if one[0] != last:
                last = one[0]
                yield last

    def _of(self, number: int) -> list[tuple[int, int, int, int, int, int]]:
        low = bisect_left(self._found, (number,))
        return self._found[low : bisect_left(self._found, (number + 1,))]

    def inode(self, number: int) -> Inode:
        found = self._of(number)
        if not found:
            raise Damaged(f"inode {number} is in none of the tables")
        size = max(offset + length for _, _, _, offset, length, _ in found)
        latest = max(created for _, created, _, _, _, _ in found)
        return Inode(number, stat.S_IFREG | 0o600, 1, -1, -1, size, latest, latest)

    def pieces(self, inode: Inode) -> Iterator[Piece]:
        for _, _, segment, offset, length, address in self._of(inode.number):
            for piece in self._store.archived(segment, self._row(segment), address, length):
                yield piece._replace(offset=offset + piece.offset)

    def missing(self, inode: Inode) -> Iterator[Piece]:
        for _, _, segment, _, length, address in self._of(inode.number):
            yield from self._store.absent(segment, self._row(segment), address, length)

    def _row(self, segment: int) -> Archived:
        header = self._segments[segment]
        return Archived(header.shape, b"", [(drive, header.generation) for drive in header.drives])


# -- 8. Copying out -------------------------------------------------------------------------------

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
KEPT_MODE = 0o1777  # neither suid nor sgid
KEPT_XATTRS = (b"user.", b"system.posix_acl_")
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LOSSES_SHOWN = 10
INCOMPLETE = b".shmr-incomplete"
"""What the name of a file ends with of which bytes are missing: as with `shmr-fsck decode`."""


class Level(NamedTuple):
    """A directory that is being filled."""

    inode: Inode | None
    path: bytes
    entries: Iterator[tuple[bytes, int]]


class Copy:
    """Copies files out, into the directory `to`, and counts.

    Every name is made relative to the descriptor of its directory, and only where nothing of that
    name is: so neither a name nor a link that was copied out before leads anywhere else.
    """

    def __init__(self, store: Store, tree: Tree, to: str) -> None:
        self._tree = tree
        self._owners = os.geteuid() == 0
        self._first: dict[int, bytes] = {}
        """The first name of a file that has several, seen from the top."""
        self._shown_s = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.needed: Counter[bytes] = Counter()
        """Bytes that were missing, by the drive that would have them."""
        for drive in store.drives:
            inside = os.path.commonpath([os.path.realpath(to), os.path.realpath(drive.path)])
            if inside == os.path.realpath(drive.path):
                raise CannotRun(f"{to} is on the drive {drive.path}, which is only read")
        try:
            os.makedirs(to, mode=0o700, exist_ok=True)
            self._top = os.open(to, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CannotRun(f"{to}: {error.strerror}") from error

    def item(self, name: bytes, number: int) -> None:
        """One file, or a directory with all that is in it, under this name."""
        self._fill([Level(None, b"", iter([(name, number)]))])

    def contents(self, directory: int) -> None:
        """All that is in a directory."""
        self._fill([Level(None, b"", self._tree.names(directory))])

    def _fill(self, levels: list[Level]) -> None:
        """Directories are gone through without recursion: no tree is too deep."""
        entered: set[int] = set()
        here = os.dup(self._top)
        try:
            while levels:
                level = levels[-1]
                entry = next(level.entries, None)
                if entry is None:
                    levels.pop()
                    if level.inode is not None:
                        above = os.open("..", DIRECTORY, dir_fd=here)
                        self._dress(here, level.inode, level.path)
                        os.close(here)
                        here = above
                    continue
                name, number = entry
                path = level.path + b"/" + name
                try:
                    require(len(path) <= PATH_LIMIT, "too deep")
                    inode = self._tree.inode(number)
                    if not stat.S_ISDIR(inode.mode):
                        self._one(here, name, path, inode)
                        continue
                    require(number not in entered, "the directory has two names")
                    entered.add(number)
                    inner = self._enter(here, name)
                    os.close(here)
                    here = inner
                    levels.append(Level(inode, path, self._tree.names(number)))
                    self.counts["directories"] += 1
                except (Damaged, OSError, OverflowError, ValueError) as error:
                    self._refused(path, error)
        finally:
            os.close(here)

    def _refused(self, path: bytes, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno in HOPELESS:
            raise CannotRun(f"{shown(path)}: {error.strerror}") from error
        self.counts["not written"] += 1
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        note(f"not written: {shown(path)}: {told}")

    @staticmethod
    def _enter(here: int, name: bytes) -> int:
        """A directory of this name, made if it is not there. A link is none: that is an error."""
        try:
            os.mkdir(name, 0o700, dir_fd=here)
        except FileExistsError:
            pass
        inner = os.open(name, DIRECTORY, dir_fd=here)
        if os.fstat(inner).st_uid == os.geteuid():
            os.fchmod(inner, 0o700)  # until it is filled
        return inner

    def _one(self, here: int, name: bytes, path: bytes, inode: Inode) -> None:
        """Anything but a directory."""
        kind = stat.S_IFMT(inode.mode)
        if kind not in (stat.S_IFREG, stat.S_IFLNK):
            self.counts["left out"] += 1
            note(f"left out: {shown(path)} is a device, a fifo or a socket")
            return
        there = look(here, name)
        if there is not None:
            if not looks_like(there, inode):
                raise Damaged("something else of that name is there already, and is left alone")
            self.counts["there already"] += 1
        elif kind == stat.S_IFLNK:
            os.symlink(inode.target, name, dir_fd=here)
            if self._owners:
                os.chown(name, inode.uid, inode.gid, dir_fd=here, follow_symlinks=False)
            times = inode.atime_ns, inode.mtime_ns
            os.utime(name, ns=times, dir_fd=here, follow_symlinks=False)
            self.counts["links"] += 1
        elif not self._linked_to_first(here, name, inode):
            self._file(here, name, path, inode)
        if inode.links > 1 and look(here, name) is not None:
            self._first.setdefault(inode.number, path[1:])

    def _linked_to_first(self, here: int, name: bytes, inode: Inode) -> bool:
        """A further name of a file that was written; False if it has to be written once more."""
        first = self._first.get(inode.number)
        if first is None:
            return False
        try:
            os.link(first, name, src_dir_fd=self._top, dst_dir_fd=here, follow_symlinks=False)
        except OSError:
            return False  # a filesystem without such links
        self.counts["further names of files"] += 1
        return True

    def _file(self, here: int, name: bytes, path: bytes, inode: Inode) -> None:
        """It gets its own name when it is whole. So what is interrupted is never taken for that."""
        made = name + INCOMPLETE
        if len(made) > NAME_MAX:
            made = b"inode-%d" % inode.number + INCOMPLETE
        left = look(here, made)
        if left is not None and stat.S_ISREG(left.st_mode):
            os.unlink(made, dir_fd=here)  # by an earlier run, which had less to read from
        self._show_progress(path)
        fd = os.open(made, NEW_FILE, 0o600, dir_fd=here)
        written, lost = 0, Losses()
        try:
            try:
                for piece in self._tree.pieces(inode):
                    if piece.content is None:
                        lost.add(piece)
                        self.needed[piece.drive] += piece.length
                    else:
                        write_at(fd, piece.content, piece.offset)
                        written += piece.length
            except Damaged as error:
                lost.add(Piece(0, inode.size, None, str(error)))
            os.ftruncate(fd, inode.size)
            self._dress(fd, inode, path)
        except OSError:
            os.unlink(made, dir_fd=here)
            raise
        finally:
            os.close(fd)
        if not lost.count:
            try:
                # Unlike rename() this never takes the place of anything.
                os.link(made, name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
                os.unlink(made, dir_fd=here)
            except PermissionError:
                os.rename(made, name, src_dir_fd=here, dst_dir_fd=here)
            self.counts["files"] += 1
            return
        if not written:
            os.unlink(made, dir_fd=here)
        self.counts["incomplete" if written else "not written"] += 1
        note(f"{'incomplete' if written else 'not written'}: {shown(path)}: {lost}")

    def _show_progress(self, path: bytes) -> None:
        """Now and then, to who sits before it."""
        if sys.stderr.isatty() and time.monotonic() - self._shown_s > 5:
            self._shown_s = time.monotonic()
            note(f"... {self.counts['files']} files until now; next is {shown(path)}")

    def _dress(self, fd: int, inode: Inode, path: bytes) -> None:
        """Owner, attributes, mode, times: what cannot be set is said, and is no reason to stop."""
        try:
            if self._owners and inode.uid >= 0:
                os.fchown(fd, inode.uid, inode.gid)
            for name, content in self._tree.xattrs(inode.number):
                if not name.startswith(KEPT_XATTRS):
                    note(f"left out: attribute {shown(name)} of {shown(path)}")
                    continue
                os.setxattr(fd, name, content)
        except (OSError, OverflowError, ValueError, Damaged) as error:
            note(f"{shown(path)}: not all of its attributes: {error}")
        try:
            os.fchmod(fd, inode.mode & KEPT_MODE)
            os.utime(fd, ns=(inode.atime_ns, inode.mtime_ns))
        except (OSError, OverflowError) as error:
            note(f"{shown(path)}: not its mode and times: {error}")


class Losses:
    """What is missing of one file; told as ranges of bytes."""

    def __init__(self) -> None:
        self.count = 0
        self._ranges: list[Piece] = []

    def add(self, piece: Piece) -> None:
        self.count += 1
        last = self._ranges[-1] if self._ranges else None
        if last and last.offset + last.length == piece.offset and last.drive == piece.drive:
            self._ranges[-1] = last._replace(length=last.length + piece.length)
        elif len(self._ranges) <= LOSSES_SHOWN:
            self._ranges.append(piece)

    def __str__(self) -> str:
        told = [
            f"bytes {one.offset} to {one.offset + one.length}: {one.reason}"
            for one in self._ranges[:LOSSES_SHOWN]
        ]
        return "; ".join(told + ["and more"] * (len(self._ranges) > LOSSES_SHOWN))


def look(here: int, name: bytes) -> os.stat_result | None:
    """What has this name; None if nothing has."""
    try:
        return os.stat(name, dir_fd=here, follow_symlinks=False)
    except FileNotFoundError:
        return None


def looks_like(there: os.stat_result, inode: Inode) -> bool:
    """Is it what an earlier run wrote? Some filesystems have times of two seconds."""
    if stat.S_IFMT(there.st_mode) != stat.S_IFMT(inode.mode):
        return False
    if stat.S_ISLNK(inode.mode):
        return True
    return there.st_size == inode.size and abs(there.st_mtime_ns - inode.mtime_ns) < 2 * 10**9


def write_at(fd: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


# -- 9. Listing, the command line -----------------------------------------------------------------


def walk(tree: Tree, name: bytes, number: int) -> Iterator[tuple[bytes, Inode]]:
    """A file, or a directory and all that is in it, with paths."""
    entered: set[int] = set()
    levels = [(name, iter([(b"", number)]))]
    while levels:
        above, entries = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
            continue
        path = above + b"/" + entry[0] if entry[0] else above
        try:
            require(len(path) <= PATH_LIMIT, "too deep")
            inode = tree.inode(entry[1])
        except Damaged as error:
            note(f"left out: {shown(path)}: {error}")
            continue
        yield path, inode
        if stat.S_ISDIR(inode.mode) and inode.number not in entered:
            entered.add(inode.number)
            levels.append((path, tree.names(inode.number)))


def show(store: Store, tree: Tree, files: Iterator[tuple[bytes, Inode]]) -> int:
    """A line for each file; the exit code."""
    needed: Counter[bytes] = Counter()
    count = incomplete = size = 0
    for path, inode in files:
        lost = 0
        try:
            for piece in tree.missing(inode) if stat.S_ISREG(inode.mode) else ():
                lost += piece.length
                needed[piece.drive] += piece.length
        except Damaged as error:
            note(f"{shown(path)}: {error}")
            lost = inode.size
        count, size, incomplete = count + 1, size + inode.size, incomplete + bool(lost)
        owner = f"{inode.uid:>6} {inode.gid:>6}" if inode.uid >= 0 else f"{'?':>6} {'?':>6}"
        target = f" -> {shown(inode.target)}" if inode.target else ""
        told = f"  [{lost} bytes are missing]" if lost else ""
        print(
            f"{stat.filemode(inode.mode)} {owner} {inode.size:>14} {moment(inode.mtime_ns)} "
            f"{shown(path) or '/'}{target}{told}"
        )
    note(f"{count} entries, {size} bytes, {incomplete} of them incomplete")
    tell_needed(store, needed)
    return EXIT_MISSING if incomplete else EXIT_WHOLE


def tell_needed(store: Store, needed: Counter[bytes]) -> None:
    for drive, size in needed.most_common():
        if drive:
            note(f"{size} bytes are missing that {store.label(drive)} has")
        else:
            note(f"{size} bytes are missing that no archive drive has: they were in the workspace")
    if any(needed):
        note(
            "Connect what is missing and run this again. Or use `shmr-fsck decode`: it computes "
            "what is missing from parity, where enough of the other drives of the pool are left."
        )


def moment(time_ns: int) -> str:
    """In UTC, to the second."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_ns // 10**9))
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"


def parts_of(path: str) -> list[bytes]:
    return [part for part in os.fsencode(path).split(b"/") if part]


def find(tree: Tree, path: str) -> tuple[bytes, int]:
    """The last name of a path, and the inode it leads to; links are not followed."""
    name, number = b"", ROOT
    for part in parts_of(path):
        for name, found in tree.names(number):
            if name == part:
                number = found
                break
        else:
            raise CannotRun(f"{path}: there is no {shown(part)!r}")
    return name, number


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_FAILED, f"{self.prog}: {message}\n")


def command_line() -> argparse.ArgumentParser:
    parser = Parser(
        prog="shmr-decode.py",
        description="Lists the files of a shmr archive, and copies them out.",
        epilog="example: python3 shmr-decode.py --drives /mnt/a /mnt/b /mnt/c --to /tmp/found "
        "--path /photos/2020",
    )
    parser.add_argument(
        "--drives", nargs="+", required=True, metavar="DRIVE",
        help="directories of archive drives, in any order, as many as there are; those of the "
        "workspace too, if they are there",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list what there is")
    parser.add_argument("--to", metavar="DIR", help="copy into this directory; it is made")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--path", help="only this file, or this directory and what is in it")
    what.add_argument("--inode", type=int, metavar="N", help="only the file of this number")
    what.add_argument("--all", action="store_true", help="everything; so it is without --path, too")
    return parser


def run(asked: argparse.Namespace) -> int:
    if not asked.list and asked.to is None:
        raise CannotRun("say --list, or --to DIR")
    store = Store([Drive(path) for path in asked.drives])
    segments = store.segments
    rows = newest_rows(segments["snapshot"], segments["journal"], store.filesystem)
    tree: Tree
    if rows is not None:
        tree = Tree(rows, store)
        wanted = [find(tree, asked.path)] if asked.path is not None else [(b"", ROOT)]
    else:
        note("no whole snapshot is on these drives: files have numbers, no names and no modes")
        if asked.path is not None:
            raise CannotRun("without a snapshot there are no paths; use --inode N, or --all")
        tree = numbers = Numbers(store)
        wanted = [(b"inode-%d" % number, number) for number in numbers.numbers()]
        if not wanted:
            raise CannotRun("neither a whole snapshot nor a whole fragment is on these drives")
    if asked.inode is not None:
        wanted = [(b"inode-%d" % asked.inode, asked.inode)]
    code = EXIT_WHOLE
    if asked.list:
        above = b"/".join(parts_of(asked.path or "")[:-1])
        above = b"/" + above if above else b""
        files = (
            one
            for name, number in wanted
            for one in walk(tree, above + b"/" + name if name else b"", number)
        )
        code = show(store, tree, files)
    if asked.to is not None:
        copy = Copy(store, tree, asked.to)
        for name, number in wanted:
            if name:
                copy.item(name, number)
            else:
                copy.contents(number)
        print(", ".join(f"{count} {what}" for what, count in copy.counts.items()) or "nothing")
        tell_needed(store, copy.needed)
        if copy.counts["incomplete"] or copy.counts["not written"]:
            code = EXIT_MISSING
    return code


def main(arguments: list[str] | None = None) -> int:
    try:
        return run(command_line().parse_args(arguments))
    except (CannotRun, Damaged) as error:
        note(f"shmr-decode.py: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read the list has read enough
    except KeyboardInterrupt:
        note("shmr-decode.py: interrupted")
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
