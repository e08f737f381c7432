"""The other ways to a file's bytes: O_DIRECT, O_SYNC, shared mmap, sendfile, copy_file_range.

Each is checked against plain read and write of the same file.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from tests.posix.calls import in_child, write_file
from tests.posix.test_data import pattern

PAGE = 4096


def drop_cache(path: Path) -> None:
    """Write `path` back and forget its pages, so that the next read is a real one."""
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def aligned(content: bytes) -> mmap.mmap:
    """A page-aligned buffer with `content`."""
    buffer = mmap.mmap(-1, max(len(content), PAGE))
    buffer[: len(content)] = content
    return buffer


@pytest.mark.parametrize("flags", [os.O_SYNC, os.O_DSYNC, os.O_DIRECT, os.O_DIRECT | os.O_SYNC])
def test_special_writes_arrive_in_order(place: Path, flags: int) -> None:
    descriptor = os.open(place / "file", os.O_CREAT | os.O_RDWR | flags)
    blocks = [pattern(size, size) for size in (PAGE, 16 * PAGE, 256 * PAGE)]
    try:
        for block in blocks:
            with aligned(block) as buffer:
                assert os.write(descriptor, buffer) == len(block)
    finally:
        os.close(descriptor)
    assert (place / "file").read_bytes() == b"".join(blocks)


def test_direct_reads_see_buffered_writes_and_the_other_way_round(place: Path) -> None:
    path = write_file(place / "file", pattern(8 * PAGE))
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    plain = os.open(path, os.O_RDWR)
    try:
        os.pwrite(plain, b"buffered", PAGE)
        with mmap.mmap(-1, PAGE) as buffer:
            assert os.preadv(direct, [buffer], PAGE) == PAGE
            assert buffer[:8] == b"buffered"
        with aligned(b"direct" + bytes(PAGE - 6)) as buffer:
            assert os.pwritev(direct, [buffer], 2 * PAGE) == PAGE
        assert os.pread(plain, 6, 2 * PAGE) == b"direct"
    finally:
        os.close(direct)
        os.close(plain)


def test_a_direct_read_ends_at_the_end_of_the_file(place: Path) -> None:
    path = write_file(place / "file", pattern(PAGE + 100))
    drop_cache(path)
    direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4 * PAGE) as buffer:
            assert os.preadv(direct, [buffer], 0) == PAGE + 100
            assert buffer[: PAGE + 100] == pattern(PAGE + 100)
            assert os.preadv(direct, [buffer], 2 * PAGE) == 0
    finally:
        os.close(direct)


def test_direct_writes_leave_holes_and_grow_the_file(place: Path) -> None:
    direct = os.open(place / "file", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    try:
        with aligned(pattern(PAGE)) as buffer:
            os.pwritev(direct, [buffer], 4 * PAGE)
    finally:
        os.close(direct)
    assert (place / "file").read_bytes() == bytes(4 * PAGE) + pattern(PAGE)


def test_a_shared_mapping_and_plain_calls_see_each_other(place: Path) -> None:
    path = write_file(place / "file", pattern(3 * PAGE))
    with open(path, "r+b", buffering=0) as stream, mmap.mmap(stream.fileno(), 0) as memory:
        assert memory[:] == pattern(3 * PAGE)
        os.pwrite(stream.fileno(), b"written", PAGE - 3)
        assert memory[PAGE - 3 : PAGE + 4] == b"written"
        memory[2 * PAGE - 3 : 2 * PAGE + 3] = b"mapped"
        assert os.pread(stream.fileno(), 6, 2 * PAGE - 3) == b"mapped"
    drop_cache(path)
    content = path.read_bytes()
    assert content[PAGE - 3 : PAGE + 4] == b"written"
    assert content[2 * PAGE - 3 : 2 * PAGE + 3] == b"mapped"


def test_a_mapping_written_after_close_is_kept_by_msync(place: Path) -> None:
    path = write_file(place / "file", bytes(2 * PAGE))
    descriptor = os.open(path, os.O_RDWR)
    memory = mmap.mmap(descriptor, 2 * PAGE)
    os.close(descriptor)
    memory[PAGE : PAGE + 7] = b"content"
    memory.flush()
    drop_cache(path)
    assert path.read_bytes() == bytes(PAGE) + b"content" + bytes(PAGE - 7)
    memory[0:3] = b"new"
    memory.close()
    assert path.read_bytes()[:3] == b"new"


def test_two_processes_share_a_mapping(place: Path) -> None:
    path = write_file(place / "file", bytes(PAGE))
    with open(path, "r+b") as stream, mmap.mmap(stream.fileno(), 0) as memory:

        def write_there() -> None:
            with open(path, "r+b") as mine, mmap.mmap(mine.fileno(), 0) as theirs:
                theirs[100:105] = b"hello"

        in_child(write_there)
        assert memory[100:105] == b"hello"


def test_a_private_mapping_keeps_its_changes(place: Path) -> None:
    path = write_file(place / "file", b"content")
    with open(path, "rb") as stream:
        memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        memory[:3] = b"NEW"
        assert memory[:] == b"NEWtent"
        memory.close()
    assert path.read_bytes() == b"content"


def test_bytes_written_behind_the_end_through_a_mapping_are_not_kept(place: Path) -> None:
    path = write_file(place / "file", b"content")
    with open(path, "r+b") as stream, mmap.mmap(stream.fileno(), 7) as memory:
        memory[:7] = b"CONTENT"
        memory.flush()
    os.truncate(path, PAGE)
    assert path.read_bytes() == b"CONTENT" + bytes(PAGE - 7)


def test_a_mapping_of_a_cut_page_shows_zeros(place: Path) -> None:
    path = write_file(place / "file", b"x" * PAGE)
    with open(path, "r+b") as stream, mmap.mmap(stream.fileno(), PAGE) as memory:
        os.truncate(path, 10)
        os.truncate(path, PAGE)
        assert memory[:] == b"x" * 10 + bytes(PAGE - 10)


@pytest.mark.parametrize("size", [0, 1, PAGE + 1, 1 << 20])
def test_sendfile_copies(place: Path, size: int) -> None:
    path = write_file(place / "source", pattern(size))
    drop_cache(path)
    with open(path, "rb") as source, open(place / "target", "wb") as target:
        done = 0
        while copied := os.sendfile(target.fileno(), source.fileno(), done, 1 << 20):
            done += copied
    assert (place / "target").read_bytes() == pattern(size)


@pytest.mark.parametrize(("start", "to"), [(0, 0), (5, 0), (PAGE, 3), (1, 1 << 20)])
def test_copy_file_range_copies(place: Path, start: int, to: int) -> None:
    content = pattern(300_000)
    write_file(place / "source", content)
    with open(place / "source", "rb") as source, open(place / "target", "w+b") as target:
        done = 0
        while start + done < len(content):
            copied = os.copy_file_range(
                source.fileno(), target.fileno(), 1 << 20, start + done, to + done
            )
            assert copied > 0
            done += copied
    assert (place / "target").read_bytes() == bytes(to) + content[start:]


def test_copy_file_range_within_a_file_refuses_overlap(place: Path) -> None:
    path = write_file(place / "file", pattern(2 * PAGE))
    with open(path, "r+b") as stream:
        descriptor = stream.fileno()
        assert os.copy_file_range(descriptor, descriptor, 100, 0, PAGE) == 100
        try:
            os.copy_file_range(descriptor, descriptor, 100, 0, 50)
        except OSError as error:
            assert error.errno == errno.EINVAL
        else:
            raise AssertionError("an overlapping copy was accepted")
    content = path.read_bytes()
    assert content[PAGE : PAGE + 100] == content[:100]


def test_splice_carries_pages_through_a_pipe(place: Path) -> None:
    write_file(place / "source", pattern(PAGE * 4))
    reader, writer = os.pipe()
    with open(place / "source", "rb") as source, open(place / "target", "wb") as target:
        done = 0
        while moved := os.splice(source.fileno(), writer, PAGE):
            assert os.splice(reader, target.fileno(), moved, offset_dst=done) == moved
            done += moved
    os.close(reader)
    os.close(writer)
    assert (place / "target").read_bytes() == pattern(PAGE * 4)
