"""Payloads of the journal and superblocks: round trips, hostile bytes, golden vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from shmr.errors import IntegrityError
from shmr.format import records, superblock
from shmr.format.records import Commit, DataEnd, Drop, Opening
from shmr.format.rows import TRUTH, Place, Row, decode_place
from shmr.format.superblock import Superblock

u64 = st.integers(0, 2**64 - 1)
ids = st.binary(min_size=16, max_size=16)
changes = st.builds(
    Row,
    st.sampled_from([int(table) for table in TRUTH]),
    st.binary(min_size=1, max_size=263),
    st.none() | st.binary(max_size=80),
)
drops = st.tuples(u64, u64, u64).map(lambda n: Drop(n[0], min(n[1:]), max(n[1:])))
ends = st.tuples(u64, u64, u64, u64, u64).map(
    lambda n: DataEnd(n[0], max(n[1], n[3]), n[2], min(n[1], n[3]), n[4])
)


@given(ids, st.sampled_from((1, 2, 3)), st.lists(u64, min_size=5, max_size=5))
def test_an_opening_comes_back(filesystem: bytes, stream: int, numbers: list[int]) -> None:
    opening = Opening(filesystem, stream, *numbers)
    assert records.decode_opening(opening.encode()) == opening


@given(st.lists(drops, max_size=5), st.lists(changes, max_size=20))
def test_a_batch_of_rows_comes_back(some: list[Drop], rows: list[Row]) -> None:
    assert records.decode_meta(records.encode_meta(some, rows)) == (tuple(some), tuple(rows))


@given(u64, u64, u64, st.lists(ends, max_size=5))
def test_a_commit_comes_back(durable: int, number: int, now: int, some: list[DataEnd]) -> None:
    commit = Commit(durable, number, now, tuple(some))
    assert records.decode_commit(commit.encode()) == commit


@given(st.lists(u64, min_size=5, max_size=5))
def test_the_end_of_a_snapshot_is_a_place(numbers: list[int]) -> None:
    assert decode_place(records.snapshot_end(Place(*numbers))) == Place(*numbers)


@given(ids, ids, ids, st.binary(max_size=40), st.binary(max_size=40), st.data())
def test_a_superblock_comes_back(
    filesystem: bytes, pool: bytes, drive: bytes, name: bytes, other: bytes, data: st.DataObject
) -> None:
    numbers = data.draw(st.lists(u64, min_size=5, max_size=5))
    members = (*data.draw(st.lists(ids, max_size=5)), drive)
    block = Superblock(filesystem, name, pool, other, drive, *numbers, members)
    encoded = block.encode()
    assert superblock.decode(encoded) == block
    assert superblock.decode(encoded + bytes(100)) == block
    bent = bytearray(encoded)
    bent[data.draw(st.integers(0, len(bent) - 1))] ^= data.draw(st.integers(1, 255))
    for content in (bytes(bent), encoded[: data.draw(st.integers(0, len(encoded) - 1))]):
        with pytest.raises(IntegrityError):
            superblock.decode(content)


def disguised(payload: bytes) -> bytes:
    """A superblock with a checksum that is right, whatever the payload is."""
    rest = len(payload).to_bytes(4, "little") + b"\x01\0\0\0" + bytes(4) + payload
    return superblock.MAGIC + crc32c(rest).to_bytes(4, "little") + rest


DECODERS: list[Callable[[bytes], Any]] = [
    records.decode_opening,
    records.decode_meta,
    records.decode_commit,
    superblock.decode,
    lambda content: superblock.decode(disguised(content)),
]
plain = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.floats(),
    lambda inner: st.lists(inner, max_size=12),
    max_leaves=30,
)


@given(st.binary(max_size=200) | plain.map(msgpack.packb))
def test_any_bytes_are_a_value_or_an_integrity_error(content: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(content)
        except IntegrityError:
            pass


@given(st.lists(drops, max_size=3), st.lists(changes, max_size=3), st.data())
def test_a_mutated_batch_is_a_value_or_an_integrity_error(
    some: list[Drop], rows: list[Row], data: st.DataObject
) -> None:
    bent = bytearray(records.encode_meta(some, rows))
    bent[data.draw(st.integers(0, len(bent) - 1))] = data.draw(st.integers(0, 255))
    try:
        records.decode_meta(bytes(bent))
    except IntegrityError:
        pass


@pytest.mark.parametrize(
    "batch",
    [
        [[], [[16, b"k", b"v"]]],
        [[], [[1, b"", b"v"]]],
        [[], [[1, b"k" * 264, b"v"]]],
        [[], [[1, b"k"]]],
        [[], [[1, b"k", 5]]],
        [[[1, 5, 4]], []],
        [[[-1, 0, 4]], []],
        [[[1, 0]], []],
        [[]],
        [[], [], []],
    ],
)
def test_a_batch_outside_of_its_limits_is_refused(batch: list[Any]) -> None:
    with pytest.raises(IntegrityError):
        records.decode_meta(msgpack.packb(batch))


def test_a_list_that_claims_a_billion_entries_asks_for_no_memory() -> None:
    for decode in DECODERS:
        with pytest.raises(IntegrityError):
            decode(b"\xdd\x40\x00\x00\x00")


BLOCK = Superblock(
    bytes(range(16)),
    b"media",
    bytes(range(16, 32)),
    b"ssd0",
    bytes(range(32, 48)),
    1,
    0,
    0,
    0,
    1_700_000_000_000_000_000,
    (bytes(range(32, 48)),),
)


@pytest.mark.parametrize(
    ("encoded", "golden"),
    [
        (
            BLOCK.encode(),
            "73686d7264727631255f7b716400000001000000000000009bc41000010203040506"
            "0708090a0b0c0d0e0fc4056d65646961c410101112131415161718191a1b1c1d1e1f"
            "c40473736430c410202122232425262728292a2b2c2d2e2f01000000cf17979cfe36"
            "2a000091c410202122232425262728292a2b2c2d2e2f",
        ),
        (
            records.encode_meta([Drop(7, 0, 4096)], [Row(1, b"k", b"v"), Row(3, b"k", None)]),
            "9291930700cd1000929301c4016bc401769303c4016bc0",
        ),
        (Commit(1, 2, 3, (DataEnd(4, 600, 5, 96, 6),)).encode(), "94010203919504cd0258056006"),
        (
            Opening(bytes(16), 2, 65536, 1, 7, 8, 9).encode(),
            "97c410" + 16 * "00" + "02ce0001000001070809",
        ),
    ],
    ids=["superblock", "meta", "commit", "opening"],
)
def test_the_bytes_are_those_of_the_format(encoded: bytes, golden: str) -> None:
    assert encoded.hex() == golden
