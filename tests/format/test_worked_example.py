"""The example in FORMAT.md is what the code writes: read out of the page, decoded, encoded again.

A change of the format fails here first: then the page, the version and the example change together.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

import shmr.format
from shmr.catalog.checksum import checked, sealed
from shmr.errors import IntegrityError
from shmr.format import frame, records, superblock
from shmr.format.frame import FrameHeader, Kind
from shmr.format.records import Commit, DataEnd, Meta, Opening, Stream
from shmr.format.rows import (
    Address,
    Dentry,
    Extent,
    Inode,
    Row,
    Table,
    decode_dentry,
    decode_extent,
    decode_inode,
    decode_number,
    encode_number,
    key_named,
    split_pair,
)
from shmr.format.superblock import Superblock

PAGE = (Path(shmr.format.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
FILESYSTEM = bytes(range(16))
SHORT_ID = int.from_bytes(FILESYSTEM[:8], "little")
DRIVE = bytes(range(48, 64))
TIME_NS = 1_700_000_000_000_000_000
CONTENT = b"hello, world\n"
JOURNAL, DATA = "journal-000000000001", "data-000000000002"

Frames = list[tuple[int, FrameHeader, bytes]]


def dump(name: str) -> bytes:
    """The bytes of the dump under `name`, checked against the size and offsets that it states."""
    found = re.search(rf"`{name}`, (\d+) bytes:\n\n```hex\n(.*?)\n```", PAGE, re.S)
    assert found is not None, f"FORMAT.md has no dump of {name}"
    content = b""
    for line in found[2].splitlines():
        offset, _, rest = line.partition("  ")
        assert int(offset, 16) == len(content), line
        content += bytes.fromhex(rest.partition("|")[0])
    assert len(content) == int(found[1])
    return content


def frames(content: bytes) -> Frames:
    """(offset, header, payload) of every frame, each verified and chained to the one before."""
    result: Frames = []
    at = chain = 0
    while at < len(content):
        header = frame.decode(content[at:])
        start = at + frame.header_size(header.length)
        payload = content[start : start + header.length]
        frame.verify(header, payload)
        assert header.previous == chain
        assert header.filesystem == SHORT_ID
        assert header.sequence == len(result)
        result.append((at, header, payload))
        chain = header.checksum
        at += frame.frame_size(header.length)
    assert at == len(content)
    return result


def test_the_superblock_says_who_the_drive_is() -> None:
    expected = Superblock(
        filesystem=FILESYSTEM,
        filesystem_name=b"example",
        pool=bytes(range(32, 48)),
        pool_name=b"ssd0",
        drive=DRIVE,
        generation=1,
        compat=0,
        ro_compat=0,
        incompat=0,
        created_ns=TIME_NS,
        members=(DRIVE,),
    )
    assert superblock.decode(dump("superblock-000001")) == expected
    assert expected.encode() == dump("superblock-000001")


@pytest.mark.parametrize(
    ("name", "number", "stream", "size_bytes", "kinds"),
    [
        (JOURNAL, 1, Stream.JOURNAL, 2**18, [Kind.SEGMENT, Kind.META, Kind.COMMIT]),
        (DATA, 2, Stream.DATA, 2**20, [Kind.SEGMENT, Kind.DATA]),
    ],
)
def test_a_segment_begins_with_what_it_is(
    name: str, number: int, stream: Stream, size_bytes: int, kinds: list[Kind]
) -> None:
    found = frames(dump(name))
    assert [header.kind for _, header, _ in found] == kinds
    assert {header.segment for _, header, _ in found} == {number}
    opening = Opening(FILESYSTEM, stream, size_bytes, TIME_NS, 0, 0, 0)
    assert records.decode_opening(found[0][2]) == opening
    assert opening.encode() == found[0][2]


def test_the_data_frame_holds_the_file() -> None:
    at, header, payload = frames(dump(DATA))[1]
    assert at == 0x70
    assert dump(DATA).index(CONTENT) == 0xB8
    assert (header.owner, header.position, payload) == (2, 0, CONTENT)


def expected_rows() -> tuple[Row, ...]:
    time = TIME_NS
    root = Inode(1, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, time, time, time, 1, 9, 1)
    file = Inode(2, stat.S_IFREG | 0o644, 1, 1000, 1000, 0, 13, 13, time, time, time)
    return (
        root.row(),
        file.row(),
        Dentry(2, stat.S_IFREG, 8).row(1, b"hello"),
        Extent(0, 13, Address(2, 0x70, 13, 0)).row(2),
        Row(Table.STATE, b"next_inode", encode_number(1026)),
    )


def test_the_batch_names_the_file_and_where_its_bytes_are() -> None:
    payload = frames(dump(JOURNAL))[1][2]
    meta = records.decode_meta(payload)
    assert meta == Meta((), expected_rows())
    assert records.encode_meta(meta.drops, meta.rows) == payload
    root, file, name, extent, state = (row.value or b"" for row in meta.rows)
    assert decode_inode(1, root).entries == 1
    assert decode_inode(2, file).size == len(CONTENT)
    assert decode_dentry(name) == Dentry(2, stat.S_IFREG, 8)
    assert decode_extent(0, extent).address == Address(2, 0x70, 13, 0)
    assert split_pair(meta.rows[3].key) == (2, 0)
    assert decode_number(state) == 1026


def test_the_page_lists_the_keys_of_the_batch() -> None:
    for row in expected_rows():
        assert f"| {Table(row.table).name} | `{row.key.hex()}` |" in PAGE


def test_the_commit_says_how_far_the_data_reaches() -> None:
    data = dump(DATA)
    chain = frames(data)[1][1].checksum
    at, _, payload = frames(dump(JOURNAL))[2]
    commit = Commit(0, 3, TIME_NS + 1, (DataEnd(2, len(data), chain, 0, 0),))
    assert at == 0x178
    assert records.decode_commit(payload) == commit
    assert commit.encode() == payload


@pytest.mark.parametrize("name", [JOURNAL, DATA])
def test_the_frames_are_what_the_code_writes(name: str) -> None:
    content = b""
    for _, header, payload in frames(dump(name)):
        _, buffers = frame.encode(
            header.kind,
            header.filesystem,
            header.segment,
            header.sequence,
            header.owner,
            header.position,
            payload,
            header.previous,
        )
        content += b"".join(buffers)
    assert content == dump(name)


def test_the_catalog_stores_a_row_with_its_checksum() -> None:
    key, value = key_named(1, b"hello"), expected_rows()[2].value
    assert value is not None
    stored = dump("stored dentry")
    assert checked(Table.DENTRY, key, stored) == value
    assert sealed(Table.DENTRY, key, value) == stored


@pytest.mark.parametrize("name", ["superblock-000001", JOURNAL, DATA])
def test_any_changed_byte_of_the_example_is_noticed_or_padding(name: str) -> None:
    content = dump(name)
    unnoticed = []
    for at in range(len(content)):
        bent = bytearray(content)
        bent[at] ^= 0x10
        try:
            if name.startswith("superblock"):
                superblock.decode(bytes(bent))
            else:
                frames(bytes(bent))
        except (IntegrityError, AssertionError):
            continue
        unnoticed.append(at)
    assert all(content[at] == 0 for at in unnoticed)
    assert len(unnoticed) <= 2 * frame.ALIGNMENT
