"""File content: read, write, append, positions, truncate both ways, holes, limits of size."""

from __future__ import annotations

import errno
import os
import resource
import time
from pathlib import Path

import pytest

from tests.posix.calls import in_child, refused, write_file

PAGE = 4096
SIZES = [0, 1, 511, PAGE - 1, PAGE, PAGE + 1, 65_535, 128 * 1024 + 1, (1 << 20) + 13]


def pattern(size: int, seed: int = 1) -> bytes:
    """`size` bytes that differ from place to place and from seed to seed."""
    word = b"".join(((seed * 7919 + n) & 0xFFFFFFFF).to_bytes(4, "little") for n in range(1021))
    return (word * (size // len(word) + 1))[:size]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("durable", [False, True])
def test_what_was_written_is_read(place: Path, size: int, durable: bool) -> None:
    content = pattern(size)
    with open(place / "file", "xb", buffering=0) as stream:
        assert stream.write(content) == size
        if durable:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.stat(place / "file").st_size == size
    assert (place / "file").read_bytes() == content


def test_reading_at_and_beyond_the_end(place: Path) -> None:
    path = write_file(place / "file", b"content")
    with open(path, "rb", buffering=0) as stream:
        assert os.pread(stream.fileno(), 100, 3) == b"tent"
        assert os.pread(stream.fileno(), 100, 7) == b""
        assert os.pread(stream.fileno(), 100, 1 << 40) == b""
        with refused(errno.EINVAL):
            os.pread(stream.fileno(), 1, -1)


def test_positioned_calls_leave_the_position(place: Path) -> None:
    path = write_file(place / "file", b"0123456789")
    with open(path, "r+b", buffering=0) as stream:
        stream.seek(5)
        os.pwrite(stream.fileno(), b"AB", 1)
        assert os.pread(stream.fileno(), 4, 0) == b"0AB3"
        assert stream.tell() == 5
        assert stream.read(2) == b"56"


def test_vectors_are_written_and_read_in_one_go(place: Path) -> None:
    with open(place / "file", "w+b", buffering=0) as stream:
        parts = [pattern(size, size) for size in (1, 4095, 4097, 10)]
        assert os.pwritev(stream.fileno(), parts, 3) == 8203
        buffers = [bytearray(100), bytearray(8200)]
        assert os.preadv(stream.fileno(), buffers, 3) == 8203
        assert bytes(buffers[0] + buffers[1])[:8203] == b"".join(parts)


def test_descriptors_are_checked_for_their_direction(place: Path) -> None:
    path = write_file(place / "file", b"content")
    reader = os.open(path, os.O_RDONLY)
    writer = os.open(path, os.O_WRONLY)
    try:
        with refused(errno.EBADF):
            os.write(reader, b"x")
        with refused(errno.EBADF):
            os.read(writer, 1)
        with refused(errno.EINVAL):
            os.ftruncate(reader, 0)
        with refused(errno.EISDIR):
            descriptor = os.open(place, os.O_RDONLY)
            try:
                os.read(descriptor, 1)
            finally:
                os.close(descriptor)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("offset", [1, PAGE - 1, PAGE, 3 * PAGE + 5, 1 << 20, (1 << 32) + 7])
def test_a_gap_reads_as_zeros(place: Path, offset: int) -> None:
    with open(place / "file", "w+b", buffering=0) as stream:
        os.pwrite(stream.fileno(), b"head", 0)
        os.pwrite(stream.fileno(), b"tail", offset + 4)
        os.fsync(stream.fileno())
        assert os.fstat(stream.fileno()).st_size == offset + 8
        assert os.pread(stream.fileno(), 4, 0) == b"head"
        assert os.pread(stream.fileno(), 4, offset + 4) == b"tail"
        start = max(4, offset + 4 - 3 * PAGE)
        assert os.pread(stream.fileno(), offset + 4 - start, start) == bytes(offset + 4 - start)


@pytest.mark.parametrize("offset", [(1 << 31) - 2, (1 << 32) - 2, 1 << 40, (1 << 43) + 1])
def test_a_sparse_file_of_any_size_holds_what_was_written(place: Path, offset: int) -> None:
    with open(place / "file", "w+b", buffering=0) as stream:
        os.pwrite(stream.fileno(), b"content", offset)
        os.fsync(stream.fileno())
        state = os.fstat(stream.fileno())
        assert state.st_size == offset + 7
        assert state.st_blocks * 512 <= 1 << 20
        assert os.pread(stream.fileno(), 20, offset - 3) == b"\0\0\0content"
        assert os.pread(stream.fileno(), PAGE, 0) == bytes(PAGE)
        os.ftruncate(stream.fileno(), offset + 3)
        assert os.pread(stream.fileno(), 20, offset - 3) == b"\0\0\0con"


@pytest.mark.parametrize("size", [1 << 40, 1 << 43, 999_999_999_999_999])
def test_a_file_can_be_one_great_hole(place: Path, size: int) -> None:
    path = write_file(place / "file")
    try:
        os.truncate(path, size)
    except OSError as error:
        assert error.errno == errno.EFBIG
        assert size > 1 << 43
        assert os.stat(path).st_size == 0
        return
    with open(path, "rb", buffering=0) as stream:
        assert os.pread(stream.fileno(), PAGE, size - 100) == bytes(100)
    assert os.stat(path).st_blocks * 512 <= 1 << 20


@pytest.mark.parametrize("size", [1 << 45, 1 << 50, 1 << 60, (1 << 63) - 1])
def test_a_size_is_possible_or_too_big(place: Path, size: int) -> None:
    path = write_file(place / "file", b"content")
    try:
        os.truncate(path, size)
    except OSError as error:
        assert error.errno == errno.EFBIG
        assert path.read_bytes() == b"content"
    else:
        assert os.stat(path).st_size == size
    with open(path, "r+b", buffering=0) as stream:
        try:
            written = os.pwrite(stream.fileno(), b"x", size - 1)
        except OSError as error:
            assert error.errno in (errno.EFBIG, errno.ENOSPC)
        else:
            os.fsync(stream.fileno())
            assert written == 1
            assert os.fstat(stream.fileno()).st_size == size
    os.truncate(path, 7)
    assert path.read_bytes() == b"content"


def test_offsets_and_sizes_below_zero_or_beyond_all_are_invalid(place: Path) -> None:
    path = write_file(place / "file", b"content")
    with refused(errno.EINVAL):
        os.truncate(path, -1)
    with open(path, "r+b", buffering=0) as stream:
        with refused(errno.EINVAL, errno.EFBIG):
            os.pwrite(stream.fileno(), b"xx", (1 << 63) - 1)
        with refused(errno.EINVAL):
            os.pwrite(stream.fileno(), b"xx", -1)
        with refused(errno.EINVAL):
            os.lseek(stream.fileno(), -1, os.SEEK_SET)
    assert path.read_bytes() == b"content"


def test_the_limit_of_the_process_is_kept(place: Path) -> None:
    path = write_file(place / "file")

    def write_too_much() -> tuple[int, int]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with open(path, "r+b", buffering=0) as stream:
            written = stream.write(bytes(20_000)) or 0
            with refused(errno.EFBIG):
                stream.write(b"x")
            with refused(errno.EFBIG):
                os.ftruncate(stream.fileno(), 10_001)
            return written, os.fstat(stream.fileno()).st_size

    assert in_child(write_too_much) == (10_000, 10_000)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 5])
@pytest.mark.parametrize("grown", [PAGE, 2 * PAGE + 50, 5 * PAGE])
def test_what_was_cut_off_comes_back_as_zeros(
    place: Path, cut: int, grown: int, durable: bool
) -> None:
    content = pattern(4 * PAGE)
    with open(place / "file", "w+b", buffering=0) as stream:
        stream.write(content)
        for size in (cut, grown):
            if durable:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.ftruncate(stream.fileno(), size)
    wanted = content[: min(cut, grown)]
    assert (place / "file").read_bytes() == wanted + bytes(grown - len(wanted))


def test_a_write_beyond_a_cut_end_leaves_zeros_between(place: Path) -> None:
    with open(place / "file", "w+b", buffering=0) as stream:
        stream.write(b"x" * (2 * PAGE))
        os.ftruncate(stream.fileno(), 10)
        os.pwrite(stream.fileno(), b"end", PAGE - 3)
    assert (place / "file").read_bytes() == b"x" * 10 + bytes(PAGE - 13) + b"end"


def test_truncate_refuses(place: Path) -> None:
    (place / "directory").mkdir()
    (place / "loop").symlink_to("loop")
    os.mkfifo(place / "fifo")
    for name, number in [
        ("directory", errno.EISDIR),
        ("missing", errno.ENOENT),
        ("loop", errno.ELOOP),
        ("fifo", errno.EINVAL),
    ]:
        with refused(number):
            os.truncate(place / name, 0)


def test_appending_goes_to_the_end_wherever_the_position_is(place: Path) -> None:
    path = write_file(place / "file", b"start ")
    first = os.open(path, os.O_RDWR | os.O_APPEND)
    second = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(first, b"one ")
        os.write(second, b"two ")
        os.lseek(first, 0, os.SEEK_SET)
        os.write(first, b"three")
        assert os.lseek(first, 0, os.SEEK_CUR) == 19
        assert os.pread(first, 100, 0) == b"start one two three"
    finally:
        os.close(first)
        os.close(second)


def test_records_appended_by_several_processes_stay_whole(place: Path) -> None:
    path = write_file(place / "file")
    children = []
    for writer in range(4):
        child = os.fork()
        if child == 0:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            for index in range(150):
                os.write(descriptor, b"%d:%04d" % (writer, index) + b"." * 93 + b"\n")
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    records = path.read_bytes().splitlines()
    assert len(records) == 600
    for writer in range(4):
        mine = [record[2:6] for record in records if record.startswith(b"%d:" % writer)]
        assert mine == [b"%04d" % index for index in range(150)]


def test_blocks_tell_what_is_allocated(place: Path) -> None:
    # Asked when the file is closed: of an open one, a FUSE kernel may tell what was a second ago.
    path = place / "file"
    path.write_bytes(pattern(1 << 20))
    full = os.stat(path)
    os.truncate(path, 1 << 19)
    half = os.stat(path)
    os.truncate(path, 0)
    empty = os.stat(path)
    assert 1 << 20 <= full.st_blocks * 512 <= (1 << 20) + (1 << 17)
    assert 1 << 19 <= half.st_blocks * 512 <= (1 << 19) + (1 << 17)
    assert empty.st_blocks * 512 <= PAGE
    assert full.st_blksize >= 512


def test_seeking_data_and_holes_tells_no_data_for_a_hole(place: Path) -> None:
    with open(place / "file", "w+b", buffering=0) as stream:
        descriptor = stream.fileno()
        os.pwrite(descriptor, pattern(1 << 16), 1 << 20)
        os.ftruncate(descriptor, 1 << 22)
        os.fsync(descriptor)
        data = os.lseek(descriptor, 0, os.SEEK_DATA)
        assert 0 <= data <= 1 << 20
        hole = os.lseek(descriptor, 1 << 20, os.SEEK_HOLE)
        assert (1 << 20) + (1 << 16) <= hole <= 1 << 22
        with refused(errno.ENXIO):
            os.lseek(descriptor, 1 << 22, os.SEEK_DATA)
        with refused(errno.ENXIO):
            os.lseek(descriptor, 1 << 23, os.SEEK_HOLE)


def test_posix_fallocate_makes_room_and_keeps_the_content(place: Path) -> None:
    with open(place / "file", "w+b", buffering=0) as stream:
        stream.write(b"content")
        os.posix_fallocate(stream.fileno(), 0, 100_000)
        assert os.fstat(stream.fileno()).st_size == 100_000
        assert os.pread(stream.fileno(), 100_000, 0) == b"content" + bytes(99_993)


def test_a_listing_does_not_fix_the_space_that_an_open_file_takes(place: Path) -> None:
    with open(place / "file", "w+b", buffering=0) as stream:
        stream.write(b"x")
        os.fsync(stream.fileno())
        assert [entry.stat().st_size for entry in os.scandir(place)] == [1]
        os.pwrite(stream.fileno(), bytes(1 << 20), 0)
        os.fsync(stream.fileno())
        # FUSE: the kernel asks anew for an open file's attributes after a second.
        until = time.monotonic() + 5
        while os.fstat(stream.fileno()).st_blocks < 2048 and time.monotonic() < until:
            pass
        assert os.fstat(stream.fileno()).st_blocks >= 2048
