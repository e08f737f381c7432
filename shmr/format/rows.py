"""The rows of the catalog: tables, keys and values (FORMAT.md section 6).

A row is one key and value of a table. Keys are big-endian so that they sort as they are scanned;
values are positional msgpack lists. Truth tables are written to the journal; derived ones
(`Table.COOKIE` and up) are recomputed from them by `shmr.catalog.derived`.

The values are NamedTuples, because msgpack packs them as they are and one is made for every
request.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import msgpack

from shmr.errors import IntegrityError
from shmr.format.unpack import expect, unpack_list

ROOT = 1
"""Number of the root directory's inode."""
NAME_MAX = 255
SIZE_MAX = 2**63 - 1
"""Largest legal file size: off_t."""
TIME_MIN_NS = -(2**63)
TIME_MAX_NS = 2**64 - 1
"""Times are msgpack integers of nanoseconds: the years 1677 to 2554 (ext4: 1901 to 2446)."""


class Table(IntEnum):
    """The tables. The number is what a journal row and a value's checksum carry."""

    INODE = 1
    DENTRY = 2
    EXTENT = 3
    XATTR = 4
    ORPHAN = 5
    REAP = 6
    STATE = 7
    ARCHIVE = 8
    COOKIE = 16
    USAGE = 17
    PLACE = 18


TRUTH = (
    Table.INODE,
    Table.DENTRY,
    Table.EXTENT,
    Table.XATTR,
    Table.ORPHAN,
    Table.REAP,
    Table.STATE,
    Table.ARCHIVE,
)


class Row(NamedTuple):
    """A change of the catalog: the new value of a key, or None where the key goes."""

    table: int
    key: bytes
    value: bytes | None


_U64 = struct.Struct(">Q")
_PAIR = struct.Struct(">QQ")
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def key_of(number: int) -> bytes:
    """Key of an inode, orphan or reap row, or the prefix of what belongs to that inode."""
    return _U64.pack(number)


def key_pair(number: int, second: int) -> bytes:
    """Key of an extent (inode, offset) or a cookie (directory, cookie)."""
    return _PAIR.pack(number, second)


def key_named(number: int, name: bytes) -> bytes:
    """Key of a dentry (directory, name) or an xattr (inode, name)."""
    return _U64.pack(number) + name


def split_key(key: bytes) -> int:
    """The first number of any key. Raises IntegrityError if the key is too short."""
    if len(key) < 8:
        raise IntegrityError(f"key of {len(key)} bytes, expected at least 8")
    return int(_U64.unpack_from(key)[0])


def split_pair(key: bytes) -> tuple[int, int]:
    """Both numbers of an extent or cookie key. Raises IntegrityError."""
    if len(key) != 16:
        raise IntegrityError(f"key of {len(key)} bytes, expected 16")
    first, second = _PAIR.unpack(key)
    return first, second


class _InodeFields(NamedTuple):
    number: int
    mode: int
    links: int
    uid: int
    gid: int
    rdev: int
    size: int
    allocated: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    entries: int = 0
    next_cookie: int = 0
    parent: int = 0
    target: bytes = b""


_INODE_INDEX = {name: index for index, name in enumerate(_InodeFields._fields)}


class Inode(_InodeFields):
    """An inode. `number` is the key; the other fields are the value, in this order.

    `size` and `allocated` are bytes; `allocated` is the sum of the data extents. `entries`,
    `next_cookie` and `parent` are those of a directory, `target` that of a symlink.
    """

    __slots__ = ()

    if not TYPE_CHECKING:

        def _replace(self, **changes):
            """As a NamedTuple's; that one takes two to three times as long."""
            fields = list(self)
            for name, value in changes.items():
                fields[_INODE_INDEX[name]] = value
            return tuple.__new__(Inode, fields)

    def encode(self) -> bytes:
        return bytes(_pack(self[1:]))

    def row(self) -> Row:
        return Row(Table.INODE, _U64.pack(self.number), _pack(self[1:]))


_INODE_TYPES = [int] * 13 + [bytes]


def decode_inode(number: int, value: bytes) -> Inode:
    fields = unpack_list(value, "inode")
    if list(map(type, fields)) != _INODE_TYPES:
        raise IntegrityError("inode: fields are not of their types")
    inode = Inode(number, *fields)
    _, mode, links, uid, gid, rdev, size, allocated, _, _, _, entries, cookie, parent, target = (
        inode
    )
    expect(
        0 <= mode < 2**16
        and links >= 0
        and uid >= 0
        and gid >= 0
        and rdev >= 0
        and 0 <= size <= SIZE_MAX
        and allocated >= 0
        and entries >= 0
        and cookie >= 0
        and parent >= 0
        and len(target) <= 4095,
        "inode",
    )
    return inode


class Dentry(NamedTuple):
    """A name in a directory: the inode it names, its type bits, its place in the reading order."""

    inode: int
    kind: int
    cookie: int

    def encode(self) -> bytes:
        return bytes(_pack(self))

    def row(self, directory: int, name: bytes) -> Row:
        return Row(Table.DENTRY, _U64.pack(directory) + name, _pack(self))


_DENTRY_TYPES = [int] * 3


def decode_dentry(value: bytes) -> Dentry:
    fields = unpack_list(value, "dentry")
    if list(map(type, fields)) == _DENTRY_TYPES:
        inode, kind, cookie = fields
        if inode >= 0 and kind >= 0 and cookie >= 0:
            return Dentry(inode, kind, cookie)
    raise IntegrityError("dentry: fields are out of their limits")


class Cookie(NamedTuple):
    """Derived from a dentry: what stands at one place of a directory's reading order."""

    name: bytes
    inode: int
    kind: int

    def encode(self) -> bytes:
        return bytes(_pack(self))

    def row(self, directory: int, cookie: int) -> Row:
        return Row(Table.COOKIE, _PAIR.pack(directory, cookie), _pack(self))


_COOKIE_TYPES = [bytes, int, int]


def decode_cookie(value: bytes) -> Cookie:
    fields = unpack_list(value, "cookie")
    if list(map(type, fields)) == _COOKIE_TYPES:
        name, inode, kind = fields
        if inode >= 0 and kind >= 0:
            return Cookie(name, inode, kind)
    raise IntegrityError("cookie: fields are out of their limits")


class Address(NamedTuple):
    """Where the bytes of an extent are: `skip` bytes into the payload of one frame.

    `frame` is the offset of the frame's header in the segment, `payload` the payload's length,
    so that header and bytes can be read in one call without asking first.
    """

    segment: int
    frame: int
    payload: int
    skip: int


class Extent(NamedTuple):
    """A run of file bytes and where they are; without an address it is a hole."""

    offset: int
    length: int
    address: Address | None

    @property
    def end(self) -> int:
        return self.offset + self.length

    def clip(self, start: int, end: int) -> Extent | None:
        """The part of this extent inside [start, end), if any."""
        if start <= self.offset and self.offset + self.length <= end:
            return self
        low = max(start, self.offset)
        high = min(end, self.offset + self.length)
        if low >= high:
            return None
        at = self.address
        if at is not None:
            at = Address(at.segment, at.frame, at.payload, at.skip + low - self.offset)
        return Extent(low, high - low, at)

    def row(self, inode: int) -> Row:
        at = self.address
        value = _pack((self.length,) if at is None else (self.length, *at))
        return Row(Table.EXTENT, _PAIR.pack(inode, self.offset), value)


_EXTENT_TYPES = [int] * 5


def decode_extent(offset: int, value: bytes) -> Extent:
    fields = unpack_list(value, "extent")
    if len(fields) == 1:
        expect(type(fields[0]) is int and 0 < fields[0] <= SIZE_MAX - offset, "extent")
        return Extent(offset, fields[0], None)
    expect(list(map(type, fields)) == _EXTENT_TYPES and min(fields) >= 0, "extent")
    length, segment, frame, payload, skip = fields
    expect(length > 0 and skip + length <= payload and length <= SIZE_MAX - offset, "extent")
    return Extent(offset, length, Address(segment, frame, payload, skip))


def segment_of(value: bytes | None) -> tuple[int, int] | None:
    """(segment, live bytes) that an extent row's value stands for; None for a hole or no row."""
    if value is None:
        return None
    fields = unpack_list(value, "extent")
    if len(fields) == 1:
        return None
    expect(list(map(type, fields)) == _EXTENT_TYPES, "extent")
    return fields[1], fields[0]


def extent_key(inode: int, offset: int) -> bytes:
    return _PAIR.pack(inode, offset)


def extent_removed(inode: int, offset: int) -> Row:
    return Row(Table.EXTENT, _PAIR.pack(inode, offset), None)


class Reap(NamedTuple):
    """Extents of an inode in [start, end) that are dead but not yet deleted, row by row."""

    start: int
    end: int

    def row(self, inode: int) -> Row:
        return Row(Table.REAP, _U64.pack(inode), _pack(self))


def decode_reap(value: bytes) -> Reap:
    fields = unpack_list(value, "reap")
    expect(list(map(type, fields)) == [int, int] and 0 <= fields[0] <= fields[1], "reap")
    return Reap(*fields)


def encode_number(number: int) -> bytes:
    """The value of a state row that is one number."""
    return bytes(_pack((number,)))


def decode_number(value: bytes) -> int:
    fields = unpack_list(value, "number")
    expect(len(fields) == 1 and type(fields[0]) is int and fields[0] >= 0, "number")
    return int(fields[0])


class Place(NamedTuple):
    """A place between two frames of the journal: everything before it is in the catalog.

    `frame` is the offset of the last frame before the place, `end` the place's own offset,
    `chain` that frame's header checksum, `sequence` that of the next frame.
    """

    segment: int
    frame: int
    end: int
    sequence: int
    chain: int

    def encode(self) -> bytes:
        return bytes(_pack(self))


def decode_place(value: bytes) -> Place:
    fields = unpack_list(value, "place")
    expect(list(map(type, fields)) == [int] * 5 and min(fields) >= 0, "place")
    return Place(*fields)


def encode_bytes(content: bytes) -> bytes:
    """The value of a row that is one byte string (an extended attribute)."""
    return bytes(_pack((content,)))


def decode_bytes(value: bytes) -> bytes:
    fields = unpack_list(value, "bytes")
    expect(len(fields) == 1 and type(fields[0]) is bytes, "bytes")
    return bytes(fields[0])
