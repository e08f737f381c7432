"""A fragment: one archive drive's file of an archived segment (FORMAT.md section 13).

    header   4 KiB: what this is, and how long every part is
    units    raw file bytes, or parity of them; the last one may be shorter
    table    the extents of the whole segment: what its bytes are
    footer   the header once more, the table's digest, one sum for each unit

Everything is written in this order, and every part is a multiple of 4 KiB. All fragments of a
segment have the same length and the same table, so any one that is left says what all of them
held: also what was on drives that are lost for good. A fragment whose footer verifies is complete.
A reader needs the footer alone: it repeats the header.

All checksums are SHA-256 and all numbers fixed in size, so that Python's standard library is
enough to read a data fragment (CRC-32C is not in it).

Left to others: which bytes go into which unit (`shmr.core.stripe`), where parity comes from
(`shmr.codec`), and which fragments count: the journal says that, never a name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from hashlib import sha256
from typing import NamedTuple

from shmr.errors import IntegrityError
from shmr.units import GIB, KIB, MIB

MAGIC = b"shmrfrag"
VERSION = 1
BLOCK = 4 * KIB
"""Every part of a fragment begins and ends at a multiple of this."""
UNIT_BYTES = 256 * KIB
UNIT_MAX = 2 * MIB
WIDTH_MAX = 32
"""Most fragments of one segment; liberasurecode knows no more (EC_MAX_FRAGMENTS)."""
LENGTH_MAX = 4 * GIB
EXTENTS_MAX = 1 << 20
"""Most extents of one segment: a table of 32 MiB."""

_DIGEST = 32
_SUM = 16
_ID = 16
_FIXED = struct.Struct("<8sII16sQI4BIIQQQQ")
_EXTENT = struct.Struct("<4Q")
_TAIL = struct.Struct("<Q32s")
_DRIVES_AT = _FIXED.size
_DRIVES_END = _DRIVES_AT + WIDTH_MAX * _ID
_SIGNED_MAX = 2**63 - 1
assert _DRIVES_AT == 88 and _EXTENT.size == 32 and _TAIL.size == 40  # FORMAT.md section 13 says so


class Code(IntEnum):
    """How the fragments behind the first k follow from those; the names are the library's."""

    COPIES = 0
    """Nothing is computed: single and mirror, where k is 1."""
    ISA_L_RS_CAUCHY = 1
    LIBERASURECODE_RS_VAND = 2


class FragmentHeader(NamedTuple):
    """What a fragment is.

    offset  size  field
    0       8     magic        "shmrfrag"
    8       4     version      1
    12      4     unit_bytes   a multiple of 4 KiB, at most 2 MiB
    16      16    filesystem   id
    32      8     segment      number
    40      4     generation   1, and one more each time this fragment is written anew
    44      1     fragment     which of the k+m this is, from 0; those below k hold file bytes
    45      1     k
    46      1     m            when this fragment was written
    47      1     code         see `Code`
    48      4     extents      count of the extents in the table
    52      4     reserved     0
    56      8     data_bytes   of all units of one fragment, a multiple of 4 KiB
    64      8     used_bytes   where the last extent ends; zeros follow up to k * data_bytes
    72      8     length       of the fragment: header, units, table, footer
    80      8     created_ns
    88      512   drives       ids of the drives of fragments 0..k+m-1 when written; the rest zeros
    600     3464  reserved     0
    4064    32    checksum     SHA-256 of bytes 0..4064

    (`length` follows from the other fields and is checked against them.)
    """

    filesystem: bytes
    segment: int
    generation: int
    fragment: int
    k: int
    m: int
    code: int
    unit_bytes: int
    data_bytes: int
    used_bytes: int
    extents: int
    created_ns: int
    drives: tuple[bytes, ...]

    @property
    def units(self) -> int:
        """How many units a fragment has."""
        return units_of(self.data_bytes, self.unit_bytes)

    @property
    def table_offset(self) -> int:
        return BLOCK + self.data_bytes

    @property
    def table_bytes(self) -> int:
        return table_size(self.extents)

    @property
    def footer_offset(self) -> int:
        return self.table_offset + self.table_bytes

    @property
    def footer_bytes(self) -> int:
        return footer_size(self.units)

    @property
    def length(self) -> int:
        return self.footer_offset + self.footer_bytes

    def encode(self) -> bytes:
        mistake = _mistake(self)
        assert mistake is None, mistake
        fixed = _FIXED.pack(
            MAGIC, VERSION, self.unit_bytes, self.filesystem, self.segment, self.generation,
            self.fragment, self.k, self.m, self.code, self.extents, 0, self.data_bytes,
            self.used_bytes, self.length, self.created_ns,
        )  # fmt: skip
        content = (fixed + b"".join(self.drives)).ljust(BLOCK - _DIGEST, b"\0")
        return content + sha256(content).digest()


class ArchivedExtent(NamedTuple):
    """`length` bytes of `inode` from file offset `offset` lie at `address` of the segment.

    offset  size  field
    0       8     inode
    8       8     offset
    16      8     length    at least 1
    24      8     address   in the segment's address space, which runs along fragment 0, then 1, ...
    """

    inode: int
    offset: int
    length: int
    address: int


class Footer(NamedTuple):
    """What ends a fragment, and all that a reader needs to verify it.

    offset  size  field
    0       4096  header     the fragment's header once more
    4096    32    table      SHA-256 of the table, its padding included
    4128    16n   sums       of unit 0..n-1: the first 16 bytes of its SHA-256
    ...           zeros, so that the footer ends at a multiple of 4 KiB
    -40     8     size       bytes of this footer: a reader without a header begins here
    -32     32    checksum   SHA-256 of everything before
    """

    header: FragmentHeader
    table_digest: bytes
    sums: bytes

    def verify(self, unit: int, content: bytes | bytearray | memoryview) -> None:
        """Check that `content` is unit number `unit`. Raises IntegrityError."""
        header = self.header
        where = f"segment {header.segment}, fragment {header.fragment}, unit {unit}"
        if not 0 <= unit < header.units:
            raise IntegrityError(f"{where}: there are {header.units} units")
        expected = min(header.unit_bytes, header.data_bytes - unit * header.unit_bytes)
        if len(content) != expected:
            raise IntegrityError(f"{where}: {len(content)} bytes, expected {expected}")
        if unit_sum(content) != self.sums[unit * _SUM : (unit + 1) * _SUM]:
            raise IntegrityError(f"{where}: checksum does not match")


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def units_of(data_bytes: int, unit_bytes: int = UNIT_BYTES) -> int:
    """How many units `data_bytes` of a fragment are."""
    return -(-data_bytes // unit_bytes)


def table_size(extents: int) -> int:
    """Bytes that a table of so many extents takes."""
    return _blocks(extents * _EXTENT.size)


def footer_size(units: int) -> int:
    """Bytes of the footer of a fragment with so many units."""
    return _blocks(BLOCK + _DIGEST + units * _SUM + _TAIL.size)


FOOTER_MAX = footer_size(units_of(LENGTH_MAX, BLOCK))


def file_name(segment: int, fragment: int, generation: int) -> str:
    """What the file is called. It means nothing: what counts is in the header and the journal."""
    return f"fragment-{segment:012}-{fragment:02}-{generation:06}"


def unit_sum(content: bytes | bytearray | memoryview) -> bytes:
    """The checksum of a unit: 16 bytes."""
    return sha256(content).digest()[:_SUM]


def decode_header(buffer: bytes | bytearray | memoryview) -> FragmentHeader:
    """The header in the first 4 KiB of `buffer`. Raises IntegrityError."""
    if len(buffer) < BLOCK:
        raise IntegrityError(f"fragment header: {len(buffer)} bytes, expected {BLOCK}")
    content = bytes(buffer[:BLOCK])
    (magic, version, unit_bytes, filesystem, segment, generation, fragment, k, m, code, extents,
     zero, data_bytes, used_bytes, length, created_ns) = _FIXED.unpack_from(content)  # fmt: skip
    if magic != MAGIC:
        raise IntegrityError("fragment header: not a fragment (magic does not match)")
    if sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise IntegrityError("fragment header: checksum does not match")
    if version != VERSION:
        raise IntegrityError(f"fragment header: version {version}, this shmr reads {VERSION}")
    width = min(k + m, WIDTH_MAX)
    ids = range(_DRIVES_AT, _DRIVES_AT + width * _ID, _ID)
    header = FragmentHeader(
        filesystem, segment, generation, fragment, k, m, code, unit_bytes, data_bytes, used_bytes,
        extents, created_ns, tuple(content[at : at + _ID] for at in ids),
    )  # fmt: skip
    mistake = _mistake(header)
    if mistake is None and (zero or any(content[_DRIVES_AT + width * _ID : -_DIGEST])):
        mistake = "reserved bytes are not zero"
    if mistake is None and length != header.length:
        mistake = f"length {length}, but its parts take {header.length}"
    if mistake is not None:
        raise IntegrityError(f"fragment header: {mistake}")
    return header


def encode_table(extents: Iterable[ArchivedExtent]) -> bytes:
    """The table of a segment's extents, in the order of their addresses."""
    content = b"".join([_EXTENT.pack(*extent) for extent in extents])
    return content.ljust(_blocks(len(content)), b"\0")


def encode_footer(header: FragmentHeader, table: bytes, sums: Sequence[bytes]) -> bytes:
    """The footer of the fragment with this header, table, and sums of its units."""
    assert len(table) == header.table_bytes, "the table is not the one that the header announced"
    assert len(sums) == header.units, f"{len(sums)} sums of {header.units} units"
    assert all(len(one) == _SUM for one in sums), "a sum has 16 bytes"
    size = header.footer_bytes
    content = header.encode() + sha256(table).digest() + b"".join(sums)
    content = content.ljust(size - _TAIL.size, b"\0") + size.to_bytes(8, "little")
    return content + sha256(content).digest()


def peek_footer_size(tail: bytes | memoryview) -> int:
    """The unverified size of the footer that ends with `tail`, at least its last 40 bytes.

    For a fragment whose header is gone. Raises IntegrityError if it cannot be the size of one.
    """
    if len(tail) < _TAIL.size:
        raise IntegrityError(f"fragment footer: {len(tail)} bytes, expected {_TAIL.size}")
    size = int(_TAIL.unpack_from(tail, len(tail) - _TAIL.size)[0])
    if not 2 * BLOCK <= size <= FOOTER_MAX or size % BLOCK:
        raise IntegrityError(f"fragment footer: {size} bytes cannot be its size")
    return size


def decode_footer(buffer: bytes | bytearray | memoryview) -> Footer:
    """The footer that `buffer` holds, and nothing else. Raises IntegrityError."""
    content = bytes(buffer)
    size = peek_footer_size(content)
    if len(content) != size:
        raise IntegrityError(f"fragment footer: {len(content)} bytes, expected {size}")
    if sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise IntegrityError("fragment footer: checksum does not match")
    header = decode_header(content)
    if size != header.footer_bytes:
        raise IntegrityError(f"fragment footer: {size} bytes, its header says otherwise")
    sums = BLOCK + _DIGEST
    end = sums + header.units * _SUM
    if any(content[end : -_TAIL.size]):
        raise IntegrityError("fragment footer: padding is not zero")
    return Footer(header, content[BLOCK:sums], content[sums:end])


def decode_table(footer: Footer, table: bytes | bytearray | memoryview) -> list[ArchivedExtent]:
    """The extents of the segment, by address, from the table of the fragment with this footer.

    Raises IntegrityError.
    """
    return list(table_entries(footer, table))


def table_entries(
    footer: Footer, table: bytes | bytearray | memoryview
) -> Iterator[ArchivedExtent]:
    """`decode_table`, one after the other: a million of them need no memory.

    The table is verified before the first, what an entry says when its turn comes.
    """
    header = footer.header
    where = f"extent table of segment {header.segment}"
    if len(table) != header.table_bytes:
        raise IntegrityError(f"{where}: {len(table)} bytes, expected {header.table_bytes}")
    if sha256(table).digest() != footer.table_digest:
        raise IntegrityError(f"{where}: checksum does not match")
    end = header.extents * _EXTENT.size
    view = memoryview(table)
    if any(view[end:]):
        raise IntegrityError(f"{where}: padding is not zero")
    at = 0
    for fields in _EXTENT.iter_unpack(view[:end]):
        extent = ArchivedExtent(*fields)
        inside = at <= extent.address and extent.address + extent.length <= header.used_bytes
        lasting = extent.length > 0 and extent.offset + extent.length <= _SIGNED_MAX
        if not (inside and lasting and 0 < extent.inode <= _SIGNED_MAX):
            raise IntegrityError(f"{where}: {extent} is out of its limits")
        at = extent.address + extent.length
        yield extent
    if at != header.used_bytes:
        raise IntegrityError(f"{where}: ends at {at}, expected {header.used_bytes}")


def _mistake(header: FragmentHeader) -> str | None:
    """What is out of its limits, or None."""
    k, m, width = header.k, header.m, header.k + header.m
    unit_bytes, data_bytes = header.unit_bytes, header.data_bytes
    known = set(header.drives)
    checks = (
        (len(header.filesystem) == _ID, "an id has 16 bytes"),
        (0 < header.segment <= _SIGNED_MAX, f"segment {header.segment}"),
        (0 < header.generation < 2**32, f"generation {header.generation}"),
        (k > 0 and m >= 0 and width <= WIDTH_MAX, f"scheme {k}+{m}"),
        (0 <= header.fragment < width, f"fragment {header.fragment} of {width}"),
        (header.code in set(Code), f"code {header.code}"),
        ((header.code == Code.COPIES) == (k == 1), f"code {header.code} with k of {k}"),
        (len(header.drives) == len(known) == width, f"{len(known)} drives of {width}"),
        (all(len(d) == _ID and any(d) for d in known), "a drive without an id"),
        (0 < unit_bytes <= UNIT_MAX and not unit_bytes % BLOCK, f"units of {unit_bytes} bytes"),
        (data_bytes > 0 and not data_bytes % BLOCK, f"{data_bytes} bytes of units"),
        (0 < header.used_bytes <= k * data_bytes, f"{header.used_bytes} bytes used"),
        (0 < header.extents <= EXTENTS_MAX, f"{header.extents} extents"),
        (0 <= header.created_ns < 2**64, f"created at {header.created_ns}"),
    )
    for holds, what in checks:
        if not holds:
            return f"{what}: out of limits"
    return None if header.length <= LENGTH_MAX else f"length {header.length}: out of limits"
