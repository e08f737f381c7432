"""Replies as bytes: what the kernel will read in them, and that any row can be told."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from shmr.format.rows import Inode
from shmr.fuse import protocol

NUMBERS = st.integers(0, 2**64 - 1)
TIMES = st.integers(-(2**63), 2**63 - 1)
INODES = st.builds(
    Inode,
    number=st.integers(1, 2**61),
    mode=st.integers(0, 0o177777),
    links=st.integers(0, 2**40),
    uid=st.integers(0, 2**40),
    gid=st.integers(0, 2**40),
    rdev=NUMBERS,
    size=NUMBERS,
    allocated=NUMBERS,
    atime_ns=TIMES,
    mtime_ns=TIMES,
    ctime_ns=TIMES,
    entries=NUMBERS,
    next_cookie=NUMBERS,
    parent=NUMBERS,
    target=st.binary(max_size=10),
)
EXAMPLE = Inode(
    7, 0o100644, 1, 1000, 100, 0, 5000, 4096, -1, 2_000_000_001, 3_000_000_002, 0, 0, 0, b""
)


@given(INODES)
def test_any_inode_can_be_told(inode: Inode) -> None:
    assert len(protocol.entry(inode, 1, 1)) == 128
    assert len(protocol.attributes(inode, 1)) == 104
    assert len(protocol.dirent_plus(b"name", inode, 3, 1, 1)) == 128 + 24 + 8


def test_attributes_stand_where_the_kernel_reads_them() -> None:
    told = protocol.attributes(EXAMPLE, 9)
    assert struct.unpack_from("<QII", told) == (9, 0, 0)
    assert struct.unpack_from("<QQQ", told, 16) == (7, 5000, 8)
    assert struct.unpack_from("<qqq", told, 40) == (-1, 2, 3)
    assert struct.unpack_from("<III", told, 64) == (999_999_999, 1, 2)
    assert struct.unpack_from("<IIIIIII", told, 76) == (0o100644, 1, 1000, 100, 0, 4096, 0)


def test_an_entry_is_its_node_its_validity_and_its_attributes() -> None:
    told = protocol.entry(EXAMPLE, 11, 22)
    assert struct.unpack_from("<QQQQII", told) == (7, 0, 11, 22, 0, 0)
    assert told[40:] == protocol.attributes(EXAMPLE, 22)[16:]
    assert struct.unpack_from("<QQQ", protocol.no_entry(33)) == (0, 0, 33)


@given(st.binary(min_size=1, max_size=255))
def test_entries_of_a_directory_are_multiples_of_eight(name: bytes) -> None:
    told = protocol.dirent(name, 7, 0o040755, 12)
    assert len(told) % 8 == 0
    assert struct.unpack_from("<QQII", told) == (7, 12, len(name), 4)
    assert told[24:].rstrip(b"\0") == name.rstrip(b"\0")


def test_statistics_never_leave_their_fields() -> None:
    told = protocol.statistics(
        block_size=2**40, blocks=2**70, free=-5, available=3, files=4, files_free=5
    )
    assert struct.unpack_from("<QQQQQIII", told) == (
        2**64 - 1, 0, 3, 4, 5, 2**32 - 1, 255, 2**32 - 1,
    )  # fmt: skip
