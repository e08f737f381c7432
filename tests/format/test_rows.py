"""Rows of the catalog: round trips, hostile bytes, golden vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.catalog.checksum import checked, sealed
from shmr.errors import IntegrityError
from shmr.format import rows
from shmr.format.rows import SIZE_MAX, Address, Cookie, Dentry, Extent, Inode, Place, Reap, Table

u64 = st.integers(0, 2**64 - 1)
times = st.integers(rows.TIME_MIN_NS, rows.TIME_MAX_NS)
names = st.binary(min_size=1, max_size=rows.NAME_MAX)
sizes = st.integers(0, SIZE_MAX)
inodes = st.builds(
    Inode,
    u64,
    st.integers(0, 2**16 - 1),
    u64,
    u64,
    u64,
    u64,
    sizes,
    u64,
    times,
    times,
    times,
    u64,
    u64,
    u64,
    st.binary(max_size=4095),
)


@st.composite
def extents(draw: st.DrawFn) -> Extent:
    offset = draw(st.integers(0, SIZE_MAX - 1))
    length = draw(st.integers(1, min(SIZE_MAX - offset, 2**40)))
    if draw(st.booleans()):
        return Extent(offset, length, None)
    skip = draw(st.integers(0, 2**20))
    payload = skip + length + draw(st.integers(0, 2**20))
    return Extent(offset, length, Address(draw(u64), draw(u64), payload, skip))


@given(inodes)
def test_an_inode_comes_back(inode: Inode) -> None:
    row = inode.row()
    assert row.table == Table.INODE and row.value is not None
    assert rows.decode_inode(rows.split_key(row.key), row.value) == inode


@given(extents(), u64)
def test_an_extent_comes_back(extent: Extent, number: int) -> None:
    row = extent.row(number)
    assert row.value is not None
    assert rows.split_pair(row.key) == (number, extent.offset)
    assert rows.decode_extent(extent.offset, row.value) == extent
    live = None if extent.address is None else (extent.address.segment, extent.length)
    assert rows.segment_of(row.value) == live


@given(u64, u64, u64, u64, names)
def test_names_come_back(directory: int, number: int, kind: int, cookie: int, name: bytes) -> None:
    dentry = Dentry(number, kind, cookie)
    row = dentry.row(directory, name)
    assert row.value is not None
    assert (rows.split_key(row.key), row.key[8:]) == (directory, name)
    assert rows.decode_dentry(row.value) == dentry
    entry = Cookie(name, number, kind)
    row = entry.row(directory, cookie)
    assert row.value is not None
    assert rows.split_pair(row.key) == (directory, cookie)
    assert rows.decode_cookie(row.value) == entry


@given(st.lists(u64, min_size=5, max_size=5), st.binary(max_size=300))
def test_the_small_values_come_back(numbers: list[int], content: bytes) -> None:
    place = Place(*numbers)
    assert rows.decode_place(place.encode()) == place
    reap = Reap(min(numbers), max(numbers))
    value = reap.row(1).value
    assert value is not None and rows.decode_reap(value) == reap
    assert rows.decode_number(rows.encode_number(numbers[0])) == numbers[0]
    assert rows.decode_bytes(rows.encode_bytes(content)) == content


DECODERS: list[Callable[[bytes], Any]] = [
    lambda value: rows.decode_inode(7, value),
    lambda value: rows.decode_extent(4096, value),
    rows.decode_dentry,
    rows.decode_cookie,
    rows.decode_place,
    rows.decode_reap,
    rows.decode_number,
    rows.decode_bytes,
    rows.segment_of,
    rows.split_key,
    rows.split_pair,
]
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.floats(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.integers(0, 9), inner),
    max_leaves=30,
)


@given(st.binary(max_size=200) | plain.map(msgpack.packb))
def test_any_bytes_are_a_value_or_an_integrity_error(content: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(content)
        except IntegrityError:
            pass


@given(inodes | extents(), st.data())
def test_a_mutated_value_is_a_value_or_an_integrity_error(
    value: Inode | Extent, data: st.DataObject
) -> None:
    encoded = (value.row() if isinstance(value, Inode) else value.row(3)).value
    assert encoded is not None
    bent = bytearray(encoded)
    bent[data.draw(st.integers(0, len(bent) - 1))] = data.draw(st.integers(0, 255))
    cut = bent[: data.draw(st.integers(0, len(bent)))]
    for decode in DECODERS[:2]:
        for content in (bytes(bent), bytes(cut), bytes(bent) + b"\0"):
            try:
                decode(content)
            except IntegrityError:
                pass


@pytest.mark.parametrize(
    "fields",
    [
        (0,),
        (-5,),
        (SIZE_MAX,),
        (True,),
        (5, 1, 2, 4, 0),
        (5, 1, 2, 9, 5),
        (0, 1, 2, 9, 5),
        (5, -1, 2, 9, 0),
        (5, 1, 2, 9),
        (),
    ],
)
def test_an_extent_outside_of_its_limits_is_refused(fields: tuple[int, ...]) -> None:
    with pytest.raises(IntegrityError):
        rows.decode_extent(1, msgpack.packb(fields))


@given(st.lists(st.tuples(u64, u64), min_size=2, max_size=2), names, names)
def test_keys_sort_as_their_numbers_do(
    pairs: list[tuple[int, int]], name: bytes, other: bytes
) -> None:
    one, two = pairs
    assert (rows.key_pair(*one) < rows.key_pair(*two)) == (one < two)
    assert (rows.key_named(one[0], name) < rows.key_named(two[0], other)) == (
        (one[0], name) < (two[0], other)
    )


@given(st.sampled_from(Table), st.binary(max_size=50), st.binary(max_size=100), st.data())
def test_a_stored_value_verifies_for_its_own_key_and_table_only(
    table: Table, key: bytes, value: bytes, data: st.DataObject
) -> None:
    stored = sealed(table, key, value)
    assert checked(table, key, stored) == value
    bent = bytearray(stored)
    bent[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    other = Table.INODE if table != Table.INODE else Table.EXTENT
    for wrong in (
        lambda: checked(table, key, bytes(bent)),
        lambda: checked(other, key, stored),
        lambda: checked(table, key + b"x", stored),
        lambda: checked(table, key, stored[:3]),
    ):
        with pytest.raises(IntegrityError):
            wrong()


INODE = Inode(7, 0o100644, 1, 1000, 100, 0, 5, 5, 1, 2, -3)
EXTENT = Extent(4096, 5, Address(3, 96, 10, 5))


@pytest.mark.parametrize(
    ("encoded", "golden"),
    [
        (INODE.row().key, "0000000000000007"),
        (INODE.row().value, "9ecd81a401cd03e8640005050102fd000000c400"),
        (EXTENT.row(7).key, "00000000000000070000000000001000"),
        (EXTENT.row(7).value, "950503600a05"),
        (EXTENT._replace(address=None).row(7).value, "9105"),
        (Dentry(7, 0o100000, 8).row(1, b"name").key, "00000000000000016e616d65"),
        (Dentry(7, 0o100000, 8).row(1, b"name").value, "9307cd800008"),
        (Cookie(b"name", 7, 0o100000).row(1, 8).value, "93c4046e616d6507cd8000"),
        (Place(1, 2, 3, 4, 5).encode(), "950102030405"),
        (Reap(1, 2).row(7).value, "920102"),
        (rows.encode_number(300), "91cd012c"),
        (rows.encode_bytes(b"v"), "91c40176"),
        (sealed(Table.REAP, b"key", b"value"), "ec934b3f76616c7565"),
    ],
)
def test_the_bytes_are_those_of_the_format(encoded: bytes, golden: str) -> None:
    assert encoded.hex() == golden
