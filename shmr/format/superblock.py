"""A drive's identity (FORMAT.md section 3).

Written whole into a small file of its own and never changed: a newer one has a higher
generation and another name. The highest that verifies counts.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgpack
from crc32c import crc32c

from shmr.errors import IntegrityError
from shmr.format.unpack import expect, unpack_list

MAGIC = b"shmrdrv1"
VERSION = 1
_HEAD = struct.Struct("<8s4I")
COMPAT = 0
RO_COMPAT = 0
INCOMPAT = 0
"""Feature bits this version knows. An unknown incompat bit refuses the mount, an unknown
ro-compat bit allows reading only, an unknown compat bit is ignored."""
UNFINISHED = 1 << 16
"""An incompat bit that nobody knows, on purpose: the drive is of a workspace that is being made
anew (`shmr-fsck rebuild-catalog`), and nothing on it counts."""


class Superblock(NamedTuple):
    """Who a drive is.

    offset  size  field
    0       8     magic       "shmrdrv1"
    8       4     checksum    CRC-32C of bytes 12..end
    12      4     length      payload bytes, 0..65536-24
    16      4     version     1
    20      4     reserved    0
    24      n     payload     msgpack list of the fields below, in this order

    `filesystem`, `pool` and `drive` are 16-byte ids; `members` the drive ids of the pool when
    this generation was written, this drive's among them.
    """

    filesystem: bytes
    filesystem_name: bytes
    pool: bytes
    pool_name: bytes
    drive: bytes
    generation: int
    compat: int
    ro_compat: int
    incompat: int
    created_ns: int
    members: tuple[bytes, ...]

    def encode(self) -> bytes:
        payload = msgpack.packb(self)
        rest = struct.pack("<III", len(payload), VERSION, 0) + payload
        return MAGIC + struct.pack("<I", crc32c(rest)) + bytes(rest)


def decode(buffer: bytes) -> Superblock:
    """Raises IntegrityError."""
    if len(buffer) < _HEAD.size:
        raise IntegrityError(f"superblock: {len(buffer)} bytes, expected at least {_HEAD.size}")
    magic, checksum, length, version, zero = _HEAD.unpack_from(buffer)
    if magic != MAGIC:
        raise IntegrityError("superblock: not a shmr drive (magic does not match)")
    end = _HEAD.size + length
    if length > 65536 - _HEAD.size or len(buffer) < end:
        raise IntegrityError(f"superblock: payload of {length} bytes does not fit")
    if crc32c(buffer[12:end]) != checksum:
        raise IntegrityError("superblock: checksum does not match")
    if version != VERSION or zero:
        raise IntegrityError(f"superblock: version {version}, this shmr reads {VERSION}")
    fields = unpack_list(buffer[_HEAD.size : end], "superblock")
    expect(list(map(type, fields)) == [bytes] * 5 + [int] * 5 + [list], "superblock")
    expect(all(type(m) is bytes and len(m) == 16 for m in fields[10]), "superblock")
    fields[10] = tuple(fields[10])
    block = Superblock(*fields)
    ids = (block.filesystem, block.pool, block.drive)
    expect(all(len(i) == 16 for i in ids) and min(fields[5:10]) >= 0, "superblock")
    expect(block.drive in block.members, "superblock")
    return block
