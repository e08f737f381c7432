"""Fragments: what was encoded is decoded, nothing else is, and any Python can read them."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmr.format
from shmr.errors import IntegrityError
from shmr.format import fragment
from shmr.format.fragment import (
    BLOCK,
    EXTENTS_MAX,
    LENGTH_MAX,
    UNIT_BYTES,
    UNIT_MAX,
    WIDTH_MAX,
    ArchivedExtent,
    Code,
    FragmentHeader,
    decode_footer,
    decode_header,
    decode_table,
    encode_footer,
    encode_table,
    peek_footer_size,
    unit_sum,
)
from shmr.units import MIB

PAGE = (Path(shmr.format.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
CONTENT = b"hello, world\n"
ids = st.binary(min_size=16, max_size=16).filter(any)


def drives(width: int, first: int = 64) -> tuple[bytes, ...]:
    return tuple(bytes([first + index]) * 16 for index in range(width))


def header(
    k: int = 2,
    m: int = 1,
    number: int = 0,
    data_bytes: int = 3 * BLOCK,
    used_bytes: int = 5 * BLOCK,
    extents: int = 2,
) -> FragmentHeader:
    code = Code.COPIES if k == 1 else Code.ISA_L_RS_CAUCHY
    return FragmentHeader(
        b"f" * 16, 7, 1, number, k, m, code, 2 * BLOCK, data_bytes, used_bytes, extents, 99,
        drives(k + m),
    )  # fmt: skip


def segment(
    extents: Sequence[ArchivedExtent], k: int = 2, data_bytes: int = 3 * BLOCK
) -> list[bytes]:
    """The k data fragments of a segment without parity, with other bytes at each address."""
    used = extents[-1].address + extents[-1].length
    space = b"".join(struct.pack(">I", at) for at in range(k * data_bytes // 4))
    table = encode_table(extents)
    files = []
    for number in range(k):
        head = header(k, 0, number, data_bytes, used, len(extents))
        units = space[number * data_bytes : (number + 1) * data_bytes]
        cut = [units[at : at + head.unit_bytes] for at in range(0, data_bytes, head.unit_bytes)]
        footer = encode_footer(head, table, [unit_sum(unit) for unit in cut])
        files.append(head.encode() + units + table + footer)
    return files


@st.composite
def headers(draw: st.DrawFn) -> FragmentHeader:
    k = draw(st.integers(1, WIDTH_MAX))
    m = draw(st.integers(0, WIDTH_MAX - k))
    code = Code.COPIES if k == 1 else draw(st.sampled_from(list(Code)[1:]))
    unit_bytes = draw(st.integers(1, UNIT_MAX // BLOCK)) * BLOCK
    data_bytes = draw(st.integers(1, 256 * MIB // BLOCK)) * BLOCK
    return FragmentHeader(
        draw(st.binary(min_size=16, max_size=16)),
        draw(st.integers(1, 2**63 - 1)),
        draw(st.integers(1, 2**32 - 1)),
        draw(st.integers(0, k + m - 1)),
        k,
        m,
        code,
        unit_bytes,
        data_bytes,
        draw(st.integers(1, k * data_bytes)),
        draw(st.integers(1, EXTENTS_MAX)),
        draw(st.integers(0, 2**64 - 1)),
        tuple(draw(st.lists(ids, min_size=k + m, max_size=k + m, unique=True))),
    )


@given(headers())
def test_a_header_comes_back_as_it_was(head: FragmentHeader) -> None:
    content = head.encode()
    assert len(content) == BLOCK
    assert decode_header(content) == head
    assert decode_header(content + b"whatever follows") == head


@given(headers())
def test_every_part_begins_and_ends_at_a_block(head: FragmentHeader) -> None:
    parts = (head.table_offset, head.footer_offset, head.length)
    assert [part % BLOCK for part in parts] == [0, 0, 0]
    assert BLOCK < head.table_offset < head.footer_offset < head.length <= LENGTH_MAX
    assert head.table_bytes >= 32 * head.extents
    assert head.footer_bytes >= BLOCK + 32 + 16 * head.units + 40


@given(st.binary(max_size=2 * BLOCK) | st.binary(max_size=600).map(lambda b: b"shmrfrag" + b))
def test_any_bytes_are_a_value_or_an_integrity_error(content: bytes) -> None:
    for decode in (decode_header, decode_footer, peek_footer_size):
        with pytest.raises(IntegrityError):
            decode(content)
            raise IntegrityError  # bytes that happen to be fine would be fine


@settings(max_examples=300)
@given(st.data())
def test_a_header_with_a_right_checksum_may_still_be_nonsense(data: st.DataObject) -> None:
    content = bytearray(header().encode()[:-32])
    at = data.draw(st.integers(0, len(content) - 1) | st.integers(8, 120))
    patch = data.draw(st.binary(min_size=1, max_size=8))
    content[at : at + len(patch)] = patch
    content = content[: BLOCK - 32].ljust(BLOCK - 32, b"\0")
    try:
        decoded = decode_header(bytes(content) + hashlib.sha256(content).digest())
    except IntegrityError:
        return
    assert decoded.encode()[:-32] == content


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("filesystem", b""),
        ("segment", 0),
        ("segment", 2**63),
        ("generation", 0),
        ("fragment", 3),
        ("k", 0),
        ("k", 1),
        ("m", 2),
        ("code", 0),
        ("code", 3),
        ("unit_bytes", 0),
        ("unit_bytes", 1000),
        ("unit_bytes", UNIT_MAX + BLOCK),
        ("data_bytes", 0),
        ("data_bytes", BLOCK + 1),
        ("data_bytes", LENGTH_MAX),
        ("used_bytes", 0),
        ("used_bytes", 6 * BLOCK + 1),
        ("extents", 0),
        ("extents", EXTENTS_MAX + 1),
        ("created_ns", -1),
        ("drives", drives(2)),
        ("drives", drives(4)),
        ("drives", drives(1) * 3),
        ("drives", (*drives(2), bytes(16))),
        ("drives", (*drives(2), b"short")),
    ],
)
def test_a_header_out_of_its_limits_is_not_written(field: str, value: Any) -> None:
    with pytest.raises(AssertionError, match=r"out of limits|16 bytes"):
        header()._replace(**{field: value}).encode()


def test_any_flipped_bit_of_a_fragment_is_noticed() -> None:
    content = segment([ArchivedExtent(2, 0, BLOCK, 0), ArchivedExtent(3, 8, 9, BLOCK)])[0]
    head = decode_header(content)
    places = [*range(0, 700, 7), *range(BLOCK - 33, len(content), 97), *range(-80, 0)]
    for at in places:
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        with pytest.raises(IntegrityError):
            check(bytes(damaged), head)


def check(content: bytes, expected: FragmentHeader) -> None:
    """Verify every part of a fragment."""
    head = decode_header(content)
    assert head == expected
    footer = decode_footer(content[head.footer_offset : head.length])
    assert footer.header == head
    decode_table(footer, content[head.table_offset : head.footer_offset])
    for unit in range(head.units):
        start = BLOCK + unit * head.unit_bytes
        footer.verify(unit, content[start : min(start + head.unit_bytes, head.table_offset)])


def test_a_cut_fragment_is_not_complete() -> None:
    content = segment([ArchivedExtent(2, 0, 5 * BLOCK, 0)])[0]
    head = decode_header(content)
    for length in range(0, len(content), BLOCK // 2):
        with pytest.raises(IntegrityError):
            decode_footer(content[head.footer_offset : length])


def test_the_footer_is_found_from_the_end_alone() -> None:
    content = segment([ArchivedExtent(2, 0, 5 * BLOCK, 0)])[1]
    size = peek_footer_size(content[-40:])
    footer = decode_footer(content[-size:])
    assert footer.header == decode_header(content)
    assert len(content) == footer.header.length
    check(footer.header.encode() + content[BLOCK:], footer.header)


def test_a_unit_verifies_only_in_its_place_and_whole() -> None:
    content = segment([ArchivedExtent(2, 0, 5 * BLOCK, 0)])[0]
    head = decode_header(content)
    footer = decode_footer(content[head.footer_offset :])
    first, last = content[BLOCK : 3 * BLOCK], content[3 * BLOCK : 4 * BLOCK]
    footer.verify(0, first)
    footer.verify(1, memoryview(last))
    for unit, wrong in ((0, last), (1, first), (0, first[:-1]), (1, first), (2, last), (-1, last)):
        with pytest.raises(IntegrityError, match=f"segment 7, fragment 0, unit {unit}"):
            footer.verify(unit, wrong)


def laid_out(items: list[tuple[int, int, int, int]]) -> list[ArchivedExtent]:
    """Extents one behind the other, with gaps."""
    at, extents = 0, []
    for inode, offset, length, gap in items:
        extents.append(ArchivedExtent(inode, offset, length, at + gap))
        at += gap + length
    return extents


numbers = (st.integers(1, 2**63 - 1), st.integers(0, 2**63 - 41), st.integers(1, 40))
tables = st.lists(st.tuples(*numbers, st.integers(0, 5)), min_size=1, max_size=20)


@settings(max_examples=50)
@given(tables, st.integers(1, 10))
def test_a_table_comes_back_as_it_was(items: list[tuple[int, int, int, int]], repeats: int) -> None:
    extents = laid_out(items * repeats)
    content = segment(extents, data_bytes=4 * BLOCK)[0]
    footer = decode_footer(content[-peek_footer_size(content) :])
    head = footer.header
    assert decode_table(footer, content[head.table_offset : head.footer_offset]) == extents


@pytest.mark.parametrize(
    "extents",
    [
        [(0, 0, 10, 0)],
        [(2**63, 0, 10, 0)],
        [(2, 2**63 - 5, 10, 0)],
        [(2, 0, 0, 0), (2, 0, 10, 0)],
        [(2, 0, 6, 0), (2, 6, 5, 5)],
        [(2, 0, 5, 5), (2, 6, 5, 0)],
        [(2, 0, 9, 0)],
        [(2, 0, 11, 0)],
        [(2, 0, 2**64 - 1, 2**64 - 1)],
    ],
)
def test_a_table_with_a_right_digest_may_still_be_nonsense(
    extents: list[tuple[int, int, int, int]],
) -> None:
    head = header(used_bytes=10, extents=len(extents))
    table = encode_table([ArchivedExtent(*fields) for fields in extents])
    footer = decode_footer(encode_footer(head, table, [bytes(16)] * head.units))
    with pytest.raises(IntegrityError, match="extent table of segment 7"):
        decode_table(footer, table)


def test_a_table_of_another_fragment_is_refused() -> None:
    one, other = (segment([ArchivedExtent(inode, 0, 9, 0)])[0] for inode in (2, 3))
    head = decode_header(one)
    footer = decode_footer(one[head.footer_offset :])
    with pytest.raises(IntegrityError, match="checksum"):
        decode_table(footer, other[head.table_offset : head.footer_offset])


# -- the page


def dump(name: str) -> bytes:
    """The bytes of the dump under `name` in FORMAT.md; `*` stands for zeros up to the next line."""
    found = re.search(rf"`{name}`, (\d+) bytes:\n\n```hex\n(.*?)\n```", PAGE, re.S)
    assert found is not None
    content = b""
    for line in found[2].splitlines():
        if line == "*":
            continue
        offset, _, rest = line.partition("  ")
        content = content.ljust(int(offset, 16), b"\0") + bytes.fromhex(rest.partition("|")[0])
    assert len(content) == int(found[1])
    return content


def test_the_example_on_the_page_is_what_the_code_writes() -> None:
    expected = FragmentHeader(
        bytes(range(16)), 7, 1, 0, 1, 1, Code.COPIES, UNIT_BYTES, BLOCK, len(CONTENT), 1,
        1_700_000_000_000_000_000, (bytes(range(64, 80)), bytes(range(80, 96))),
    )  # fmt: skip
    name = fragment.file_name(7, 0, 1)
    assert name == "fragment-000000000007-00-000001"
    content = dump(name)
    unit = CONTENT.ljust(BLOCK, b"\0")
    table = encode_table([ArchivedExtent(2, 0, len(CONTENT), 0)])
    parts = [expected.encode(), unit, table, encode_footer(expected, table, [unit_sum(unit)])]
    assert b"".join(parts) == content
    check(content, expected)


def test_golden_headers() -> None:
    """A change of these is a change of the format."""
    wide = FragmentHeader(
        b"F" * 16, 2**40, 3, 13, 10, 4, Code.LIBERASURECODE_RS_VAND, UNIT_BYTES, 255 * MIB,
        2550 * MIB - 1, 1000, 2**63, drives(14),
    )  # fmt: skip
    assert [
        (hashlib.sha256(one.encode()).hexdigest()[:16], one.units, one.table_bytes, one.length)
        for one in (header(), wide)
    ] == [
        ("109e9039614ccd55", 2, 4096, 28672),
        ("b5179cef131268da", 1020, 32768, 267448320),
    ]


# -- the standard library alone


def extracted(files: list[bytes]) -> dict[int, dict[int, bytes]]:
    """What the data fragments of a segment hold, by inode and offset, read without shmr."""
    found: dict[int, dict[int, bytes]] = {}
    for file in files:
        assert file[:8] == b"shmrfrag"
        assert hashlib.sha256(file[:4064]).digest() == file[4064:4096]
        (unit_bytes,) = struct.unpack_from("<I", file, 12)
        number = file[44]
        (extents,) = struct.unpack_from("<I", file, 48)
        (data_bytes,) = struct.unpack_from("<Q", file, 56)
        (footer_bytes,) = struct.unpack_from("<Q", file, len(file) - 40)
        footer = file[-footer_bytes:]
        assert hashlib.sha256(footer[:-32]).digest() == footer[-32:]
        table = file[4096 + data_bytes : -footer_bytes]
        assert hashlib.sha256(table).digest() == footer[4096:4128]
        units = file[4096 : 4096 + data_bytes]
        for unit, at in enumerate(range(0, data_bytes, unit_bytes)):
            digest = hashlib.sha256(units[at : at + unit_bytes]).digest()
            assert digest[:16] == footer[4128 + 16 * unit : 4144 + 16 * unit]
        for entry in range(extents):
            inode, offset, length, address = struct.unpack_from("<4Q", table, 32 * entry)
            low = max(address, number * data_bytes)
            high = min(address + length, (number + 1) * data_bytes)
            if low < high:
                piece = units[low - number * data_bytes : high - number * data_bytes]
                found.setdefault(inode, {})[offset + low - address] = piece
    return found


def test_the_standard_library_is_enough_to_read_data_fragments() -> None:
    over_the_edge = ArchivedExtent(3, 100, BLOCK, 3 * BLOCK - 10)
    files = segment([ArchivedExtent(2, 0, 5, 4), over_the_edge])
    space = b"".join(struct.pack(">I", at) for at in range(6 * BLOCK // 4))
    assert extracted(files) == {
        2: {0: space[4:9]},
        3: {
            100: space[3 * BLOCK - 10 : 3 * BLOCK],
            110: space[3 * BLOCK : 4 * BLOCK - 10],
        },
    }
    assert extracted(files[1:]) == {3: {110: space[3 * BLOCK : 4 * BLOCK - 10]}}
